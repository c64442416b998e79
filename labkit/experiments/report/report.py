"""Any set of runs as one report: conditions, figures in numbers, and a verdict for each claim that the runs can speak to."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from labkit.errors import LabError, SpecError
from labkit.experiments.conclude import said_by
from labkit.experiments.differences import Differences, Facts, differences, facts_of
from labkit.experiments.report.about import about, method
from labkit.experiments.report.claims import Judged, Outcome
from labkit.experiments.report.cohorts import Cohort, cohorts_of, entries_of
from labkit.experiments.report.evidence import Material, judge_all
from labkit.experiments.table import value_text
from labkit.experiments.verdict import verdict
from labkit.live.pin import Estimate, Pin
from labkit.measure.validity import Mark, grouped, marks_of
from labkit.store.run import Run, list_runs, open_run

#: Kind of the runs that reports are kept as.
KIND: Final = "report"
#: Kind of the runs that say more than their sides do.
SEARCH: Final = "search"
#: What the metrics of a point are called, with their unit on screen, in the order of the table.
FIGURES: Final = (
    ("output_tok_s_per_accelerator", "output per accelerator", "tok/s"),
    ("tok_s_per_user", "tokens/s per user (1 / median TPOT)", "tok/s"),
    ("ttft_p50_s", "TTFT p50", "ms"),
    ("ttft_p99_s", "TTFT p99", "ms"),
    ("tpot_p50_s", "TPOT p50", "ms"),
    ("tpot_p99_s", "TPOT p99", "ms"),
    ("itl_p50_s", "ITL p50", "ms"),
    ("itl_p99_s", "ITL p99", "ms"),
    ("goodput_hz", "goodput", "req/s"),
)
_WIDTH: Final = 96
_FEW_NAMES: Final = 3


@dataclass(frozen=True, slots=True)
class RunLine:
    """A run as the report lists it. ``said``: what the run's own experiment concluded; ``warnings``: its marks."""

    id: str
    path: Path
    kind: str
    status: str
    started: str
    splits: tuple[str, ...]
    said: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a set of runs holds.

    Attributes:
        runs: as they are listed.
        facts: what the runs state alike, what differs, with the text of each run, and what some of them do not state.
        cohorts: sides under equal conditions.
        claims: every claim with its verdict.
        left_out: what could not be used, and why.
        method: how the figures came about, in sentences.
    """

    runs: tuple[RunLine, ...]
    facts: Differences
    cohorts: tuple[Cohort, ...]
    claims: tuple[Judged, ...]
    left_out: tuple[str, ...]
    method: tuple[str, ...] = ()

    @property
    def common(self) -> Facts:
        """Facts that all runs state alike."""
        return self.facts.same

    @property
    def differing(self) -> Mapping[str, tuple[str | None, ...]]:
        """Facts that differ, with the text of each run."""
        return self.facts.differs

    @property
    def about(self) -> tuple[str, ...]:
        """Conditions and versions in short, a line each."""
        return about(self.facts)

    @property
    def told(self) -> tuple[Judged, ...]:
        """Claims that the runs speak to."""
        return tuple(one for one in self.claims if one.outcome is not Outcome.NOT_TESTED)

    @property
    def findings(self) -> tuple[RunLine, ...]:
        """Runs with a conclusion of their own that no pair here says already."""
        compared = {run for cohort in self.cohorts for pair in cohort.pairs for run in pair.runs}
        return tuple(line for line in self.runs if line.said and (line.id not in compared or line.kind == SEARCH))

    def to_dict(self) -> dict[str, Any]:
        """The verdicts with what they hold under, JSON-ready."""
        return {
            "runs": [line.id for line in self.runs],
            "claims": [
                {"key": one.claim.key, "claim": one.claim.text, "outcome": str(one.outcome), "reason": one.reason}
                for one in self.claims
            ],
            "left_out": list(self.left_out),
            "conditions": list(self.about),
            "method": list(self.method),
        }

    def __str__(self) -> str:
        return "\n".join(_text(self))

    __repr__ = __str__


def pick_runs(results: Path, ids: Sequence[str] | None = None) -> list[Run]:
    """The runs to report on.

    Args:
        results: the folder that runs live in.
        ids: as ``labkit show`` takes them; by default every run that is not running and not itself a report, oldest first.

    Raises:
        StoreError: one is not there.
        SpecError: there are none.
    """
    if ids:
        return list({run.path.resolve(): run for run in (open_run(name, results) for name in ids)}.values())
    infos = [info for info in list_runs(results) if info.kind != KIND and info.status not in ("running", "unreadable")]
    if not infos:
        raise SpecError(f"there are no runs in {results} to report on", remedy="make one first, such as by notebook 01")
    return [open_run(info.path) for info in reversed(infos)]


def unread_runs(results: Path) -> list[str]:
    """A sentence for each run that ``pick_runs`` cannot take where it takes every one: its manifest cannot be read."""
    told = []
    for info in list_runs(results):
        if info.status == "unreadable":
            try:
                open_run(info.path)
            except LabError as error:
                told.append(f"run {info.id} cannot be read: {error.what}")
    return told


def report(runs: Sequence[Run], *, resamples: int = 1000, unread: Sequence[str] = ()) -> Report:
    """Read runs and judge the claims by them; nothing is measured.

    Args:
        runs: any, of any kind.
        resamples: of every bootstrap.
        unread: what to say of runs that are not among them because they cannot be read.

    Raises:
        SpecError: no run was given.
    """
    if not runs:
        raise SpecError("a report needs a run", remedy="name one or more: `labkit runs` lists them")
    readable, left_out = _readable(runs)
    left_out += unread
    cohorts = tuple(cohorts_of(entries_of(readable), left_out, resamples=resamples))
    facts = differences([_told(facts_of(run.manifest, run.windows)) for run in readable])
    return Report(
        runs=tuple(_line(run) for run in readable),
        facts=facts,
        cohorts=cohorts,
        claims=judge_all(Material(tuple(readable), cohorts)),
        left_out=tuple(left_out),
        method=method([window for run in readable for window in run.windows]),
    )


def _readable(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Runs whose records can be read; a damaged one is left out and named."""
    good, left_out = [], []
    for run in runs:
        try:
            run.digest()
        except LabError as error:
            left_out.append(f"run {run.id} cannot be read: {error.what}")
            continue
        good.append(run)
        if run.status != "finished":
            left_out.append(f"run {run.id} is {run.status}: what it had measured by then is used")
    return good, left_out


