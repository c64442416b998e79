"""The matplotlib face: a ``Figure`` as PNG, SVG or PDF, without pyplot and without a browser.

The layout is computed in inches from measured text, not fitted by trial: the same figure gives the same file, byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from labkit.figures import style
from labkit.figures.inert import inert
from labkit.figures.layout import SIDE_IN, Layout, legend_rows, linear, log_ticks, number, width_in, wrapped, y_count
from labkit.figures.marks import Band, Dots, Figure, HLine, Line, Mark, Panel, Rects, Text, VLine, VSpan, beside, bounds, shared_x

_RC: Final[Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": style.TEXT_PT,
    "svg.fonttype": "none",
    "svg.hashsalt": "labkit",
    "pdf.fonttype": 42,
    "path.simplify": True,
    "agg.path.chunksize": 20_000,
    "axes.unicode_minus": True,
    "text.parse_math": False,
}
_DASH: Final[dict[str, Any]] = {"solid": "-", "dashed": (0, (4, 2.5)), "dotted": (0, (1, 1.8))}
_RASTER_DOTS: Final = 3000
_HALO: Final[dict[str, Any]] = {"boxstyle": "square,pad=0.15", "facecolor": style.PAPER, "alpha": 0.75, "linewidth": 0}


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` in the format of the path's suffix (png, svg or pdf); no dates, so that equal data give equal files."""
    kind = path.suffix[1:].lower()
    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with mpl.rc_context(_RC):
        canvas = draw(figure)
        canvas.savefig(path, format=kind, dpi=style.DPI, facecolor=style.PAPER, metadata=metadata)


def draw(figure: Figure) -> Canvas:
    """The drawn figure. Call it inside ``rc_context`` of your own if you change fonts."""
    figure = inert(figure)
    layout = Layout.of(figure)
    canvas = Canvas(figsize=(figure.width, layout.height))
    top = layout.height - 0.14
    canvas.text(
        SIDE_IN / figure.width, top / layout.height, figure.title, size=style.TITLE_PT, weight="bold", va="top", color=style.INK
    )
    subtitle = layout.subtitle
    if subtitle:
        at = (top - 0.27) / layout.height
        canvas.text(SIDE_IN / figure.width, at, subtitle, size=style.TEXT_PT, va="top", color=style.SOFT, linespacing=1.35)
    if figure.key:
        _key(canvas, figure, top - 0.27 - 0.17 * (subtitle.count("\n") + 1) - 0.12, layout.height)
    if layout.caption:
        at = 0.1 / layout.height
        canvas.text(SIDE_IN / figure.width, at, layout.caption, size=7.5, va="bottom", color=style.FAINT, linespacing=1.35)
    if layout.warnings:
        at = layout.caption_in / layout.height
        canvas.text(
            SIDE_IN / figure.width, at, layout.warnings, size=style.SMALL_PT, va="bottom", color=style.WORSE, linespacing=1.35
        )
    x_range = shared_x(figure)
    for i, row in enumerate(figure.rows):
        for j, panel in enumerate(row):
            left, bottom, width, height = layout.boxes[i][j]
            size = (left / figure.width, bottom / layout.height, width / figure.width, height / layout.height)
            last = not figure.share_x or i == len(figure.rows) - 1 or j >= len(figure.rows[i + 1])
            _panel(canvas.add_axes(size), panel, x_range, width, height, x_labels=last)
    return canvas


def _key(canvas: Canvas, figure: Figure, y: float, height: float) -> None:
    x = SIDE_IN
    for words, color in figure.key:
        size = (0.14 / figure.width, 0.07 / height)
        canvas.add_artist(
            Rectangle((x / figure.width, (y - 0.035) / height), *size, transform=canvas.transFigure, color=color, linewidth=0)
        )
        canvas.text((x + 0.2) / figure.width, y / height, words, size=style.SMALL_PT, color=style.SOFT, va="center")
        x += 0.2 + width_in(words, style.SMALL_PT) + 0.22


def _panel(axes: Axes, panel: Panel, x_range: tuple[float, float] | None, width: float, height: float, *, x_labels: bool) -> None:
    x0, x1, y0, y1 = bounds(panel)
    x0, x1 = x_range or (x0, x1)
    if panel.x_log:
        axes.set_xscale("log")
    if panel.y_log:
        axes.set_yscale("log")
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    for order, mark in enumerate(panel.marks):
        _mark(axes, mark, 2 + order / 100)
    if panel.note:
        note = wrapped(panel.note, style.TEXT_PT, 0.92 * width)
        axes.text(
            0.5, 0.5, note, transform=axes.transAxes, ha="center", va="center", color=style.SOFT, size=style.TEXT_PT, zorder=9
        )
    _frame(axes, panel, width, height, x_labels=x_labels)
    _legend(axes, panel, width)


