"""A timing profile of projected steps: what simulated workers follow where nobody has measured the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

from labkit.errors import ProjectionError
from labkit.serve.timing import LEAST_ITL_S, Array, TimingProfile
from labkit.spec import Model
from labkit.whatif.aiconfigurator import AIConfigurator
from labkit.whatif.workers import Setting, StepTimes

#: 400 Gb/s, one adapter a GPU of an H100 node: assumed, since AIConfigurator says nothing of it.
LINK_BYTES_S: Final = 50e9
_PROMPTS: Final = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_CONTEXTS: Final = (128, 512, 2048, 4096, 8192)
_KV_POINTS: Final = 16


class StepEstimator(Protocol):
    """A model of performance that knows single steps."""

    def steps(self, setting: Setting, tp: int, prompts: Sequence[int], contexts: Sequence[int]) -> StepTimes:
        """What it says; ProjectionError where it cannot."""
        ...


def timing_from_estimates(
    model: str,
    gpu: str = "h100_sxm",
    tp: int = 1,
    *,
    engine: str = "vllm",
    longest: int = _CONTEXTS[-1],
    kv_transfer_bytes_s: float | None = LINK_BYTES_S,
    factors: tuple[float, float] = (1.0, 1.0),
    error: str = "",
    estimator: StepEstimator | None = None,
) -> TimingProfile:
    """AIConfigurator's prefill and decode steps as a profile.

    Args:
        model: bundled shape, folder with ``config.json``, or hub id.
        gpu, engine: as AIConfigurator calls them.
        tp: GPUs of the worker.
        longest: tokens of the longest prompt or context that it must hold for.
        kv_transfer_bytes_s: of a GPU's link; a worker has ``tp`` of them. ``None``: the transfer takes no time.
        factors: of single steps, measured over projected: of prefill and of decode.
        error: on held-out runs, where calibrated.
        estimator: AIConfigurator by default.

    Raises:
        ProjectionError: it is not installed, or has no data for this model, GPU, engine or TP.
    """
    named = Model(model).source
    setting = Setting(model=named, system=gpu, engine=engine, isl=1024, osl=2)
    prompts = sorted({*_PROMPTS, longest, 2 * longest})
    contexts = sorted({*(tokens for tokens in _CONTEXTS if tokens < longest), longest})
    found = (estimator or AIConfigurator()).steps(setting, tp, prompts, contexts)
    known = sorted({context for _, context, _ in found.decode})
    if len(known) < 2:
        raise ProjectionError(
            f"{model} on TP {tp} of {gpu} decodes at no context but {known[0]}", remedy="take a higher TP or a smaller model"
        )
    most = min(found.kv_tokens, max(batch * context for batch, context, _ in found.decode))
    kv = np.unique(np.concatenate(([0.0], np.geomspace(known[0], most, _KV_POINTS - 1).round())))
    itl = np.stack([_along(found, context, kv) for context in known], axis=1) * factors[1]
    assumed = "" if kv_transfer_bytes_s is None else f"; KV transfer assumed at {kv_transfer_bytes_s / 1e9:g} GB/s a GPU"
    return TimingProfile(
        model=Model(model).name, gpu=gpu, tp=tp,
        prefill_tokens=np.array([float(tokens) for tokens, _ in found.prefill]),
        prefill_s=np.array([seconds for _, seconds in found.prefill]) * factors[0],
        active_kv_tokens=kv, context_tokens=np.array([float(context) for context in known]),
        itl_s=np.maximum(itl, LEAST_ITL_S), gpu_bytes=found.gpu_bytes, kv_tokens=found.kv_tokens,
        kv_transfer_bytes_s=None if kv_transfer_bytes_s is None else kv_transfer_bytes_s * tp,
        source=f"projected by {found.source}{assumed}", error=error,
    )  # fmt: skip


def _along(found: StepTimes, context: int, kv: Array) -> Array:
    """Step time over active KV at one context: between the batches that were projected, and their ends beyond."""
    mine = [(batch * context, seconds) for batch, at, seconds in found.decode if at == context]
    return np.interp(kv, [tokens for tokens, _ in mine], [seconds for _, seconds in mine])