def _told(facts: Facts) -> Facts:
    """What a reader may want to know; seeds tell him nothing."""
    return {name: text for name, text in facts.items() if name != "workload.seed"}


def _line(run: Run) -> RunLine:
    records = run.digest()
    manifest = run.manifest
    marks = [(f"{window.side} #{window.repeat + 1}", marks_of(records, window, manifest)) for window in run.windows]
    warned = [(mark, names) for mark, names in grouped(marks).values() if mark.severity == "warning"]
    return RunLine(
        id=run.id,
        path=run.path,
        kind=str(manifest.get("kind", "")),
        status=run.status,
        started=str(manifest.get("started", "")),
        splits=tuple(dict.fromkeys(window.topology for window in run.windows)),
        said=said_by(run),
        warnings=tuple(_marked(mark, names, len(run.windows)) for mark, names in warned),
    )


def _marked(mark: Mark, names: Sequence[str], windows: int) -> str:
    """A mark with the measurements that have it, where not all do."""
    few = len(names) <= _FEW_NAMES
    where = "" if len(names) == windows else f" ({', '.join(names) if few else f'in {len(names)} of {windows} measurements'})"
    return f"{mark.text}{where}"


def figure_text(estimate: Estimate | None, unit: str) -> str:
    """A value with its interval: ``29.0 [28.1, 30.2]``; a dash where it is not known."""
    if estimate is None:
        return "–"
    value = value_text(estimate.value, unit)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{value_text(estimate.low, unit)}, {value_text(estimate.high, unit)}]"


def _text(found: Report) -> Iterator[str]:
    yield f"Report on {len(found.runs)} run{'s' * (len(found.runs) != 1)}"
    yield ""
    yield "Claims"
    for one in found.claims:
        yield from _folded(f"{_SIGNS[one.outcome]} {one.claim.text}: {headline(one)}", "    ")
        told = [(_HOLDS[each.holds], each) for each in one.evidence] + [("beside it,", each) for each in one.aside]
        for sign, each in told:
            yield from _folded(f"  {sign} {each.where}: {each.words} ({', '.join(each.runs)})", "      ")
    yield from _listed("Conditions", found.about)
    for cohort in found.cohorts:
        yield ""
        yield cohort.title
        yield from _grid(cohort)
        for pair in cohort.pairs:
            words = verdict(pair.comparison)
            yield from _folded(f"{words.headline} {words.tokens} {words.goodput}".strip(), "")
    said = found.findings
    if said:
        yield ""
        yield "What the runs concluded themselves"
        for line in said:
            yield f"{line.id} ({line.kind})"
            for text in line.said.splitlines():
                yield from _folded(f"  {text}", "  ")
    marked = [line for line in found.runs if line.warnings]
    for line in marked:
        for warning in line.warnings:
            yield from _folded(f"! {line.id}: {warning}", "  ")
    for text in found.left_out:
        yield from _folded(f"! {text}", "  ")
    yield from _listed("Method", found.method)


def _listed(head: str, texts: Sequence[str]) -> Iterator[str]:
    if texts:
        yield from ("", head)
        for text in texts:
            yield from _folded(text, "  ")


def headline(one: Judged) -> str:
    """The verdict in words: ``only when rate is 1.5 (not 4) (1 of 2 places)``."""
    return f"{one.outcome} {one.reason}" if one.outcome is Outcome.ONLY_WHEN else f"{one.outcome}: {one.reason}"


_SIGNS: Final = {
    Outcome.REPRODUCED: "✓",
    Outcome.NOT_REPRODUCED: "✗",
    Outcome.ONLY_WHEN: "◐",
    Outcome.UNDECIDED: "?",
    Outcome.NOT_TESTED: "–",
}
_HOLDS: Final = {True: "✓", False: "✗", None: "?"}


def _grid(cohort: Cohort) -> Iterator[str]:
    """Sides as columns, figures as rows."""
    rows = [("", *(point.label for point in cohort.points))]
    counts = zip(cohort.points, cohort.failed, strict=True)
    rows.append(("requests (failed)", *(f"{point.requests} ({failed})" for point, failed in counts)))
    rows += [(f"{label} ({unit})", *cells) for name, label, unit in FIGURES if any(cells := _cells(cohort.points, name, unit))]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cells(points: Sequence[Pin], name: str, unit: str) -> tuple[str, ...]:
    known = [point.metrics.get(name) for point in points]
    return tuple(figure_text(one, unit) for one in known) if any(known) else ()


def _folded(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]
