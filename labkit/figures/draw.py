"""From records to files: every figure of a run, in the formats asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from labkit.errors import SpecError, StoreError
from labkit.figures.comparison import ComparisonRow, comparison
from labkit.figures.context import Context, context, is_of_simulation
from labkit.figures.distributions import distributions
from labkit.figures.gantt import gantt
from labkit.figures.interference import interference
from labkit.figures.marks import Figure
from labkit.figures.stages import stages
from labkit.figures.timeline import timeline
from labkit.figures.transfer import transfer
from labkit.figures.values import Values
from labkit.figures.workers import workers
from labkit.measure.digest import Digest, digest
from labkit.measure.records import Records
from labkit.measure.simulated import HEAD

FORMATS: Final = ("png", "svg", "pdf", "html")
#: By name, in the order in which they are shown; ``None`` where there is nothing to show.
_FIGURES: Final[Mapping[str, Callable[[Context, Values, Mapping[str, Any]], Figure | None]]] = {
    "distributions": lambda run, values, _: distributions(run, values),
    "interference": lambda run, _, manifest: interference(run, manifest),
    "stages": lambda run, *_: stages(run),
    "timeline": lambda run, values, _: timeline(run, values),
    "workers": lambda run, *_: workers(run),
    "transfer": lambda run, *_: transfer(run),
    "gantt": lambda run, values, _: gantt(run, values),
}


def figures_of(
    records: Records | Digest,
    manifest: Mapping[str, Any],
    *,
    comparison_rows: Sequence[ComparisonRow] | None = None,
    only: Collection[str] = (),
) -> list[Figure]:
    """Every figure of a run as data, or those named in ``only``. Missing telemetry makes a panel that says why, never a missing
    figure; but a run without a span of a prefill beside another request's tokens has none of interference.

    Of a run of more than a million chunks, curves of gaps are drawn from a sample of its requests, and say so; what is written
    in numbers is of all. ``comparison_rows``, where given, come first as the forest plot of side B against side A: the second
    side over the first.
    """
    records = records if isinstance(records, Digest) else digest(records)
    run, values = context(records, manifest), Values.of(records)
    made = [make(run, values, manifest) for name, make in _FIGURES.items() if not only or name in only]
    drawn = [figure for figure in made if figure is not None]
    if comparison_rows is not None:
        a, b = (*run.sides, "A", "B")[:2] if len(run.sides) != 1 else (*run.sides, "B")
        drawn.insert(0, comparison(comparison_rows, a=a, b=b, caption=run.caption))
    return [replace(figure, warnings=run.warnings) for figure in drawn]


def draw_all(
    records: Records | Digest,
    manifest: Mapping[str, Any],
    out_dir: Path,
    formats: Sequence[str] = ("png", "svg", "html"),
    comparison_rows: Sequence[ComparisonRow] | None = None,
) -> list[Path]:
    """Write every figure to ``out_dir`` in every format; returns the files, figure by figure.

    Raises:
        SpecError: an unknown format (before anything is written).
        StoreError: a file cannot be written.
    """
    for kind in formats:
        _known(kind, kind)
    return [
        export(figure, out_dir / f"{figure.name}.{kind}")
        for figure in figures_of(records, manifest, comparison_rows=comparison_rows)
        for kind in formats
    ]


def export(figure: Figure, path: Path) -> Path:
    """Write one figure in the format of the path's suffix (png, svg, pdf or html).

    Raises:
        SpecError: another suffix.
        StoreError: the file cannot be written.
    """
    kind = path.suffix[1:].lower()
    _known(kind, path.name)
    if is_of_simulation(figure.caption):
        figure = replace(figure, subtitle=f"{HEAD}{figure.subtitle}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "html":
            from labkit.figures import bokeh as face  # a second to import, and often not asked for
        else:
            from labkit.figures import mpl as face  # type: ignore[no-redef]
        face.save(figure, path)
    except OSError as error:
        raise StoreError(
            f"figure {path} cannot be written: {error.strerror or error}", remedy="free space there, or choose another folder"
        ) from error
    return path


def _known(kind: str, given: str) -> None:
    if kind not in FORMATS:
        raise SpecError(f"unknown figure format {given!r}", remedy=f"use one of {', '.join(FORMATS)}")
