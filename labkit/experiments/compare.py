"""Two sides, the same requests, equal hardware: what differs, by how much, with what certainty.

Pure analysis of windows that were measured; nothing is launched here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from labkit.errors import ComparisonError, UnknownMetric
from labkit.experiments.conditions import Conditions, conditions
from labkit.experiments.quantities import QUANTITIES, Measured, Quantity, measure
from labkit.measure.columns import Ints, equals, ints
from labkit.measure.digest import Digest, digest
from labkit.measure.groups import resampled_ratio
from labkit.measure.records import Records, Window
from labkit.measure.statistics import Interval
from labkit.measure.validity import Mark, marks
from labkit.spec.slo import Slo
from labkit.store.run import Run

__all__ = ["Comparison", "Row", "compare", "compare_runs"]


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of both sides.

    Attributes:
        key: as in a summary: ``ttft_p50_s``.
        label, unit: for people; values are in seconds and per second whatever the unit on screen.
        lower_is_better: ``None`` where neither is.
        a, b: pooled over the side's repeats; ``None`` with a reason.
        a_repeats, b_repeats: the same of each repeat.
        ratio: B / A with its interval; ``None`` with a reason.
        reason: why a value or the ratio is missing.
    """

    key: str
    label: str
    unit: str
    lower_is_better: bool | None
    a: float | None
    b: float | None
    a_repeats: tuple[float | None, ...]
    b_repeats: tuple[float | None, ...]
    ratio: Interval | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Side B against side A.

    Attributes:
        side_a, side_b: their labels, normally topologies.
        rows: one per quantity, for a table.
        repeats: pairs of repeats compared.
        requests: requests scheduled in the windows, both sides.
        failed: of them, failed, per side.
        slo: what goodput is of.
        conditions: what holds for both sides.
        marks: per side label, the marks of its windows, each kind once.
        equal_hardware: whether both sides held as many accelerators.
        notes: what else a reader must know.
    """

    side_a: str
    side_b: str
    rows: tuple[Row, ...]
    repeats: int
    requests: int
    failed: tuple[int, int]
    slo: Slo | None
    conditions: Conditions
    marks: Mapping[str, tuple[Mark, ...]] = field(default_factory=dict)
    equal_hardware: bool = True
    notes: tuple[str, ...] = ()

    def row(self, key: str) -> Row:
        """The row of a quantity; UnknownMetric names those that there are."""
        for row in self.rows:
            if row.key == key:
                return row
        raise UnknownMetric(f"no quantity {key!r} is compared", remedy=f"use one of {', '.join(row.key for row in self.rows)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare(
    records: Records | Digest,
    side_a: str,
    side_b: str,
    *,
    slo: Slo | None = None,
    seed: int = 0,
    allow_unequal: bool = False,
    manifest: Mapping[str, Any] | None = None,
    resamples: int = 2000,
) -> Comparison:
    """Compare two sides of one run.

    Args:
        records: of a run whose windows carry both sides, or what was taken in of them.
        side_a, side_b: labels of ``Window.side``; ratios are B / A.
        slo: for goodput; no goodput without one.
        seed: of the bootstrap.
        allow_unequal: accept different hardware or work, and label it.
        manifest: of the run, for the conditions.
        resamples: of the bootstrap.

    Raises:
        ComparisonError: a side that was not measured, unequal hardware, unequal work.
    """
    taken = records if isinstance(records, Digest) else digest(records)
    sides = tuple([(taken, window) for window in _of_side(taken, side)] for side in (side_a, side_b))
    return _compare((side_a, side_b), sides, slo, seed, allow_unequal, (manifest or {},), resamples)


def compare_runs(
    run_a: Run,
    run_b: Run,
    *,
    side_a: str | None = None,
    side_b: str | None = None,
    slo: Slo | None = None,
    seed: int = 0,
    allow_unequal: bool = False,
    resamples: int = 2000,
) -> Comparison:
    """Compare a side of one run with a side of another; a run with one side only needs no label.

    Runs measured apart are not interleaved: what changed on the node between them is part of the difference, and a note says so.

    Raises:
        ComparisonError: as for ``compare``, and a run of several sides without a label.
    """
    labels, sides = [], []
    for run, side in ((run_a, side_a), (run_b, side_b)):
        records = run.digest()
        label = side or _only_side(run, records)
        labels.append(label)
        sides.append([(records, window) for window in _of_side(records, label)])
    names = tuple(
        f"{label} ({run.id})" if labels[0] == labels[1] else label for label, run in zip(labels, (run_a, run_b), strict=True)
    )
    note = () if run_a.path == run_b.path else ("the sides were measured in separate runs, not interleaved",)
    manifests = (run_a.manifest, run_b.manifest)
    return _compare((names[0], names[1]), (sides[0], sides[1]), slo, seed, allow_unequal, manifests, resamples, note)


Side = list[tuple[Digest, Window]]


def _compare(
    labels: tuple[str, str],
    sides: Sequence[Side],
    slo: Slo | None,
    seed: int,
    allow_unequal: bool,
    manifests: Sequence[Mapping[str, Any]],
    resamples: int,
    notes: Iterable[str] = (),
) -> Comparison:
    said = list(notes)
    windows = tuple([window for _, window in side] for side in sides)
    equal = _check_hardware(labels, windows, allow_unequal, said)
    _check_workload(windows, allow_unequal, said)
    paired_a, paired_b = _pairs(labels, sides, said)
    for (records_a, window_a), (records_b, window_b) in zip(paired_a, paired_b, strict=True):
        _check_requests(records_a, window_a, records_b, window_b, allow_unequal, said)
    measured_a, measured_b = ([measure(records, window, slo) for records, window in side] for side in (paired_a, paired_b))
    rows = tuple(_row(quantity, measured_a, measured_b, seed, resamples) for quantity in QUANTITIES)
    about = conditions([window for _, window in (*paired_a, *paired_b)], manifests)
    return Comparison(
        side_a=labels[0],
        side_b=labels[1],
        rows=rows,
        repeats=len(paired_a),
        requests=sum(int(one.requests.measured.sum()) for one in (*measured_a, *measured_b)),
        failed=(_failed(measured_a), _failed(measured_b)),
        slo=slo,
        conditions=about,
        marks={label: _marks(side, about.dummy_weights) for label, side in zip(labels, (paired_a, paired_b), strict=True)},
        equal_hardware=equal,
        notes=tuple(dict.fromkeys(said)),
    )


def _row(quantity: Quantity, measured_a: list[Measured], measured_b: list[Measured], seed: int, resamples: int) -> Row:
    a, why_a = quantity.pooled(measured_a)
    b, why_b = quantity.pooled(measured_b)
    ratio = None
    if a is not None and b is not None:
        values = [[quantity.values(one, len(side)) for one in side] for side in (measured_a, measured_b)]
        ratio = resampled_ratio(
            values[0], values[1], quantity.statistic, quantity.q, seed=seed, resamples=resamples, least=quantity.least
        )
    reason = why_a or why_b or ("" if ratio is not None else "side A is 0")
    each = ([quantity.pooled([one])[0] for one in side] for side in (measured_a, measured_b))
    a_repeats, b_repeats = (tuple(values) for values in each)
    return Row(
        quantity.key, quantity.label, quantity.unit, quantity.lower_is_better, a, b, a_repeats, b_repeats, ratio, reason
    )  # fmt: skip


def _of_side(records: Digest, side: str) -> list[Window]:
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


def _check_hardware(labels: tuple[str, str], windows: Sequence[list[Window]], allow: bool, said: list[str]) -> bool:
    held = [{(window.accelerators, window.accelerator) for window in side} for side in windows]
    texts = [" or ".join(f"{count:g} {unit}s" if count else "unknown" for count, unit in sorted(side)) for side in held]
    equal = held[0] == held[1] and len(held[0]) == 1 and all(count for count, _ in held[0])
    if not equal:
        what = f"unequal hardware: {labels[0]} held {texts[0]}, {labels[1]} {texts[1]}"
        if not allow:
            raise ComparisonError(
                what, remedy="measure both on the same accelerators, or pass allow_unequal=True to have it labelled"
            )
        said.append(what)
    return equal


def _check_workload(windows: Sequence[list[Window]], allow: bool, said: list[str]) -> None:
    first, *others = [{**window.workload, "seed": None} for side in windows for window in side]
    for other in others:
        differs = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
        if differs:
            key = differs[0]
            what = f"unequal work: {key} is {first.get(key)!r} in one window and {other.get(key)!r} in another"
            if not allow:
                raise ComparisonError(what, remedy="drive both sides with the same workload")
            said.append(what)


def _pairs(labels: tuple[str, str], sides: Sequence[Side], said: list[str]) -> tuple[Side, Side]:
    by_repeat = [{window.repeat: (records, window) for records, window in side} for side in sides]
    common = sorted(by_repeat[0].keys() & by_repeat[1].keys())
    if not common:
        raise ComparisonError(f"{labels[0]} and {labels[1]} have no repeat in common", remedy="measure both sides in each repeat")
    left_out = len(sides[0]) + len(sides[1]) - 2 * len(common)
    if left_out:
        said.append(f"{left_out} window{'s' * (left_out > 1)} without a partner left out")
    return [by_repeat[0][repeat] for repeat in common], [by_repeat[1][repeat] for repeat in common]


def _check_requests(a: Digest, window_a: Window, b: Digest, window_b: Window, allow: bool, said: list[str]) -> None:
    """Equal seed and, index by index, equal lengths. A closed loop of a given time sends what it can: a faster side more."""
    problem = ""
    seeds = [window.workload.get("seed") for window in (window_a, window_b)]
    asked = [_asked(records, window) for records, window in ((a, window_a), (b, window_b))]
    counts = [len(side) for side in asked]
    common, *rows = np.intersect1d(asked[0][:, 0], asked[1][:, 0], return_indices=True)
    pairs = [side[at, 1:] for side, at in zip(asked, rows, strict=True)]
    unequal = np.flatnonzero((pairs[0] != pairs[1]).any(axis=1))
    as_many_as_it_can = window_a.workload.get("concurrency") is not None and window_a.workload.get("duration_s") is not None
    if seeds[0] != seeds[1]:
        problem = f"unequal work: repeat {window_a.repeat} has seed {seeds[0]} on one side and {seeds[1]} on the other"
    elif len(unequal):
        lengths = " and ".join("ISL {}, OSL {}".format(*side[unequal[0]]) for side in pairs)
        problem = f"unequal work: request {common[unequal[0]]} of repeat {window_a.repeat} has {lengths}"
    elif len(common) < max(counts) and not as_many_as_it_can:
        problem = f"unequal work: repeat {window_a.repeat} has {counts[0]} requests on one side, {counts[1]} on the other"
    if problem and not allow:
        raise ComparisonError(problem, remedy="measure both sides of a pair from the same seed and to the end")
    if problem:
        said.append(problem)


def _asked(records: Digest, window: Window) -> Ints:
    """Index, ISL and OSL of every request that was measured, as rows of three."""
    table = records.requests
    mine = (ints(table, "measurement") == window.measurement) & equals(table, "phase", "measure")
    return np.column_stack([ints(table, name)[mine] for name in ("index", "isl", "osl")])


def _failed(side: list[Measured]) -> int:
    return sum(int((one.requests.measured & ~one.requests.ok).sum()) for one in side)


def _marks(side: Side, dummy: bool) -> tuple[Mark, ...]:
    found: dict[str, Mark] = {}
    for records, window in side:
        for mark in marks(records, window, dummy_weights=dummy):
            if mark.kind != "few_requests":  # percentiles are pooled: each row says itself what it lacks
                found.setdefault(mark.kind, mark)
    return tuple(sorted(found.values(), key=lambda mark: mark.severity != "warning"))
