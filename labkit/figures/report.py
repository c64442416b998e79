"""A report's figures and its page: drawn into a folder of the report's own, and shown below the cell."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from labkit.errors import StoreError
from labkit.experiments.report import Report
from labkit.experiments.report.cohorts import Cohort, Pair
from labkit.experiments.report.report import KIND
from labkit.figures.comparison import comparison
from labkit.figures.context import conditions, context
from labkit.figures.distributions import distributions
from labkit.figures.draw import export
from labkit.figures.marks import Figure
from labkit.figures.pins import pins_figure
from labkit.figures.report_page import Picture, report_page
from labkit.figures.show import comparison_rows, display_files
from labkit.figures.stages import stages
from labkit.figures.values import Values
from labkit.harmless import harmless
from labkit.store.run import Run, new_run

PAGE: Final = "report.html"
_WIDTH: Final = 96


def keep_report(found: Report, results: Path | None = None, *, name: str | None = None) -> Run:
    """Keep a report as a run of its own: its figures, its page and its verdicts.

    Args:
        found: the report.
        results: the folder that runs live in; as for ``Lab`` by default.
        name: id of the run.

    Raises:
        StoreError: it cannot be written.
    """
    run = new_run(results, name, {"kind": KIND, "of": [line.id for line in found.runs]})
    pictures = draw_report(found, run.folder("figures"))
    save_page(found, pictures, run.path / PAGE)
    run.write_summary({**found.to_dict(), "verdict": str(found)})
    run.finish()
    return run


def draw_report(found: Report, folder: Path, *, formats: Sequence[str] = ("svg", "png")) -> list[Picture]:
    """Draw what a report shows; the SVG of each figure is in the page, next to the stored figures of runs with findings.

    Raises:
        SpecError, StoreError: as for ``draw_all``.
    """
    pictures = []
    for number, cohort in enumerate(found.cohorts):
        for figure in _figures(cohort, number):
            for kind in formats:
                export(figure, folder / f"{figure.name}.{kind}")
            pictures.append(Picture(number, figure.title, folder / f"{figure.name}.svg"))
    for line in found.findings:
        kept = line.path / "figures"
        for path in sorted(kept.glob("*.svg")):
            if kept.is_symlink() or path.is_symlink():
                continue  # a page that is passed on would show a file from elsewhere
            pictures.append(Picture(line.id, path.stem.replace("_", " "), path))
    return pictures


def save_page(found: Report, pictures: Sequence[Picture], path: Path) -> Path:
    """Write the report as one HTML file that needs nothing else.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report_page(found, pictures), encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}", remedy="free space there, or choose another folder"
        ) from error
    return path


def show_report(run: Run) -> None:
    """Display the figures of a report that was kept, under their conditions, and say where its page is."""
    for line in (run.summary() or {}).get("conditions", ()):  # reports of before kept none
        print(textwrap.fill(harmless(line), _WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    print(f"the page, with the method: {run.path / PAGE}")
    display_files(sorted((run.folder("figures")).glob("*.png")))


def _figures(cohort: Cohort, number: int) -> Iterator[Figure]:
    drawable = [point for point in cohort.points if point.value("output_tok_s_per_accelerator") is not None]
    first = cohort.entries[0]
    if len(drawable) > 1:
        yield pins_figure(
            drawable, accelerator=first.windows[0].accelerator or "accelerator", caption=cohort.title, name=f"{number}-sides",
            title="What an accelerator gives against what a user gets", point="a side, pooled over its repeats",
        )  # fmt: skip
    for at, pair in enumerate(cohort.pairs):
        for figure in _of_pair(pair):
            yield replace(figure, name=f"{number}-{at}-{figure.name}")


def _of_pair(pair: Pair) -> Iterator[Figure]:
    a, b = pair.comparison.side_a, pair.comparison.side_b
    run = pair.aggregated.run
    yield comparison(comparison_rows(pair.comparison), a=a, b=b, caption=conditions((), run.manifest))
    if len(pair.runs) == 1:
        records = run.digest()
        both = tuple(window for window in records.windows if window.side in (a, b))
        here = context(replace(records, windows=both), run.manifest)
        yield distributions(here, Values.of(replace(records, windows=both)))
        yield stages(here)
