"""Figures of a run in a notebook: drawn into the run's folder, and shown below the cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from labkit.experiments import Comparison
from labkit.experiments.compare import Row
from labkit.experiments.conclude import Conclusion, slo_of
from labkit.experiments.interference_study import InterferenceStudy
from labkit.experiments.load_step import LoadStep
from labkit.experiments.pins import warnings_of
from labkit.experiments.points import points_of_trials
from labkit.experiments.prefill_limits import AFTER, BEFORE, LimitsTried
from labkit.experiments.prefill_saturation import PrefillSaturation
from labkit.experiments.roofline import RooflineFound
from labkit.experiments.scaling import Scaling
from labkit.experiments.split_search import SplitSearch
from labkit.figures import style
from labkit.figures.comparison import ComparisonRow, comparison
from labkit.figures.context import conditions, context
from labkit.figures.draw import draw_all, export, figures_of
from labkit.figures.interference import interference_figure
from labkit.figures.load_step import load_step_figure
from labkit.figures.marks import Figure
from labkit.figures.pins import pins_figure
from labkit.figures.roofline import roofline_figure
from labkit.figures.saturation import saturation_figure
from labkit.figures.scaling import scaling_figure
from labkit.figures.search import search_figure
from labkit.figures.second_opinion import second_opinion_figure
from labkit.figures.stages import stages
from labkit.figures.whatif import whatif_figures
from labkit.live.pin import Pin
from labkit.store.run import Run
from labkit.whatif import WhatIf, kept_opinion

_SHOWN: Final = ".png"
_MOST_WARNINGS: Final = 3
#: CSS pixels an inch of a figure takes on screen: its 9 pt labels are as large as the notebook's text, and the file holds more
#: pixels than that, so that it stays sharp on a dense screen.
_SCREEN_DPI: Final = 96


def draw_run(run: Run, comparison: Comparison | None = None, *, formats: Sequence[str] = ("png", "svg", "html")) -> list[Path]:
    """Draw every figure of a run into its folder; returns the files.

    Raises:
        SpecError, StoreError: as for ``draw_all``.
    """
    rows = None if comparison is None else comparison_rows(comparison)
    return draw_all(run.digest(), run.manifest, run.folder("figures"), formats, rows)


def show(run: Run, comparison: Comparison | None = None) -> None:
    """Draw every figure of a run into its folder, and display the static ones here."""
    display_files(draw_run(run, comparison))


def show_exploration(run: Run, pins: Sequence[Pin]) -> None:
    """Draw what an exploration found into its folder, and display it here: the pins, then the run over time."""
    display_files(draw_exploration(run, pins))


def draw_exploration(run: Run, pins: Sequence[Pin], *, formats: Sequence[str] = ("png", "svg", "html")) -> list[Path]:
    """Draw the pins of an exploration, and its run over time, into its folder; returns the files.

    Raises:
        SpecError, StoreError: as for ``draw_all``.
    """
    over_time = ("timeline", "workers")
    figures = figures_of(run.records(), run.manifest, only=over_time)
    if pins:
        accelerator = run.windows[0].accelerator if run.windows else "accelerator"
        warnings = _warnings(pins)
        figures.insert(0, pins_figure(pins, accelerator=accelerator, caption=figures[0].caption, warnings=warnings))
    folder = run.folder("figures")
    return [export(figure, folder / f"{figure.name}.{kind}") for figure in figures for kind in formats]


def show_saturation(run: Run, found: PrefillSaturation, roofline: RooflineFound | None, tried: LimitsTried | None) -> None:
    """Draw what a sweep of prefill batches found into the run's folder, and display it here."""
    display_files(draw_saturation(run, found, roofline, tried))


def draw_saturation(
    run: Run,
    found: PrefillSaturation,
    roofline: RooflineFound | None = None,
    tried: LimitsTried | None = None,
    *,
    formats: Sequence[str] = ("png", "svg", "html"),
) -> list[Path]:
    """Draw a sweep, the roofline and TTFT before and after, as far as there are; returns the files.

    Raises:
        SpecError, StoreError: as for ``draw_all``.
    """
    caption = conditions((), run.manifest)
    figures = [saturation_figure(found, caption=caption)]
    if roofline is not None:
        figures.append(roofline_figure(roofline, caption=caption))
    if tried is not None:
        rows = [_drawn(row) for row in tried.comparison.rows if row.key.startswith("ttft_")]
        drawn = comparison(rows, a=BEFORE, b=AFTER, caption=caption)
        figures.append(replace(drawn, name="prefill_limits", title="Time to first token with the knee as limit of a step"))
    return [export(figure, run.folder("figures") / f"{figure.name}.{kind}") for figure in figures for kind in formats]


def show_search(run: Run, found: SplitSearch, confirmed: Conclusion | None = None) -> None:
    """Draw what a split search found into the run's folder, and display it here."""
    display_files(draw_search(run, found, confirmed))


