"""Two sides, the same requests, equal hardware: what differs, by how much, with what certainty.

Pure analysis of windows that were measured; nothing is launched here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from labkit.errors import ComparisonError, UnknownMetric
from labkit.experiments.conditions import Conditions, conditions
from labkit.experiments.differences import complete_workload
from labkit.experiments.quantities import QUANTITIES, Measured, Quantity, measure
from labkit.measure.columns import UNKNOWN, Ints, equals, ints
from labkit.measure.digest import Digest, digest
from labkit.measure.groups import grouped_bootstrap
from labkit.measure.interference import Interference, Scope, interference
from labkit.measure.records import UNRECORDED, Records, Window
from labkit.measure.statistics import Bootstrapped, Interval, Repeat
from labkit.measure.validity import Mark, grouped, marks_of
from labkit.measure.warmup import aligned
from labkit.spec.slo import Slo
from labkit.store.run import Run

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
    sides = _sides(records, side_a, side_b)
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
        sides.append([(records, window) for window in windows_of_side(records, label)])
    names = tuple(
        f"{label} ({run.id})" if labels[0] == labels[1] else label for label, run in zip(labels, (run_a, run_b), strict=True)
    )
    manifests = (run_a.manifest, run_b.manifest)
    note = [] if run_a.path == run_b.path else ["the sides were measured in separate runs, not interleaved"]
    tools = [(manifest.get("source") or {}).get("tool", "labkit") for manifest in manifests]
    if tools[0] != tools[1]:
        note.append(f"the sides were measured by {tools[0]} and {tools[1]}, which do not define every instant alike")
    return _compare((names[0], names[1]), (sides[0], sides[1]), slo, seed, allow_unequal, manifests, resamples, note)


def ratio_of(
    records: Records | Digest, side_a: str, side_b: str, key: str, *, slo: Slo | None = None, seed: int = 0, resamples: int = 1000
) -> Interval | None:
    """One quantity of side B over side A in one run, as ``compare`` has it; ``None`` where a side has no value.

    Args:
        key: of the quantity, such as ``itl_p99_s``; the other arguments are those of ``compare``.

    Raises:
        ComparisonError: a side that was not measured.
    """
    sides = _sides(records, side_a, side_b)
    paired = _aligned(*_pairs((side_a, side_b), sides, []))
    measured_a, measured_b = ([measure(records, window, slo) for records, window in side] for side in paired)
    (quantity,) = (quantity for quantity in QUANTITIES if quantity.key == key)
    return _row(quantity, measured_a, measured_b, seed, resamples).ratio


Side = list[tuple[Digest, Window]]


def _sides(records: Records | Digest, side_a: str, side_b: str) -> tuple[Side, Side]:
    taken = records if isinstance(records, Digest) else digest(records)
    a, b = ([(taken, window) for window in windows_of_side(records, side)] for side in (side_a, side_b))
    return a, b


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
    paired_a, paired_b = _aligned(paired_a, paired_b)
    measured_a, measured_b = ([measure(records, window, slo) for records, window in side] for side in (paired_a, paired_b))
    rows = tuple(_row(quantity, measured_a, measured_b, seed, resamples) for quantity in QUANTITIES)
    about = conditions([window for _, window in (*paired_a, *paired_b)], manifests)
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
        failed=(_failed(measured_a), _failed(measured_b)),
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
    reason = why_a or why_b or ("" if ratio is not None else "side A is 0")
    each = ([quantity.pooled([one])[0] for one in side] for side in (measured_a, measured_b))
    a_repeats, b_repeats = (tuple(values) for values in each)
    return Row(
        quantity.key, quantity.label, quantity.unit, quantity.lower_is_better, a, b, a_repeats, b_repeats, ratio, reason,
        a_interval=None if a is None else found.a, b_interval=None if b is None else found.b,
    )  # fmt: skip


def windows_of_side(records: Records | Digest, side: str) -> list[Window]:
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
    first, *others = [{**complete_workload(window.workload), "seed": None, "warmup": None} for side in windows for window in side]
    if any(UNRECORDED in work.values() for work in (first, *others)):
        said.append("an imported side does not say all of its work: it is held to be equal by what it does say")
    for other in others:
        common = [key for key in first.keys() | other.keys() if UNRECORDED not in (first.get(key), other.get(key))]
        differs = sorted(key for key in common if first.get(key) != other.get(key))
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
    """Equal seed and, index by index, equal lengths, as far as they were recorded.

    A closed loop of a given time sends what it can: a faster side more.
    """
    problem = ""
    seeds = [window.workload.get("seed") for window in (window_a, window_b)]
    asked = [_asked(records, window) for records, window in ((a, window_a), (b, window_b))]
    counts = [len(side) for side in asked]
    common, *rows = np.intersect1d(asked[0][:, 0], asked[1][:, 0], return_indices=True)
    lengths = _lengths(*(side[at, 1:] for side, at in zip(asked, rows, strict=True)))
    unequal = np.flatnonzero((lengths[0] != lengths[1]).any(axis=1))
    recorded = {name for name, value in window_a.workload.items() if value not in (None, UNRECORDED)}
    closed, timed, talks = (name in recorded for name in ("concurrency", "duration_s", "turns"))
    as_many_as_it_can = talks or (closed and timed)  # a failed turn, or a slow server, leaves out later ones
    if UNRECORDED not in seeds and seeds[0] != seeds[1]:
        problem = f"unequal work: repeat {window_a.repeat} has seed {seeds[0]} on one side and {seeds[1]} on the other"
    elif len(unequal):
        first = unequal[0]
        words = " and ".join("ISL {}, OSL {}".format(*side[first]) for side in lengths)
        problem = f"unequal work: request {common[first]} of repeat {window_a.repeat} has {words}"
    elif len(common) < max(counts) and not as_many_as_it_can:
        problem = f"unequal work: repeat {window_a.repeat} has {counts[0]} requests on one side, {counts[1]} on the other"
    if problem and not allow:
        raise ComparisonError(problem, remedy="measure both sides of a pair from the same seed and to the end")
    if problem:
        said.append(problem)


def _asked(records: Digest, window: Window) -> Ints:
    """Per request that was measured: index, ISL and OSL as asked for, prompt and answer as counted where it ended well.

    Rows of five; -1 where not recorded.
    """
    table = records.requests
    mine = (ints(table, "measurement") == window.measurement) & equals(table, "phase", "measure")
    ok = equals(table, "outcome", "ok")
    asked = [ints(table, name, UNKNOWN) for name in ("index", "isl", "osl")]
    counted = [np.where(ok, ints(table, name, UNKNOWN), UNKNOWN) for name in ("prompt_tokens", "output_tokens")]
    return np.column_stack([column[mine] for column in (*asked, *counted)])


def _lengths(one: Ints, other: Ints) -> tuple[Ints, Ints]:
    """The lengths that requests are held equal by: those asked for, or, where an import does not say, those counted."""
    known = ((one[:, :2] != UNKNOWN) & (other[:, :2] != UNKNOWN)).all(axis=1)[:, None]
    mine, theirs = (np.where(known, side[:, :2], side[:, 2:]) for side in (one, other))
    both = (mine != UNKNOWN) & (theirs != UNKNOWN)
    return np.where(both, mine, UNKNOWN), np.where(both, theirs, UNKNOWN)


def _failed(side: list[Measured]) -> int:
    return sum(int((one.requests.measured & ~one.requests.ok).sum()) for one in side)


def _aligned(side_a: Side, side_b: Side) -> tuple[Side, Side]:
    """The windows of each pair from the same request on: what was found to be warm-up on one side is left out on both."""
    windows_a, windows_b = zip(*(aligned(pair) for pair in zip(side_a, side_b, strict=True)), strict=True)
    return _counted(side_a, windows_a), _counted(side_b, windows_b)


def _counted(side: Side, windows: Sequence[Window]) -> Side:
    """A side, which is of one run, in other windows: counted in together where they are new."""
    records = side[0][0].counted(windows)
    return [(records, window) for window in windows]


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
