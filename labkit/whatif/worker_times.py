"""Simulated workers for any first experiment: whose times they take, on which pretended GPUs, and how slowly on this machine.

A notebook asks this before it launches anything: what is suggested fits the pretended node, and a load that is more than this
machine moves in time is sent in slow motion, with every time as many times as long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from labkit.errors import NotSimulated, SpecError
from labkit.lab.engines import SIMULATED, known_engine
from labkit.lab.presets import Preset, Suggest
from labkit.lab.simulation import MOST_STRETCH, ROOM, Simulation
from labkit.serve.hardware import Node, inspect_node, simulate
from labkit.serve.own_folders import own_folder
from labkit.serve.timing import TimingProfile, save_timing
from labkit.store.run import results_folder
from labkit.whatif.timing_estimates import StepEstimator
from labkit.whatif.timing_sources import WAYS, TimingSource, timing_source

_LEAST_GPUS: Final = 4
_MOST_GPUS: Final = 8
_GPUS_A_CORE: Final = 2

P = TypeVar("P", bound=Preset)


@dataclass(frozen=True, slots=True)
class WorkerTimes:
    """How long workers take: as long as they do, or as a source says.

    Attributes:
        engine: that was asked for; ``None`` for the usual one.
        source: of simulated workers; ``None`` where they are real.
        here: this machine.
    """

    engine: str | None
    source: TimingSource | None
    here: Node

    @property
    def node(self) -> Node:
        """What experiments are suggested for: this machine, or as many pretended GPUs as its cores follow."""
        if self.source is None:
            return self.here
        most = max(_LEAST_GPUS, min(_MOST_GPUS, _GPUS_A_CORE * len(self.here.cores)))
        pretended = simulate(self.here, self.source.gpu, 0)
        return replace(pretended, gpus=pretended.gpus[:most])

    def suggest(self, suggest: Suggest[P]) -> P:
        """What an experiment suggests here, on this engine, with the model and lengths that the times are of."""
        preset = suggest(self.node)
        if self.source is None:
            return preset.vary(engine=self.engine)
        lengths = self.source.lengths(preset.workload) if preset.workload.rate is not None else {}
        return preset.vary(engine=SIMULATED, model=self.source.model, **lengths)

    def carried(self, preset: P) -> P:
        """An experiment as it can run here: with the profiles of its splits, in slow motion where it has to be.

        On real workers it stays as it is.

        Raises:
            LabError: there are no times for a split, the load is outside of what they hold for, or more than this machine
                can simulate even in slow motion.
        """
        if self.source is None:
            return preset
        if others := sorted(set(preset.engines) - {SIMULATED}):
            raise SpecError(
                f"timing = … is for simulated workers, and engine {others[0]!r} has real ones: they do not meet in one run",
                remedy="leave timing out, or every engine",
            )
        tps = sorted({tp for split in preset.splits for _, tp in split.workers})
        profiles, told = self.source.profiles(preset.model, tps, preset.workload)
        here = self._simulation(profiles)
        most_tok_s = max((found.tok_s for load in preset.loads() if (found := here.expected(*load)) is not None), default=0.0)
        factor = _slow_motion(most_tok_s, here)
        profiles = [profile.stretched(factor) for profile in profiles]
        slow = preset.slowed(factor)
        for split in slow.splits:
            told += [note for note in self._simulation(profiles).check(slow.workload, split) if note not in told]
        if factor > 1:
            told.append(
                f"in slow motion: {most_tok_s:,.0f} tokens/s are more than {here.cores:g} cores carry with room to spare "
                f"({here.carries_tok_s * ROOM:,.0f}), so every time is {factor:g} times as long as it is meant to be: divide "
                f"times by {factor:g}, and multiply rates by it"
            )
        folder = save_timing(profiles, own_folder("labkit-times-"))
        return replace(slow, timing=folder, told=(*map(str, profiles), *told))

    def _simulation(self, profiles: Sequence[TimingProfile]) -> Simulation:
        return Simulation.on(self.here, {profile.tp: profile for profile in profiles})


def worker_times(
    timing: str | Sequence[str] | None = None,
    engine: str | None = None,
    *,
    results: Path | str | None = None,
    node: Node | None = None,
    estimator: StepEstimator | None = None,
) -> WorkerTimes:
    """What a notebook's ``timing`` and ``engine`` mean together.

    Args:
        timing: where simulated workers' times come from: a GPU's name (AIConfigurator's estimates), one or several measured runs
            (calibrated by them), or a folder of saved profiles. It stands for ``engine="mocker"`` as well.
        engine: a name of ``ENGINES``.
        results: folder that runs live in; ``LABKIT_RESULTS`` or ``results`` by default.
        node: this machine; inspected by default.
        estimator: of single steps; AIConfigurator by default.

    Raises:
        LabError: simulated workers without times, times for real workers, or times that name nothing.
    """
    here = node or inspect_node()
    if timing is None:
        if engine == SIMULATED:
            raise SpecError(
                "engine 'mocker' needs timing: its workers compute nothing, and take the time that it says", remedy=WAYS
            )
        return WorkerTimes(engine, None, here)
    if engine is not None and known_engine(engine) != SIMULATED:
        raise SpecError(
            f"timing is for simulated workers, and those of engine {engine!r} are real: they take the time they take",
            remedy="leave timing out, or take engine='mocker'",
        )
    return WorkerTimes(SIMULATED, timing_source(timing, results_folder(results), estimator), here)


def _slow_motion(tok_s: float, here: Simulation) -> float:
    """By how much: in quarters, 1 for not at all.

    Raises:
        NotSimulated: it would be too slow.
    """
    factor = max(1.0, math.ceil(4 * tok_s / (here.carries_tok_s * ROOM)) / 4)
    if factor > MOST_STRETCH:
        raise NotSimulated(
            f"{tok_s:,.0f} tokens/s are too many to simulate on {here.cores:g} cores, even {MOST_STRETCH:g} times slower",
            remedy=f"ask for {MOST_STRETCH / factor:.0%} of the load or of the workers, or simulate where there are more cores",
        )
    return factor
