"""A sweep of prefill batches on a worker that never was: t = max(30 ms, 0.6 ms · n), and a device with round peaks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labkit.experiments.prefill_saturation import PrefillSaturation
from labkit.measure.knee import Batch, find_knee
from labkit.measure.steps import PrefillStep
from labkit.serve.peaks import Peaks

PER_TOKEN_S, FLOOR_S = 6e-4, 0.03
PEAKS = Peaks(
    flop_s=100e9,
    copy_bytes_s=20e9,
    dtype="float32",
    dtype_bytes=4,
    matrix=1024,
    product="torch.mm",
    device="core 0",
    threads=1,
    torch="2.13.0",
)


def step_s(tokens: int) -> float:
    return max(FLOOR_S, PER_TOKEN_S * tokens)


def steps_of(prompts: int, isl: int, *, count: int = 3, between: int = 1, seed: int = 0) -> list[PrefillStep]:
    """Steps of so many prompts, each after one of ``between`` prompts, within 1 %."""
    rng = np.random.default_rng([seed, prompts, isl])
    found, at_ns = [], 0
    for _ in range(count):
        for size in (between, prompts):
            took_s = step_s(size * isl) * float(np.exp(0.01 * rng.standard_normal()))
            found.append(PrefillStep("w0", size, size * isl, at_ns, took_s, (took_s + 0.004,) * size, True))
            at_ns += round(took_s * 1e9)
    return found


def swept(isls: Sequence[int] = (16, 32, 128), most_tokens: int = 1024, warnings: tuple[str, ...] = ()) -> PrefillSaturation:
    """What a sweep of it would find."""
    knees = {}
    for isl in isls:
        batches = []
        for prompts in (n for n in (1, 2, 3, 4, 6, 8, 12, 16) if n * isl <= most_tokens):
            repeats = [[s for s in steps_of(prompts, isl, seed=r) if s.prompts == prompts] for r in range(3)]
            batches.append(
                Batch(
                    prompts * isl, prompts,
                    tuple(np.array([s.step_s for s in seen]) for seen in repeats),
                    tuple(np.array([t for s in seen for t in s.ttft_s]) for seen in repeats),
                )
            )  # fmt: skip
        knees[isl] = find_knee(batches, resamples=100)
    return PrefillSaturation("demo on core 0", knees, {}, 2, 200, 3, warnings=warnings)