def _frame(axes: Axes, panel: Panel, width: float, height: float, *, x_labels: bool) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#C3C8D0")
    axes.tick_params(axis="both", length=0, labelsize=style.SMALL_PT, labelcolor=style.SOFT, pad=4)
    axes.set_axisbelow(True)
    if panel.grid:
        axes.grid(visible=True, axis="y", color=style.GRID, linewidth=0.7)
    _ticks(axes, "x", panel.x_log, panel.x_ticks, max(int(width / 0.42), 2))
    _ticks(axes, "y", panel.y_log, panel.y_ticks, y_count(height))
    if panel.note:
        axes.set_yticks([])
    if panel.note and not panel.marks:
        axes.set_xticks([])
    if not x_labels:
        axes.tick_params(axis="x", labelbottom=False)
    else:
        axes.set_xlabel(panel.x_label, size=style.SMALL_PT, color=style.SOFT, labelpad=3)
    axes.set_ylabel(panel.y_label, size=style.SMALL_PT, color=style.SOFT, labelpad=4)
    if panel.y_ticks_right:
        twin = axes.twinx()
        twin.set_ylim(*axes.get_ylim())
        twin.set_yticks([at for at, _ in panel.y_ticks_right], [text for _, text in panel.y_ticks_right])
        twin.tick_params(axis="y", length=0, labelsize=style.SMALL_PT, labelcolor=style.INK, pad=6)
        for spine in twin.spines.values():
            spine.set_visible(False)
    if panel.title:
        rise = 5 + 12.5 * legend_rows(panel, width)
        axes.annotate(
            panel.title,
            (0, 1),
            xytext=(0, rise),
            xycoords="axes fraction",
            textcoords="offset points",
            annotation_clip=False,
            size=style.PANEL_PT,
            weight="bold",
            color=style.INK,
            ha="left",
            va="bottom",
        )


def _ticks(axes: Axes, which: str, log: bool, ticks: tuple[tuple[float, str], ...] | None, count: int) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    if ticks is not None:
        axis.set_major_locator(FixedLocator([at for at, _ in ticks]))
        axis.set_major_formatter(FuncFormatter(lambda at, _: next((text for x, text in ticks if np.isclose(x, at)), "")))
        axis.set_minor_locator(NullLocator())
        return
    if log:
        low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
        axis.set_major_locator(FixedLocator(log_ticks(low, high, count)))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(linear(count))
    axis.set_major_formatter(FuncFormatter(number))


def _legend(axes: Axes, panel: Panel, width: float) -> None:
    handles, labels = axes.get_legend_handles_labels()
    known = dict(zip(labels, handles, strict=True))
    rows = legend_rows(panel, width)
    if not known or not rows:
        return
    columns = -(-len(panel.legend) // rows)
    legend = axes.legend(
        [known[label] for label in panel.legend],
        list(panel.legend),
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.15,
        borderpad=0.1,
        handlelength=1.3,
        handletextpad=0.5,
        columnspacing=1.3,
        labelspacing=0.2,
        fontsize=style.SMALL_PT,
        labelcolor=style.SOFT,
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0 if not isinstance(handle, PolyCollection) else handle.get_alpha())


def _mark(axes: Axes, mark: Mark, z: float) -> None:
    match mark:
        case Line():
            axes.plot(
                mark.x,
                mark.y,
                color=mark.color,
                linewidth=mark.width,
                alpha=mark.alpha,
                linestyle=_DASH[mark.dash],
                zorder=z,
                label=mark.label or "_",
                solid_joinstyle="round",
            )
            if mark.fill:
                axes.fill_between(mark.x, mark.y, 0, color=mark.color, alpha=mark.fill, linewidth=0, zorder=z - 0.005)
        case Band():
            axes.fill_between(
                mark.x, mark.low, mark.high, color=mark.color, alpha=mark.alpha, linewidth=0, zorder=z, label=mark.label or "_"
            )
        case Dots():
            axes.scatter(
                mark.x,
                mark.y,
                s=mark.size**2,
                c=mark.color,
                alpha=mark.alpha,
                zorder=z,
                label=mark.label or "_",
                marker="o" if mark.marker == "circle" else "x",
                linewidths=0 if mark.marker == "circle" else 1.2,
                rasterized=len(mark.x) > _RASTER_DOTS,
            )
        case Rects():
            corners = np.stack([mark.x0, mark.y0, mark.x1, mark.y0, mark.x1, mark.y1, mark.x0, mark.y1], axis=1).reshape(-1, 4, 2)
            boxes = PolyCollection(
                list(corners), facecolors=mark.color, edgecolors="none", alpha=mark.alpha, zorder=z, label=mark.label or "_"
            )
            axes.add_collection(boxes, autolim=False)
        case HLine():
            axes.axhline(mark.y, color=mark.color, linewidth=mark.width, linestyle=_DASH[mark.dash], zorder=z)
            axes.annotate(
                mark.text,
                (1, mark.y),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                va="bottom",
                size=style.SMALL_PT,
                color=mark.color,
                zorder=8,
                bbox=_HALO if mark.text else None,
            )
        case VLine():
            align = beside(mark.x, axes.get_xlim(), log=axes.get_xscale() == "log")
            axes.axvline(mark.x, color=mark.color, linewidth=mark.width, linestyle=_DASH[mark.dash], zorder=z)
            axes.annotate(
                mark.text,
                (mark.x, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3 if align == "left" else -3, -3),
                textcoords="offset points",
                ha=align,
                va="top",
                size=style.SMALL_PT,
                color=mark.color,
                zorder=8,
            )
        case VSpan():
            axes.axvspan(
                mark.x0, mark.x1, facecolor=mark.color, alpha=mark.alpha, linewidth=0, zorder=z - 1.5, label=mark.label or "_"
            )
            axes.annotate(
                mark.text,
                (mark.x0, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -3),
                textcoords="offset points",
                ha="left",
                va="top",
                size=style.SMALL_PT,
                color=mark.color,
                weight="bold",
                zorder=8,
            )
        case Text():
            axes.annotate(
                mark.text,
                (mark.x, mark.y),
                xytext=(mark.dx, mark.dy),
                textcoords="offset points",
                ha=mark.align,
                va="center",
                size=mark.size,
                color=mark.color,
                weight="bold" if mark.bold else "normal",
                zorder=8,
                annotation_clip=False,
                bbox=_HALO,
            )
