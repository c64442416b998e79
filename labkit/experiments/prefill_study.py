"""Prefill saturation from sweep to advice: the knee, both phases on the roofline, and the knee set as engine flags and tried."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Self

from labkit.errors import SpecError
from labkit.experiments.prefill_limits import LimitsTried, flags, prefill_limits, try_prefill_limits
from labkit.experiments.prefill_profile import WHY, ProfileSteps
from labkit.experiments.prefill_saturation import BATCHES, PrefillSaturation, plan_sweep, sweep_prefill
from labkit.experiments.roofline import RooflineFound, measure_roofline
from labkit.lab.lab import Lab
from labkit.lab.presets import SweepPreset
from labkit.lab.simulation import FOLDER
from labkit.measure.simulated import is_simulated
from labkit.serve.engines.base import StepLimits
from labkit.serve.timing import load_timing
from labkit.store.run import Run

_WIDTH = 96


@dataclass(frozen=True, slots=True)
class PrefillStudy:
    """What was found, and what to do about it.

    Attributes:
        saturation: the knees.
        roofline: both phases; ``None`` where no device computes.
        tried: TTFT before and after; ``None`` where it was not tried, with the reason.
        reason: why.
        dummy: whether the model's weights are dummies.
        by_profile: what the timing profile of simulated workers holds; ``None`` where workers are real.
        isl: the prompt length to set for; by default the longest with a knee.
    """

    saturation: PrefillSaturation
    roofline: RooflineFound | None
    tried: LimitsTried | None
    reason: str = ""
    dummy: bool = False
    by_profile: ProfileSteps | None = None
    isl: int | None = None

    @property
    def advice(self) -> str:
        """What an engineer can do, in sentences."""
        if self.by_profile is not None:
            return str(self.by_profile)
        said = [self._setting()]
        if self.tried is not None:
            said.append(self.tried.verdict)
        elif self.reason:
            said.append(f"Not tried: {self.reason}.")
        weights = " (dummy weights: times are real, the text is not)" if self.dummy else ""
        said.append(f"This holds for {self.saturation.worker}{weights} and for prompts of these lengths.")
        if self.saturation.warnings:
            said.append(f"Measured on a disturbed machine, so repeat it when it is quiet: {self.saturation.warnings[0]}.")
        return " ".join(said)

    def keep(self, run: Run) -> Self:
        """Keep the advice in the summary of a run that is finished; its manifest holds the findings already."""
        run.write_summary({**(run.summary() or {}), "verdict": self.advice})
        return self

    def _setting(self) -> str:
        try:
            limits, knee = prefill_limits(self.saturation, self.isl), self.saturation.knee(self.isl)
        except SpecError as error:
            return f"Set nothing yet: {error.what}; {error.remedy}."
        few = "One prompt a step saturates the worker already, so no prompt need wait for another. " if knee.prompts == 1 else ""
        return (
            f"{few}Start dedicated prefill workers with {flags(limits)} (knee of ISL {knee.isl}): larger steps add waiting, "
            f"and {knee.within:.0%} of throughput at most.{self._other(limits)}"
        )

    def _other(self, limits: StepLimits) -> str:
        """Where other flags were tried than those for prefill workers."""
        if self.tried is None or self.tried.after.prefill is not None or flags(self.tried.after) == flags(limits):
            return ""
        return (
            f" Tried here was an aggregated worker with {flags(self.tried.after)}: it decodes too, and as few requests a step "
            "would cap its decodes. What follows holds for those flags."
        )

    def __str__(self) -> str:
        if self.by_profile is not None:
            return "\n".join(_fold(line) for line in str(self.by_profile).splitlines())
        parts = [str(self.saturation), str(self.roofline)]
        parts += [str(self.tried)] if self.tried is not None else []
        wrapped = ("\n".join(_fold(line) for line in part.splitlines()) for part in parts)
        return "\n\n".join([*wrapped, _fold(f"What to do: {self.advice}")])

    __repr__ = __str__


def study_prefill(
    lab: Lab, sweep: SweepPreset, *, repeats: int = 4, steps: int = 3, tries: int = 3, bursts: int = 10, isl: int | None = None
) -> PrefillStudy:
    """Sweep, put on the roofline, set and try; the run keeps all of it. Ctrl-C ends it, and the lab everything else.

    Args:
        lab: with one worker, launched with the sweep's options.
        sweep: prompt lengths and the largest step.
        repeats, steps: of each batch.
        tries: repeats of TTFT before and after; 0 to leave the flags alone.
        bursts: of prompts in each of them.
        isl: the prompt length to set for; by default the longest with a knee.

    Raises:
        LabError: a load cannot be run, a worker dies, or the device cannot be measured.
    """
    if is_simulated(lab.run.manifest):
        return _simulated(lab, sweep)
    saturation = sweep_prefill(lab, sweep.isls, most_tokens=sweep.most_tokens, repeats=repeats, steps=steps)
    roofline = measure_roofline(lab, saturation)
    tried, reason = None, "tries = 0"
    if tries:
        try:
            prefill_limits(saturation, isl)
            tried, reason = try_prefill_limits(lab, saturation, isl=isl, bursts=bursts, repeats=tries), ""
        except SpecError as error:  # no knee to set is an answer
            reason = error.what
    return PrefillStudy(saturation, roofline, tried, reason, dummy=_dummy(lab), isl=isl)


def _simulated(lab: Lab, sweep: SweepPreset) -> PrefillStudy:
    """Nothing to measure, and what the profile says instead."""
    profile = load_timing(lab.run.path / FOLDER)[lab.deployment.workers[0].spec.tp]  # type: ignore[union-attr]
    wanted = plan_sweep(sweep.isls, BATCHES, sweep.most_tokens)
    found = ProfileSteps.of(profile, [isl * prompts for isl, batches in wanted.items() for prompts in batches])
    worker = f"{lab.deployment.model.name} on {lab.deployment.accelerator}"
    nothing = PrefillSaturation(worker, {}, dict.fromkeys(wanted, WHY), 0, 0, 0)
    lab.run.note(str(found))
    return PrefillStudy(nothing, None, None, WHY, dummy=_dummy(lab), by_profile=found)


def _dummy(lab: Lab) -> bool:
    return getattr(lab.deployment.model, "load_format", "") == "dummy"


def _fold(line: str) -> str:
    """Sentences are folded, tables are not."""
    return line if line.startswith("  ") else textwrap.fill(line, _WIDTH, break_on_hyphens=False)
