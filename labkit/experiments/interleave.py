"""Measure several splits or engines in turn, A B A B …: what drifts on the node hits every side alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from labkit.errors import ComparisonError, SpecError
from labkit.experiments.compare import ratio_of
from labkit.experiments.until import LEAST_REPEATS, Narrow
from labkit.lab.engines import engine_named
from labkit.lab.lab import Lab
from labkit.lab.measurement import Measurement, align, window_text
from labkit.measure.statistics import Interval
from labkit.spec import Topology, Workload

#: How engines are compared, as the conditions of a verdict say it.
TURNS: Final = "the engines took turns on the same accelerators, each measured on workers launched for it with the same options"


@dataclass(frozen=True, slots=True)
class Turn:
    """A side: its split, and its engine where the sides have different ones; empty where they have not."""

    topology: Topology
    engine: str = ""

    @property
    def label(self) -> str:
        """Groups its repeats."""
        return f"{self.topology} ({self.engine})" if self.engine else str(self.topology)


def turns_of(lab: Lab, sides: Sequence[Topology | str], engines: Sequence[str | None] | None) -> list[Turn]:
    """The sides, with their engines where these differ; raises before anything is measured."""
    topologies = [Topology(side) for side in sides]
    if engines is None or not any(engines):
        return [Turn(topology) for topology in topologies]
    if len(engines) != len(topologies):
        raise SpecError(f"{len(engines)} engines for {len(topologies)} sides", remedy="name one for each side, or None")
    named = [lab.engine if engine is None else engine for engine in engines]
    for engine in dict.fromkeys(named):
        engine_named(engine)
    if set(named) == {lab.engine}:
        return [Turn(topology) for topology in topologies]
    return [Turn(topology, engine) for topology, engine in zip(topologies, named, strict=True)]


def interleave(
    lab: Lab,
    sides: Sequence[Topology | str],
    *,
    workload: Workload | None = None,
    repeats: int = 3,
    until: Narrow | None = None,
    engines: Sequence[str | None] | None = None,
    keep_unused: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[Measurement]:
    """Measure each side once per repeat, re-splitting in between. A repeat has its own seed, the same for all sides: the
    same requests in the same order within a repeat, and none that a prefix cache could know from an earlier one.

    Sides on different engines take turns on the same accelerators: what served before ends, and each measurement is made on
    workers that were launched for it with the same options. Their labels name the engine: ``2A (dynamo)``.

    Where the warm-up is left to the lab (``Workload(warmup="auto")``), what is found on one side of a repeat is left out on all.

    Args:
        lab: where it is measured.
        sides: splits of equal accelerators; with ``keep_unused`` of any number, within the lab's pool.
        workload: the lab's own by default; repeat i adds i to its seed.
        repeats: measurements of each side; with ``until``, the fewest.
        until: go on until the interval of a metric is narrow enough, or a limit is reached; the ratios are those of every
            other side to the first, and the widest decides. The reason for ending is kept with the run and said in the verdict.
        engines: of each side; the lab's own by default, and where one is ``None``.
        keep_unused: workers that a side does not need stay warm until another side needs them.
        clock: seconds, for the budget.

    Raises:
        ComparisonError: the sides hold different numbers of accelerators.
        SpecError: no workload, fewer than two sides, no repeat, or too few for ``until``; an unknown engine.
        MissingEngine: one is not installed.
    """
    turns = turns_of(lab, sides, engines)
    work = workload or lab.workload
    _check(turns, work, repeats, until, equal=not keep_unused)
    assert work is not None
    if turns[0].engine:
        lab.run.update(turns={"engines": [turn.engine for turn in turns], "text": TURNS})
    done: list[Measurement] = []
    begun_s, repeat, ended = clock(), 0, ""
    while repeat < repeats or (until is not None and not ended):
        done += _repeat(lab, turns, work, repeat, {"keep_unused": True} if keep_unused else {})
        repeat += 1
        if until is not None:
            interval = _widest(lab, [turn.label for turn in turns], until)
            lab.progress(until.state(interval, repeat))
            ended = until.ended(interval, repeat, clock() - begun_s)
    if until is not None:
        kept = until.to_dict(ended, repeat)
        lab.run.note(f"repeats {ended}", data=kept)
        lab.run.update(repeats=kept)
        lab.progress(f"repeats {ended}")
    return done


def _check(turns: Sequence[Turn], work: Workload | None, repeats: int, until: Narrow | None, *, equal: bool) -> None:
    if work is None:
        raise SpecError("there is no workload to compare under", remedy="pass one, or give the lab one")
    if len(set(turns)) < 2 or repeats < 1:
        raise SpecError(
            f"{len(set(turns))} different sides in {repeats} repeats make no comparison",
            remedy="name two splits, or two engines, and one repeat or more",
        )
    if until is not None and not LEAST_REPEATS <= repeats <= until.most_repeats:
        raise SpecError(
            f"repeats = {repeats} is no fewest number to repeat until {until.metric} is known",
            remedy=f"give {LEAST_REPEATS} to {until.most_repeats} (most_repeats)",
        )
    held = {turn.label: turn.topology.accelerators for turn in turns}
    if equal and len(set(held.values())) > 1:
        unequal = ", ".join(f"{side} holds {count}" for side, count in held.items())
        raise ComparisonError(f"unequal hardware: {unequal} accelerators", remedy="compare splits that hold the same number")


def _repeat(lab: Lab, turns: Sequence[Turn], work: Workload, repeat: int, how: Mapping[str, bool]) -> list[Measurement]:
    measured = []
    for number, turn in enumerate(turns):
        if turn.engine and turn.engine != lab.engine:
            lab.switch(turn.engine, turn.topology)
        elif turn.engine and not repeat and not number:
            lab.probe()  # the others are asked as many requests before they are measured
        if lab.deployment.topology != turn.topology:
            lab.progress(str(lab.resplit(turn.topology, **how)))
        measured.append(lab.measure(work.with_seed(work.seed + repeat), side=turn.label, repeat=repeat))
        lab.progress(repr(measured[-1]))
    if work.warmup != "auto":
        return measured
    begun = align(measured)
    for before, after in zip(measured, begun, strict=True):
        if after.window != before.window:
            lab.progress(f"{after.window.side} #{repeat + 1} counts {window_text(after.window)}")
    return begun


def _widest(lab: Lab, labels: Sequence[str], until: Narrow) -> Interval | None:
    """The least certain ratio of the metric, of each side to the first; ``None`` where one has none."""
    records, first = lab.run.digest(), labels[0]
    others = [label for label in dict.fromkeys(labels) if label != first]
    found = [ratio_of(records, first, other, until.metric, slo=lab.slo) for other in others]
    return None if None in found else max((ratio for ratio in found if ratio is not None), key=lambda ratio: ratio.spread)
