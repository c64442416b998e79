"""Why is one side slower than the other? Where each request's time went on both, what that comes of, and what to try.

The answer is arithmetic before it is opinion: the stages of a request add up to its time (``measure.stages``), so the difference
of two sides is the sum of their stages' differences, and ``causes`` shares it out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from labkit.errors import ComparisonError
from labkit.experiments.causes import STAGE_NAMES, Case, Cause, StageRow, causes_of, milliseconds
from labkit.experiments.sides import Side, aligned_sides, pairs, sides_of, sides_of_runs
from labkit.measure.columns import Floats
from labkit.measure.digest import Digest
from labkit.measure.pressure import pressures
from labkit.measure.records import Records
from labkit.measure.simulated import is_simulated
from labkit.measure.stages import STAGES, TO_FIRST_TOKEN, Stages, differences, stages_of
from labkit.store.run import Run

_FIRST, _WHOLE = "to the first token", "whole request"
_WIDTH: Final = 110


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Where the time went, and why.

    Attributes:
        side_a, side_b: labels.
        stages: in the order of a request's life.
        first_token, whole: to the first token and to the last, from the scheduled send.
        causes: what makes side B slower, the costliest first; empty where nothing does.
        notes: what else a reader must know.
    """

    side_a: str
    side_b: str
    stages: tuple[StageRow, ...]
    first_token: StageRow
    whole: StageRow
    causes: tuple[Cause, ...]
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """Whether side B is slower, by how much, and in which part of a request's life."""
        whole, first = self.whole, self.first_token
        low, high, all_of_it, before, after = (
            milliseconds(seconds, signed=True)
            for seconds in (
                whole.low_s, whole.high_s, whole.difference_s, first.difference_s, whole.difference_s - first.difference_s,
            )
        )  # fmt: skip
        said = f"{milliseconds(whole.a_s)} → {milliseconds(whole.b_s)} a request ({all_of_it} [{low}, {high}])"
        parts = f"{before} to the first token, {after} after it"
        if not whole.is_shown:
            return f"No difference of {self.side_b} against {self.side_a} is shown, {said}: {parts}."
        return f"{self.side_b} is {'slower' if whole.difference_s > 0 else 'faster'} than {self.side_a}, {said}: {parts}."

    @property
    def gains(self) -> tuple[StageRow, ...]:
        """Stages that side B is faster in, the largest gain first."""
        found = (row for row in self.stages if row.is_shown and row.difference_s < 0)
        return tuple(sorted(found, key=lambda row: row.difference_s))

    @property
    def table(self) -> str:
        """A line a stage: means in ms, the difference with its interval, ``*`` where that leaves 0 out."""
        rows = [("mean ms a request", self.side_a, self.side_b, "difference", "95 % interval", "")]
        for row in (*self.stages[:TO_FIRST_TOKEN], self.first_token, *self.stages[TO_FIRST_TOKEN:], self.whole):
            a, b, difference, low, high = (
                f"{seconds * 1e3:,.1f}" for seconds in (row.a_s, row.b_s, row.difference_s, row.low_s, row.high_s)
            )
            rows.append(
                (STAGE_NAMES.get(row.stage, row.stage), a, b, difference, f"{low} to {high}", "*" if row.is_shown else "")
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                f"{cell:{'<' if at == 0 else '>'}{width}}" for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join(line.rstrip() for line in (lines[0], "─" * len(lines[0]), *lines[1:]))

    def __str__(self) -> str:
        return "\n".join([self.table, "", *self._lines()])

    __repr__ = __str__

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def _lines(self) -> Iterator[str]:
        def wrapped(text: str, first: str = "", then: str = "") -> list[str]:
            return textwrap.wrap(
                text, _WIDTH, initial_indent=first, subsequent_indent=then or " " * len(first), break_on_hyphens=False
            )

        yield from wrapped(self.headline)
        for number, cause in enumerate(self.causes, 1):
            yield from wrapped(f"{cause.what}: {milliseconds(cause.cost_s, signed=True)} a request", f"{number}. ")
            yield from wrapped("; ".join(cause.evidence), "   ")
            yield from wrapped(f"try {cause.remedy}", "   → ")
        for row in self.gains:
            yield f"In its favour: {STAGE_NAMES[row.stage]} {milliseconds(row.a_s)} → {milliseconds(row.b_s)}"
        for note in self.notes:
            yield from wrapped(note, "! ")


def diagnose(
    records: Records | Digest, side_a: str, side_b: str, *, manifest: Mapping[str, Any] | None = None, seed: int = 0
) -> Diagnosis:
    """Why side B of a run is slower than its side A, or is not.

    Args:
        records: of a run whose windows carry both sides.
        side_a, side_b: labels of ``Window.side``.
        manifest: of the run, for the workers' roles and devices.
        seed: of the intervals.

    Raises:
        ComparisonError: a side that was not measured, or of whose requests no worker told.
    """
    known = manifest or {}
    return _diagnose((side_a, side_b), sides_of(records, side_a, side_b), (known, known), seed)


def explain(run: Run, side_a: str, side_b: str, *, seed: int = 0) -> Diagnosis | str:
    """As ``diagnose``, with words for an answer where nobody told where the time went: simulated workers send no spans."""
    try:
        return diagnose(run.digest(), side_a, side_b, manifest=run.manifest, seed=seed)
    except ComparisonError as error:
        simulated = "Simulated workers send no spans: " if is_simulated(run.manifest) else ""
        return "\n".join(textwrap.wrap(f"Where the time went is not known. {simulated}{error.what}.", _WIDTH))


def diagnose_runs(run_a: Run, run_b: Run, *, side_a: str | None = None, side_b: str | None = None, seed: int = 0) -> Diagnosis:
    """Why a side of run B is slower than a side of run A; a run with one side needs no label.

    Raises:
        ComparisonError: as for ``diagnose``, and a run of several sides without a label.
    """
    labels, sides = sides_of_runs(run_a, run_b, side_a, side_b)
    return _diagnose(labels, sides, (run_a.manifest, run_b.manifest), seed)


def _diagnose(
    labels: tuple[str, str], sides: tuple[Side, Side], manifests: tuple[Mapping[str, Any], Mapping[str, Any]], seed: int
) -> Diagnosis:
    notes: list[str] = []
    side_a, side_b = aligned_sides(*pairs(labels, sides, notes))
    found = [[stages_of(records, window) for records, window in side] for side in (side_a, side_b)]
    for label, side in zip(labels, found, strict=True):
        if not any(map(len, side)):
            raise ComparisonError(
                f"no worker told of any request of {label}, so where its time went is not known",
                remedy="measure with workers of the lab, which send spans; an attached endpoint or an imported run has none",
            )
        notes += _untold(label, side)
    seconds = [[one.seconds for one in side if len(one)] for side in found]
    told = differences(*([_with_sums(repeat) for repeat in side] for side in seconds), seed=seed)
    names = (*STAGES, _FIRST, _WHOLE)
    rows = {
        name: StageRow(name, *(float(column[at]) for column in (told.a, told.b, told.low, told.high)))
        for at, name in enumerate(names)
    }
    pressed = pressures(side_a, manifests[0]), pressures(side_b, manifests[1])
    return Diagnosis(
        *labels,
        stages=tuple(rows[name] for name in STAGES),
        first_token=rows[_FIRST],
        whole=rows[_WHOLE],
        causes=causes_of(Case(side_b, rows, np.concatenate(seconds[1]), pressed)),
        notes=tuple(notes),
    )


def _with_sums(seconds: Floats) -> Floats:
    return np.column_stack([seconds, seconds[:, :TO_FIRST_TOKEN].sum(axis=1), seconds.sum(axis=1)])


def _untold(label: str, side: Sequence[Stages]) -> list[str]:
    untold, known = sum(one.untold for one in side), sum(map(len, side))
    return [f"{label}: no worker told of {untold} of {untold + known} requests, which are left out"] if untold else []
