"""Two sides, window by window: picked from one run or two, paired by repeat, begun at the same request."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.errors import ComparisonError
from labkit.measure.digest import Digest, digest
from labkit.measure.records import Records, Window
from labkit.measure.warmup import aligned
from labkit.store.run import Run

#: Windows, each with what was taken in of its run.
Side = list[tuple[Digest, Window]]


def sides_of(records: Records | Digest, side_a: str, side_b: str) -> tuple[Side, Side]:
    """Two sides of one run; ComparisonError where one was not measured."""
    taken = records if isinstance(records, Digest) else digest(records)
    a, b = ([(taken, window) for window in windows_of_side(records, side)] for side in (side_a, side_b))
    return a, b


def sides_of_runs(run_a: Run, run_b: Run, side_a: str | None, side_b: str | None) -> tuple[tuple[str, str], tuple[Side, Side]]:
    """Labels and sides of two runs; a run with one side needs no label, and equal labels get the runs' names.

    Raises:
        ComparisonError: a side that was not measured, and a run of several sides without a label.
    """
    labels: list[str] = []
    sides: list[Side] = []
    for run, side in ((run_a, side_a), (run_b, side_b)):
        records = run.digest()
        label = side or _only_side(run, records)
        labels.append(label)
        sides.append([(records, window) for window in windows_of_side(records, label)])
    a, b = (f"{label} ({run.id})" if labels[0] == labels[1] else label for label, run in zip(labels, (run_a, run_b), strict=True))
    return (a, b), (sides[0], sides[1])


def windows_of_side(records: Records | Digest, side: str) -> list[Window]:
    """The windows of a side by their repeat; ComparisonError names the sides that there are."""
    found = sorted((window for window in records.windows if window.side == side), key=lambda window: window.repeat)
    if not found:
        known = ", ".join(dict.fromkeys(window.side for window in records.windows)) or "none"
        raise ComparisonError(f"side {side!r} was not measured", remedy=f"sides of the run: {known}")
    return found


def _only_side(run: Run, records: Digest) -> str:
    known = list(dict.fromkeys(window.side for window in records.windows))
    if len(known) != 1:
        what = f"run {run.id} has the sides {', '.join(known)}" if known else f"run {run.id} has no finished measurement"
        raise ComparisonError(what, remedy="name one of its sides" if known else "measure first, or name another run")
    return known[0]


def pairs(labels: tuple[str, str], sides: Sequence[Side], said: list[str]) -> tuple[Side, Side]:
    """The windows of both sides that have a partner: the same repeat."""
    by_repeat = [{window.repeat: (records, window) for records, window in side} for side in sides]
    common = sorted(by_repeat[0].keys() & by_repeat[1].keys())
    if not common:
        raise ComparisonError(f"{labels[0]} and {labels[1]} have no repeat in common", remedy="measure both sides in each repeat")
    left_out = len(sides[0]) + len(sides[1]) - 2 * len(common)
    if left_out:
        said.append(f"{left_out} window{'s' * (left_out > 1)} without a partner left out")
    return [by_repeat[0][repeat] for repeat in common], [by_repeat[1][repeat] for repeat in common]


def aligned_sides(side_a: Side, side_b: Side) -> tuple[Side, Side]:
    """The windows of each pair from the same request on: what was found to be warm-up on one side is left out on both."""
    windows_a, windows_b = zip(*(aligned(pair) for pair in zip(side_a, side_b, strict=True)), strict=True)
    return _counted(side_a, windows_a), _counted(side_b, windows_b)


def _counted(side: Side, windows: Sequence[Window]) -> Side:
    """A side, which is of one run, in other windows: counted in together where they are new."""
    records = side[0][0].counted(windows)
    return [(records, window) for window in windows]
