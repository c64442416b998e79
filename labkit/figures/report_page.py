"""A report as one HTML file: verdicts, tables and figures, without a script and without anything to load."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Final

from labkit.experiments.differences import Facts
from labkit.experiments.report import Judged, Outcome, Report
from labkit.experiments.report.about import NOT_RECORDED, PARTLY, short, versions_text
from labkit.experiments.report.cohorts import Cohort
from labkit.experiments.report.report import FIGURES, RunLine, figure_text
from labkit.experiments.verdict import Verdict, verdict
from labkit.harmless import escaped

STYLE: Final = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
_CLASS: Final[Mapping[Outcome, str]] = {
    Outcome.REPRODUCED: "yes", Outcome.NOT_REPRODUCED: "no", Outcome.ONLY_WHEN: "part", Outcome.UNDECIDED: "part",
    Outcome.NOT_TESTED: "soft",
}  # fmt: skip
_HOLDS: Final[Mapping[bool | None, tuple[str, str]]] = {
    True: ("holds", "yes"), False: ("does not hold", "no"), None: ("cannot tell", "part"),
}  # fmt: skip
#: Cells stand apart by two spaces or more; sentences and indented words do not have that within.
_ROW: Final = re.compile(r"\S {2,}\S|^─")
_WIDE: Final = ' class="rows"'


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as a file. ``of``: the number of the cohort, or the id of the run, that it belongs to."""

    of: int | str
    title: str
    svg: Path


def report_page(found: Report, pictures: Sequence[Picture]) -> str:
    """The page.

    Args:
        found: the report.
        pictures: SVG files that go into it.
    """
    parts = [
        _claims(found.claims),
        _conditions(found),
        *(_cohort(cohort, [one for one in pictures if one.of == number]) for number, cohort in enumerate(found.cohorts)),
        *(_finding(line, [one for one in pictures if one.of == line.id]) for line in found.findings),
        _runs(found),
        _method(found),
    ]
    count = len(found.runs)
    told = f"{len(found.told)} of {len(found.claims)} claims can be judged by {count} run{'s' * (count != 1)}"
    made = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>labkit report</title>
