"""Two sides, the same requests, equal hardware: what differs, by how much, with what certainty.

Pure analysis of windows that were measured; nothing is launched here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from labkit.errors import ComparisonError, UnknownMetric
from labkit.experiments.conditions import Conditions, conditions
from labkit.experiments.equal_work import check_hardware, check_requests, check_workload
from labkit.experiments.quantities import QUANTITIES, Measured, Quantity, measure
from labkit.experiments.sides import Side, aligned_sides, pairs, sides_of, sides_of_runs
from labkit.live.pin import KIND as PIN
from labkit.measure.digest import Digest
from labkit.measure.groups import grouped_bootstrap
from labkit.measure.interference import Interference, Scope, interference
from labkit.measure.metrics import is_open_loop
from labkit.measure.records import Records
from labkit.measure.statistics import Bootstrapped, Interval, Repeat, weighted_total
from labkit.measure.validity import Mark, grouped, marks_of
from labkit.spec.slo import Slo
from labkit.store.run import Run

_OTHERS = "other requests arrived on either side"

__all__ = ["Comparison", "Row", "compare", "compare_runs", "ratio_of"]


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
        a_interval, b_interval: of each side's own value; ``None`` where it has none.
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
    a_interval: Interval | None = None
    b_interval: Interval | None = None


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
        cancelled: of the requests, cancelled by a stop of the load, per side.
        equal_hardware: whether both sides held as many accelerators.
        notes: what else a reader must know.
        interference: per side label, what prefills on the same worker, and anywhere, do to the gaps between tokens.
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
    cancelled: tuple[int, int] = (0, 0)
    equal_hardware: bool = True
    notes: tuple[str, ...] = ()
    interference: Mapping[str, Mapping[Scope, Interference]] = field(default_factory=dict)

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
    sides = sides_of(records, side_a, side_b)
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
    names, sides = sides_of_runs(run_a, run_b, side_a, side_b)
    manifests = (run_a.manifest, run_b.manifest)
    note = [] if run_a.path == run_b.path else ["the sides were measured in separate runs, not interleaved"]
    tools = [(manifest.get("source") or {}).get("tool", "labkit") for manifest in manifests]
    if tools[0] != tools[1]:
        note.append(f"the sides were measured by {tools[0]} and {tools[1]}, which do not define every instant alike")
    return _compare(names, sides, slo, seed, allow_unequal, manifests, resamples, note)


def ratio_of(
    records: Records | Digest, side_a: str, side_b: str, key: str, *, slo: Slo | None = None, seed: int = 0, resamples: int = 1000
) -> Interval | None:
    """One quantity of side B over side A in one run, as ``compare`` has it; ``None`` where a side has no value.

    Args:
        key: of the quantity, such as ``itl_p99_s``; the other arguments are those of ``compare``.

    Raises:
        ComparisonError: a side that was not measured.
    """
    sides = sides_of(records, side_a, side_b)
    paired = aligned_sides(*pairs((side_a, side_b), sides, []))
    measured_a, measured_b = ([measure(records, window, slo) for records, window in side] for side in paired)
    (quantity,) = (quantity for quantity in QUANTITIES if quantity.key == key)
    return _row(quantity, measured_a, measured_b, seed, resamples).ratio


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
    pins = all(manifest.get("kind") == PIN for manifest in manifests)
    equal = check_hardware(labels, windows, allow_unequal, said)
    check_workload(windows, allow_unequal, said, stretches=pins)
    paired_a, paired_b = pairs(labels, sides, said)
    others = ""
    for (records_a, window_a), (records_b, window_b) in zip(paired_a, paired_b, strict=True):
        try:
            check_requests(records_a, window_a, records_b, window_b, allow_unequal and not pins, said)
        except ComparisonError as error:
            if not pins:
                raise
            others = error.what
    if others:
        said.append(f"pins, stretches of a load without an end, with other requests on either side ({others})")
    if not pins:  # each has found its own beginning
        paired_a, paired_b = aligned_sides(paired_a, paired_b)
    measured_a, measured_b = ([measure(records, window, slo) for records, window in side] for side in (paired_a, paired_b))
    rows = tuple(_row(quantity, measured_a, measured_b, seed, resamples) for quantity in QUANTITIES)
    if others and any(is_open_loop(window) for side in windows for window in side):
        totals = {quantity.key for quantity in QUANTITIES if quantity.statistic is weighted_total}
        rows = tuple(replace(row, ratio=None, reason=_OTHERS) if row.key in totals else row for row in rows)
    held = [[window for _, window in side] for side in (paired_a, paired_b)]
    about = conditions((held[0], manifests[0]), (held[1], manifests[-1]))
    marked = {
        label: marks_of_side(side, manifest)
        for label, side, manifest in zip(labels, (paired_a, paired_b), (manifests[0], manifests[-1]), strict=True)
    }
    said += _one_sided(marked)
    return Comparison(
        side_a=labels[0],
        side_b=labels[1],
        rows=rows,
        repeats=len(paired_a),
        requests=sum(int(one.requests.measured.sum()) for one in (*measured_a, *measured_b)),
        failed=(_count(measured_a, "failed"), _count(measured_b, "failed")),
        cancelled=(_count(measured_a, "cancelled"), _count(measured_b, "cancelled")),
        slo=slo,
        conditions=about,
        marks=marked,
        equal_hardware=equal,
        notes=tuple(dict.fromkeys(said)),
        interference={label: interference(side, seed=seed) for label, side in zip(labels, (paired_a, paired_b), strict=True)},
    )


def _row(quantity: Quantity, measured_a: list[Measured], measured_b: list[Measured], seed: int, resamples: int) -> Row:
    a, why_a = quantity.pooled(measured_a)
    b, why_b = quantity.pooled(measured_b)
    found = Bootstrapped(None, None, None)
    if a is not None or b is not None:
        values = [
            [Repeat.of([]) if pooled is None else quantity.values(one, len(side)) for one in side]
            for pooled, side in ((a, measured_a), (b, measured_b))
        ]
        found = grouped_bootstrap(
            values[0], values[1], quantity.statistic, quantity.q, seed=seed, resamples=resamples, least=quantity.least
        )
    ratio = None if a is None or b is None else found.ratio
    reason = why_a or why_b or ("" if ratio is not None else f"side {'B' if a else 'A'} is 0")
    each = ([quantity.pooled([one])[0] for one in side] for side in (measured_a, measured_b))
    a_repeats, b_repeats = (tuple(values) for values in each)
    return Row(
        quantity.key, quantity.label, quantity.unit, quantity.lower_is_better, a, b, a_repeats, b_repeats, ratio, reason,
        a_interval=None if a is None else found.a, b_interval=None if b is None else found.b,
    )  # fmt: skip


def _count(side: list[Measured], which: Literal["failed", "cancelled"]) -> int:
    return sum(int((one.requests.measured & getattr(one.requests, which)).sum()) for one in side)


def marks_of_side(side: Side, manifest: Mapping[str, Any]) -> tuple[Mark, ...]:
    """The marks of a side's windows: each kind once, with the share of the repeats that have it where that is not all of them."""
    named = [(f"#{window.repeat + 1}", marks_of(records, window, manifest)) for records, window in side]
    found = [
        mark if len(names) == len(side) else replace(mark, text=f"{mark.text} (in {', '.join(names)} of {len(side)} repeats)")
        for mark, names in grouped(named).values()
        if mark.kind != "few_requests"  # percentiles are pooled: each row says itself what it lacks
    ]
    return tuple(sorted(found, key=lambda mark: mark.severity != "warning"))


def _one_sided(marked: Mapping[str, tuple[Mark, ...]]) -> list[str]:
    """What spoils one side alone may be the difference that a reader sees."""
    kinds = {label: {mark.kind for mark in marks if mark.severity == "warning"} for label, marks in marked.items()}
    said = []
    for label in marked:
        others = set().union(*(kinds[other] for other in marked if other != label))
        if alone := sorted(kinds[label] - others):
            said.append(f"unequal conditions: {label} alone is marked {', '.join(alone)}, and differences may come of it")
    return said
