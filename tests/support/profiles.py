"""Timing profiles made by hand, with answers that can be had in the head."""

from __future__ import annotations

from typing import Any

import numpy as np

from labkit.serve.timing import TimingProfile


def handmade_profile(**given: Any) -> TimingProfile:
    """Prefill: 10 ms and 0.1 ms a token. A step: 10 ms and 0.2 ms for each thousand tokens of active KV, at any context."""
    tokens, kv = np.array([0.0, 8192.0]), np.array([0.0, 200_000.0])
    usual: dict[str, Any] = {
        "model": "llama-3.1-8b", "gpu": "h100_sxm", "tp": 1, "prefill_tokens": tokens, "prefill_s": 0.010 + 1e-4 * tokens,
        "active_kv_tokens": kv, "context_tokens": np.array([0.0, 8192.0]),
        "itl_s": np.repeat((0.010 + 2e-7 * kv)[:, None], 2, axis=1), "gpu_bytes": 80 * 2**30, "kv_tokens": 400_000,
        "kv_transfer_bytes_s": None, "source": "made by hand",
    }  # fmt: skip
    return TimingProfile(**{**usual, **given})
