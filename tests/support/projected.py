"""A model of performance with a known law, in the place of AIConfigurator: what it says can be computed by hand.

A prompt token takes ``PROMPT_S`` / tp, a decode step of b requests (``STEP_S`` + b · ``EACH_S``) / tp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from labkit.errors import ProjectionError
from labkit.spec import Role
from labkit.whatif.workers import DEGREES, Setting, StepTimes, WorkerPoint, Workers

PROMPT_S, STEP_S, EACH_S = 40e-6, 0.006, 0.0001
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def decode_s(batch: int, tp: int) -> float:
    return (STEP_S + batch * EACH_S) / tp


class Law:
    """Knows every model that is not called unknown; counts how often it is asked."""

    def __init__(self, *, tps: tuple[int, ...] = DEGREES) -> None:
        self.tps = tps
        self.asked: list[Setting] = []

    def identity(self, setting: Setting) -> Mapping[str, Any]:
        return {**asdict(setting), "by": "law", "tps": self.tps}

    def workers(self, setting: Setting) -> Workers:
        self.asked.append(setting)
        if setting.system != "h100_sxm":
            raise ProjectionError(f"the law has no timings on {setting.system!r}", remedy="GPUs that it has: h100_sxm")
        points = []
        for tp in self.tps:
            prompt_s = setting.isl * PROMPT_S / tp
            points += [WorkerPoint(Role.PREFILL, tp, b, 0, b * prompt_s, 0.0, 1 / prompt_s) for b in (1, 2)]
            for b in BATCHES:
                step_s = decode_s(b, tp)
                points.append(WorkerPoint(Role.DECODE, tp, b, 0, 0.0, step_s, b / (setting.osl * step_s)))
                whole_s = setting.osl * step_s + b * prompt_s  # every prompt of the batch holds up all that decode
                points.append(WorkerPoint(Role.AGGREGATED, tp, b, setting.isl, 2 * prompt_s, whole_s / setting.osl, b / whole_s))
        return Workers(setting, "a law", tuple(points), ())

    def steps(self, setting: Setting, tp: int, prompts: Sequence[int], contexts: Sequence[int]) -> StepTimes:
        self.asked.append(setting)
        if setting.system != "h100_sxm":
            raise ProjectionError(f"the law has no timings on {setting.system!r}", remedy="GPUs that it has: h100_sxm")
        prefill = tuple((tokens, tokens * PROMPT_S / tp) for tokens in prompts)
        decode = tuple((batch, context, decode_s(batch, tp)) for context in contexts for batch in BATCHES)
        return StepTimes("a law", prefill, decode, 80 * 2**30, 400_000)


def setting(
    model: str = "llama-3.1-8b", *, isl: int = 2000, osl: int = 100, system: str = "h100_sxm", engine: str = "vllm"
) -> Setting:
    return Setting(model=model, system=system, engine=engine, isl=isl, osl=osl)
