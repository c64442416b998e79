"""Sides of one run or of many beside each other: what differs, each quantity, and ratios where they are honest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from labkit.errors import ComparisonError
from labkit.experiments.compare import Comparison, compare_runs, marks_of_side
from labkit.experiments.differences import Differences, differences, facts_of
from labkit.experiments.quantities import QUANTITIES, measure
from labkit.experiments.sides import windows_of_side
from labkit.measure.statistics import Interval
from labkit.measure.validity import Kind, Mark
from labkit.spec.slo import Slo
from labkit.store.run import Run

_KINDS: Final[Mapping[Kind, str]] = {"foreign_cpu": "foreign CPU", "shared_gpu": "shared GPU", "shared_core": "shared core"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One quantity of one column: pooled over its repeats, or ``None`` with a reason; ``ratio`` is to the first column."""

    value: float | None
    reason: str = ""
    ratio: Interval | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """One side of one run.

    Attributes:
        run, side: whose.
        repeats, requests, failed, cancelled: windows, requests scheduled in them, and those that failed or that a stop cancelled.
        cells: per quantity.
        marks: of its windows, each kind once.
        unequal: why there are no ratios to the first column; empty where there are, and for the first.
        notes: what a reader of the ratios must know.
    """

    run: str
    side: str
    repeats: int
    requests: int
    failed: int
    cancelled: int
    cells: Mapping[str, Cell]
    marks: tuple[Mark, ...] = ()
    unequal: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Columns in the order in which they were named.

    Attributes:
        columns: at least two.
        differences: of their conditions.
        slo: what goodput is of.
        comparison: of the only other column with the first, where there are two that can be compared.
    """

    columns: tuple[Column, ...]
    differences: Differences
    slo: Slo | None = None
    comparison: Comparison | None = field(default=None, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What to call each column: its run, or its side, or both, as far as it takes to tell them apart."""
        runs, sides = [one.run for one in self.columns], [one.side for one in self.columns]
        if len(set(runs)) == len(runs):
            return tuple(runs)
        return tuple(sides) if len(set(runs)) == 1 else tuple(f"{one.run}:{one.side}" for one in self.columns)

    @property
    def marks_differ(self) -> tuple[str, ...]:
        """``foreign CPU in b only``: marks that not every column has."""
        kinds = [{mark.kind for mark in one.marks} for one in self.columns]
        said = []
        for kind in dict.fromkeys(mark.kind for one in self.columns for mark in one.marks):
            having = [name for name, mine in zip(self.names, kinds, strict=True) if kind in mine]
            if len(having) < len(kinds):
                said.append(f"{_KINDS.get(kind, kind.replace('_', ' '))} in {' and '.join(having)} only")
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        columns = [asdict(one) for one in self.columns]
        return {
            "columns": columns,
            "quantities": [{"key": one.key, "label": one.label, "unit": one.unit} for one in QUANTITIES],
            "slo": None if self.slo is None else asdict(self.slo),
            **self.conditions(),
        }

    def conditions(self) -> dict[str, Any]:
        """What differs between the columns and what does not, JSON-ready."""
        return {**asdict(self.differences), "marks_differ": list(self.marks_differ)}


def side_by_side(
    picked: Sequence[tuple[Run, str]],
    *,
    slo: Slo | None = None,
    seed: int = 0,
    allow_unequal: bool = False,
    resamples: int = 2000,
) -> SideBySide:
    """Set sides of runs beside each other.

    Ratios are to the first column, and only of columns that held as many accelerators and did the same work; the others say why
    they have none.

    Args:
        picked: runs with a side of each.
        slo: for goodput.
        seed: of the bootstrap.
        allow_unequal: give ratios of unequal columns too; their notes say what is unequal.
        resamples: of the bootstrap.

    Raises:
        ComparisonError: fewer than two columns, one twice, or a side that was not measured.
    """
    if len(picked) < 2:
        raise ComparisonError("one side alone is no comparison", remedy="name another run, or another side of this one")
    for at, (run, side) in enumerate(picked):
        if any(run.path == other.path and side == beside for other, beside in picked[:at]):
            raise ComparisonError(f"side {side!r} of run {run.id} was named twice", remedy="name each side once")
    (first, first_side), *others = picked
    columns, facts = [], []
    comparison = None
    for at, (run, side) in enumerate(picked):
        column = _column(run, side, slo)
        if at:
            column, comparison = _against(first, first_side, run, column, slo, seed, allow_unequal, resamples)
        columns.append(column)
        facts.append(facts_of(run.manifest, [window for window in run.windows if window.side == side]))
    return SideBySide(tuple(columns), differences(facts), slo, comparison if len(others) == 1 else None)


def _column(run: Run, side: str, slo: Slo | None) -> Column:
    records = run.digest()
    mine = [(records, window) for window in windows_of_side(records, side)]
    measured = [measure(each, window, slo) for each, window in mine]
    cells = {quantity.key: Cell(*quantity.pooled(measured)) for quantity in QUANTITIES}
    return Column(
        run=run.id,
        side=side,
        repeats=len(mine),
        requests=sum(int(one.requests.measured.sum()) for one in measured),
        failed=sum(int((one.requests.measured & one.requests.failed).sum()) for one in measured),
        cancelled=sum(int((one.requests.measured & one.requests.cancelled).sum()) for one in measured),
        cells=cells,
        marks=marks_of_side(mine, run.manifest),
    )


def _against(
    first: Run, first_side: str, run: Run, column: Column, slo: Slo | None, seed: int, allow_unequal: bool, resamples: int
) -> tuple[Column, Comparison | None]:
    """A column with its ratios to the first, or with the reason why it has none."""
    try:
        found = compare_runs(
            first,
            run,
            side_a=first_side,
            side_b=column.side,
            slo=slo,
            seed=seed,
            allow_unequal=allow_unequal,
            resamples=resamples,
        )
    except ComparisonError as error:
        return replace(column, unequal=error.what), None
    ratios = {row.key: row.ratio for row in found.rows}
    cells = {key: Cell(cell.value, cell.reason, ratios[key]) for key, cell in column.cells.items()}
    return replace(column, cells=cells, notes=found.notes), found
