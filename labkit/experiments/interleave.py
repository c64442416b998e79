"""Measure several splits in turn, A B A B …: what drifts on the node hits every side alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from labkit.errors import ComparisonError, SpecError
from labkit.experiments.compare import ratio_of
from labkit.experiments.until import LEAST_REPEATS, Narrow
from labkit.lab.lab import Lab
from labkit.lab.measurement import Measurement, align, window_text
from labkit.measure.statistics import Interval
from labkit.spec import Topology, Workload


def interleave(
    lab: Lab,
    sides: Sequence[Topology | str],
    *,
    workload: Workload | None = None,
    repeats: int = 3,
    until: Narrow | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Measurement]:
    """Measure each side once per repeat, re-splitting in between. A repeat has its own seed, the same for all sides: the
    same requests in the same order within a repeat, and none that a prefix cache could know from an earlier one.

    Where the warm-up is left to the lab (``Workload(warmup="auto")``), what is found on one side of a repeat is left out on all.

    Args:
        lab: where it is measured.
        sides: splits of equal accelerators.
        workload: the lab's own by default; repeat i adds i to its seed.
        repeats: measurements of each side; with ``until``, the fewest.
        until: go on until the interval of a metric is narrow enough, or a limit is reached; the ratios are those of every
            other side to the first, and the widest decides. The reason for ending is kept with the run and said in the verdict.
        clock: seconds, for the budget.

    Raises:
        ComparisonError: the sides hold different numbers of accelerators.
        SpecError: no workload, fewer than two sides, no repeat, or too few for ``until``.
    """
    topologies = [Topology(side) for side in sides]
    work = workload or lab.workload
    _check(topologies, work, repeats, until)
    assert work is not None
    done: list[Measurement] = []
    begun_s, repeat, ended = clock(), 0, ""
    while repeat < repeats or (until is not None and not ended):
        done += _repeat(lab, topologies, work, repeat)
        repeat += 1
        if until is not None:
            interval = _widest(lab, topologies, until)
            lab.progress(until.state(interval, repeat))
            ended = until.ended(interval, repeat, clock() - begun_s)
    if until is not None:
        kept = until.to_dict(ended, repeat)
        lab.run.note(f"repeats {ended}", data=kept)
        lab.run.update(repeats=kept)
        lab.progress(f"repeats {ended}")
    return done


def _check(topologies: Sequence[Topology], work: Workload | None, repeats: int, until: Narrow | None) -> None:
    if work is None:
        raise SpecError("there is no workload to compare under", remedy="pass one, or give the lab one")
    if len(set(topologies)) < 2 or repeats < 1:
        raise SpecError(
            f"{len(set(topologies))} different sides in {repeats} repeats make no comparison",
            remedy="name two splits, and one repeat or more",
        )
    if until is not None and not LEAST_REPEATS <= repeats <= until.most_repeats:
        raise SpecError(
            f"repeats = {repeats} is no fewest number to repeat until {until.metric} is known",
            remedy=f"give {LEAST_REPEATS} to {until.most_repeats} (most_repeats)",
        )
    held = {str(topology): topology.accelerators for topology in topologies}
    if len(set(held.values())) > 1:
        unequal = ", ".join(f"{side} holds {count}" for side, count in held.items())
        raise ComparisonError(f"unequal hardware: {unequal} accelerators", remedy="compare splits that hold the same number")


def _repeat(lab: Lab, topologies: Sequence[Topology], work: Workload, repeat: int) -> list[Measurement]:
    measured = []
    for topology in topologies:
        if lab.deployment.topology != topology:
            lab.progress(str(lab.resplit(topology)))
        measured.append(lab.measure(work.with_seed(work.seed + repeat), repeat=repeat))
        lab.progress(repr(measured[-1]))
    if work.warmup != "auto":
        return measured
    begun = align(measured)
    for before, after in zip(measured, begun, strict=True):
        if after.window != before.window:
            lab.progress(f"{after.window.side} #{repeat + 1} counts {window_text(after.window)}")
    return begun


def _widest(lab: Lab, topologies: Sequence[Topology], until: Narrow) -> Interval | None:
    """The least certain ratio of the metric, of each side to the first; ``None`` where one has none."""
    records, first = lab.run.digest(), str(topologies[0])
    others = dict.fromkeys(str(topology) for topology in topologies[1:] if topology != topologies[0])
    found = [ratio_of(records, first, other, until.metric, slo=lab.slo) for other in others]
    return None if None in found else max((ratio for ratio in found if ratio is not None), key=lambda ratio: ratio.spread)