<style>{STYLE}</style></head><body><main>
<h1>Prefill and decode apart: what the runs say</h1><div class="sub">{told} · {made}</div>
{"".join(parts)}
</main></body></html>
"""


def _claims(claims: Sequence[Judged]) -> str:
    return f'<h2>Claims</h2><div class="card">{"".join(map(_claim, claims))}</div>'


def _claim(one: Judged) -> str:
    evidence = "".join(
        f'<li><span class="{_HOLDS[each.holds][1]}">{_HOLDS[each.holds][0]}</span>, {_text(each.where)}: {_text(each.words)} '
        f"{_links(each.runs)}</li>"
        for each in one.evidence
    )
    aside = "".join(
        f'<li class="soft">beside it, {_text(each.where)}: {_text(each.words)} {_links(each.runs)}</li>' for each in one.aside
    )
    listed = f"<ul>{evidence}{aside}</ul>" if evidence or aside else ""
    return (
        f'<div class="claim" id="claim-{one.claim.key}"><p class="outcome {_CLASS[one.outcome]}">{one.outcome}</p>'
        f'<div><p><strong>{_text(one.claim.text)}</strong></p><p class="soft">{_text(one.reason)}</p>{listed}</div></div>'
    )


def _conditions(found: Report) -> str:
    names = [line.id for line in found.runs]
    rows = [f"<tr><th></th>{''.join(f'<th>{_text(name)}</th>' for name in names)}</tr>"] if len(names) > 1 else []
    for name, texts in found.differing.items():
        cells = "".join(f"<td>{_text(short(text or NOT_RECORDED))}</td>" for text in texts)
        rows.append(f"<tr><th>{_text(name)}</th>{cells}</tr>")
    differing = f'<div class="card"><h3>What differs</h3><table>{"".join(rows)}</table></div>' if found.differing else ""
    common = _folded("The same in all runs", found.common)
    return f"<h2>Conditions</h2>{differing}{_folded(f'{PARTLY}; the value where recorded', found.facts.partly)}{common}"


def _folded(summary: str, facts: Facts) -> str:
    rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(text)}</td></tr>" for name, text in facts.items())
    return f'<details class="card"><summary>{summary}</summary><table>{rows}</table></details>' if rows else ""


def _cohort(cohort: Cohort, pictures: Sequence[Picture]) -> str:
    verdicts = "".join(_verdict(verdict(pair.comparison)) for pair in cohort.pairs)
    return f"<h2>{_text(cohort.title)}</h2>{_table(cohort)}{verdicts}{_pictures(pictures)}"


def _verdict(said: Verdict) -> str:
    main = "".join(f"<p>{_text(part)}</p>" for part in (said.headline, said.tokens, said.goodput, *said.interference) if part)
    more = "".join(f'<p class="soft">{_text(part)}</p>' for part in (said.conditions, *(f"! {mark}" for mark in said.marks)))
    return f'<div class="card words">{main}{more}</div>'


def _table(cohort: Cohort) -> str:
    head = "".join(f"<th>{_text(point.label)}</th>" for point in cohort.points)
    counts = "".join(
        f"<td>{point.requests:,} ({failed:,})</td>" for point, failed in zip(cohort.points, cohort.failed, strict=True)
    )
    rows = [f"<tr><th>requests (failed)</th>{counts}</tr>"]
    for name, label, unit in FIGURES:
        if any(point.metrics.get(name) for point in cohort.points):
            cells = "".join(f"<td>{_cell(figure_text(point.metrics.get(name), unit))}</td>" for point in cohort.points)
            rows.append(f"<tr><th>{label} ({unit})</th>{cells}</tr>")
    return f'<div class="card"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _cell(text: str) -> str:
    value, _, interval = text.partition(" ")
    return f"{value} <small>{interval}</small>" if interval else value


def _finding(line: RunLine, pictures: Sequence[Picture]) -> str:
    return (
        f'<h2>{_text(line.kind)}: run <a href="#run-{_text(line.id)}">{_text(line.id)}</a></h2>'
        f'<div class="card">{_said(line.said)}</div>{_pictures(pictures)}'
    )


def _said(text: str) -> str:
    """Sentences are folded to the page; the rows of a table stay whole, and a wide one is scrolled in its card."""
    blocks = groupby(text.splitlines(), key=lambda line: bool(_ROW.search(line)))
    return "".join(f"<pre{_WIDE if rows else ''}>{_text(chr(10).join(lines))}</pre>" for rows, lines in blocks)


def _pictures(pictures: Sequence[Picture]) -> str:
    return "".join(
        f'<figure><img alt="{_text(one.title)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(one.svg.read_bytes()).decode("ascii")}"></figure>'
        for one in pictures
    )


def _runs(found: Report) -> str:
    rows = "".join(
        f'<tr id="run-{_text(line.id)}"><th>{_text(line.id)}</th><td>{_text(line.kind)}</td><td>{_text(line.status)}</td>'
        f"<td>{_text(line.started[:16].replace('T', ' '))}</td><td>{_text(' '.join(line.splits))}</td>"
        f"<td>{''.join(_warnings(line))}</td></tr>"
        for line in found.runs
    )
    names = ("run", "kind", "status", "started (UTC)", "splits", "to know before believing it")
    head = f"<tr>{''.join(f'<th>{name}</th>' for name in names)}</tr>"
    left_out = "".join(f"<li>{_text(text)}</li>" for text in found.left_out)
    more = f"<ul>{left_out}</ul>" if left_out else ""
    return f'<h2>Runs</h2><div class="card"><table>{head}{rows}</table>{more}</div>'


def _warnings(line: RunLine) -> Iterator[str]:
    yield from (f"<div>{_text(warning)}</div>" for warning in line.warnings)
    if not line.warnings:
        yield '<span class="soft">nothing found</span>'


def _method(found: Report) -> str:
    said = "".join(f"<li>{_text(text)}</li>" for text in found.method)
    heads = (("Versions in all runs", found.facts.same), ("Versions not recorded in all runs", found.facts.partly))
    versions = [f"{head}: {text}." for head, facts in heads if (text := versions_text(facts))]
    used = f'<p class="soft">{_text(" ".join(versions))}</p>' if versions else ""
    return f'<h2>Method</h2><div class="card"><ul>{said}</ul>{used}</div>'


def _links(runs: Sequence[str]) -> str:
    return "(" + ", ".join(f'<a href="#run-{_text(run)}">{_text(run)}</a>' for run in runs) + ")"


def _text(text: str) -> str:
    return escaped(str(text))