def draw_search(
    run: Run, found: SplitSearch, confirmed: Conclusion | None = None, *, formats: Sequence[str] = ("png", "svg", "html")
) -> list[Path]:
    """Draw the trials, the frontier of what was served and, where there is one, the comparison of the best two kinds.

    Raises:
        SpecError, StoreError: as for ``draw_all``.
    """
    caption = conditions((), run.manifest)
    figures = [search_figure(found, caption=caption)]
    points = points_of_trials(found.trials, run.path.parent)
    if len(points) > 1:
        figures.append(
            pins_figure(
                points, accelerator=found.accelerator, caption=caption, name="search_pareto",
                title="Served under the SLO: what an accelerator gives against what a user gets",
                point="a load that a split served",
            )
        )  # fmt: skip
    if confirmed is not None:
        a, b = confirmed.sides
        figures.append(comparison(comparison_rows(confirmed.comparison), a=a, b=b, caption=caption))
        records = run.digest()
        both = [window for window in records.windows if window.side in (a, b)]
        figures.append(stages(context(replace(records, windows=tuple(both)), run.manifest)))
    return [export(figure, run.folder("figures") / f"{figure.name}.{kind}") for figure in figures for kind in formats]


def show_scaling(run: Run, found: Scaling, stepped: LoadStep | None = None) -> None:
    """Draw independent scaling, and a load step where there is one, into the run's folder, and display them here."""
    display_files(draw_scaling(run, found, stepped))


def draw_scaling(
    run: Run, found: Scaling, stepped: LoadStep | None = None, *, formats: Sequence[str] = ("png", "svg", "html")
) -> list[Path]:
    """Draw latency and goodput over the workers of each role, and goodput over a load step; returns the files.

    Raises:
        SpecError, StoreError: as for ``draw_all``.
    """
    caption = conditions((), run.manifest)
    figures = [scaling_figure(found, caption=caption)]
    figures += [load_step_figure(stepped, caption=caption)] if stepped is not None else []
    return [export(figure, run.folder("figures") / f"{figure.name}.{kind}") for figure in figures for kind in formats]


def show_interference(run: Run, found: InterferenceStudy) -> None:
    """Draw what a study of interference found into the run's folder, and display it here."""
    display_files(draw_interference(run, found))


def draw_interference(run: Run, found: InterferenceStudy, *, formats: Sequence[str] = ("png", "svg", "html")) -> list[Path]:
    """Draw ITL against overlapping prefill tokens, and the latencies of all sides; returns the files.

    Raises:
        SpecError, StoreError: as for ``draw_all``.
    """
    slo = slo_of(run)
    shown = context(run.digest(), run.manifest)
    drawn = interference_figure(found.overlaps, shown.colors, limit_s=None if slo is None else slo.tpot_s, caption=shown.caption)
    others = figures_of(run.digest(), run.manifest, only=("distributions",))
    figures = [replace(drawn, warnings=shown.warnings), *others]
    return [export(figure, run.folder("figures") / f"{figure.name}.{kind}") for figure in figures for kind in formats]


def show_whatif(run: Run, found: WhatIf) -> None:
    """Draw what was projected into the run's folder, and display it here."""
    display_files(draw_whatif(run, found))


def draw_whatif(
    run: Run, found: WhatIf, *, formats: Sequence[str] = ("png", "svg", "html"), folder: Path | None = None
) -> list[Path]:
    """Draw the projected frontiers, the maps and the claims into the run's folder, or another; returns the files.

    Raises:
        SpecError, StoreError: as for ``draw_all``.
    """
    figures = whatif_figures(found, caption=f"run {run.id}")
    figures += _opinion_figures(run)
    into = folder or run.folder("figures")
    return [export(figure, into / f"{figure.name}.{kind}") for figure in figures for kind in formats]


def show_second_opinion(run: Run) -> None:
    """Draw what was simulated beside a projection into the run's folder, and display it here."""
    into = run.folder("figures")
    display_files(
        [export(figure, into / f"{figure.name}.{kind}") for figure in _opinion_figures(run) for kind in ("png", "svg", "html")]
    )


def _opinion_figures(run: Run) -> list[Figure]:
    opinion = kept_opinion(run)
    drawn = None if opinion is None else second_opinion_figure(opinion, caption=f"run {run.id}")
    return [] if drawn is None else [drawn]


def _warnings(pins: Sequence[Pin]) -> tuple[str, ...]:
    found = warnings_of(pins)
    more = len(found) - _MOST_WARNINGS
    return (*found[:_MOST_WARNINGS], *([f"{more} more: `labkit show` lists them"] if more > 0 else ()))


def display_files(files: Sequence[Path]) -> None:
    """Display the PNG files among these below the cell, as large as the text around them."""
    from IPython.display import Image, display

    for path in files:
        if path.suffix == _SHOWN:
            display(Image(filename=str(path), width=_width_px(path)))  # type: ignore[no-untyped-call]


def _width_px(png: Path) -> int:
    """How wide a figure is shown; a PNG says its own width in its header."""
    with png.open("rb") as file:
        header = file.read(20)
    return round(int.from_bytes(header[16:20]) * _SCREEN_DPI / style.DPI)


def comparison_rows(comparison: Comparison) -> list[ComparisonRow]:
    """The rows of a comparison that have a good direction, for the forest plot."""
    return [_drawn(row) for row in comparison.rows if row.lower_is_better is not None]


def _drawn(row: Row) -> ComparisonRow:
    scale, unit = {"ms": (1e3, "ms"), "": (100.0, "%")}.get(row.unit, (1.0, row.unit))
    return ComparisonRow(
        name=row.label,
        ratio=None if row.ratio is None else row.ratio.estimate,
        low=None if row.ratio is None else row.ratio.low,
        high=None if row.ratio is None else row.ratio.high,
        a_value=None if row.a is None else row.a * scale,
        b_value=None if row.b is None else row.b * scale,
        unit=unit,
        better="lower" if row.lower_is_better else "higher",
        reason=row.reason,
    )
