"""A figure as data: what both faces draw. No drawing library is imported here.

A ``Figure`` holds panels in a grid, a ``Panel`` holds marks in data coordinates. ``bounds`` settles the axis ranges, so that the
matplotlib face and the Bokeh face show the same window onto the same numbers. Times are seconds, latencies milliseconds: a figure
is the screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Align = Literal["left", "center", "right"]
Dash = Literal["solid", "dashed", "dotted"]
Tick = tuple[float, str]


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A polyline; NaN breaks it. ``fill`` is the opacity of the area down to zero."""

    x: Array
    y: Array
    color: str
    label: str = ""
    width: float = 1.5
    alpha: float = 1.0
    dash: Dash = "solid"
    fill: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """The area between ``low`` and ``high`` over ``x``; NaN breaks it."""

    x: Array
    low: Array
    high: Array
    color: str
    label: str = ""
    alpha: float = 0.16


@dataclass(frozen=True, slots=True, eq=False)
class Dots:
    """One dot for each point. ``tips``: what the pointer reads over each, or nothing. ``size`` in points."""

    x: Array
    y: Array
    color: str
    label: str = ""
    size: float = 3.2
    alpha: float = 0.6
    tips: Sequence[str] = ()
    marker: Literal["circle", "cross"] = "circle"


@dataclass(frozen=True, slots=True, eq=False)
class Rects:
    """Filled boxes: four arrays of equal length."""

    x0: Array
    x1: Array
    y0: Array
    y1: Array
    color: str
    label: str = ""
    alpha: float = 1.0
    tips: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class HLine:
    """A line across the panel at ``y``, named at its right end."""

    y: float
    color: str
    text: str = ""
    dash: Dash = "dashed"
    width: float = 0.9


@dataclass(frozen=True, slots=True)
class VLine:
    """A line up the panel at ``x``, named at its top."""

    x: float
    color: str
    text: str = ""
    dash: Dash = "dashed"
    width: float = 0.9


@dataclass(frozen=True, slots=True)
class VSpan:
    """A shaded stretch of ``x``, named inside at its top."""

    x0: float
    x1: float
    color: str
    text: str = ""
    alpha: float = 0.08
    label: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A few words at a point; ``dx``/``dy`` shift them in points."""

    x: float
    y: float
    text: str
    color: str
    align: Align = "left"
    dx: float = 0.0
    dy: float = 0.0
    size: float = 8.0
    bold: bool = False


Mark = Line | Band | Dots | Rects | HLine | VLine | VSpan | Text


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One pair of axes.

    Attributes:
        x_label, y_label: with their unit in brackets.
        grid: faint lines at the y ticks.
        note: why there is nothing to see; drawn instead of marks that are not there.
        x_range, y_range: fixed limits; ``None`` fits the marks (a linear y axis then starts at 0).
        x_log, y_log: logarithmic axes.
        x_ticks, y_ticks: named positions instead of numbers; ``y_ticks_right`` names them again at the right edge.
        height: of the plot itself, in inches.
    """

    title: str
    x_label: str
    y_label: str
    marks: tuple[Mark, ...] = ()
    note: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_log: bool = False
    y_log: bool = False
    x_ticks: tuple[Tick, ...] | None = None
    y_ticks: tuple[Tick, ...] | None = None
    y_ticks_right: tuple[Tick, ...] | None = None
    height: float = 1.8
    grid: bool = True

    @property
    def legend(self) -> tuple[str, ...]:
        """Labels in order of appearance, each once."""
        labels = (mark.label for mark in self.marks if not isinstance(mark, HLine | VLine | Text))
        return tuple(dict.fromkeys(label for label in labels if label))


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """Panels in reading order, ``columns`` in a row, under one title.

    Attributes:
        name: file stem.
        caption: the conditions under which the numbers hold.
        warnings: what a reader must know before believing them, a sentence each, drawn above the caption.
        share_x: panels look at the same stretch of x, and zoom together on the interactive page.
        key: ``(words, colour)`` that hold for all panels, drawn under the subtitle.
        width: inches.
    """

    name: str
    title: str
    subtitle: str
    panels: tuple[Panel, ...]
    caption: str = ""
    warnings: tuple[str, ...] = ()
    columns: int = 1
    share_x: bool = False
    key: tuple[tuple[str, str], ...] = ()
    width: float = 10.0
    rows: tuple[tuple[Panel, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        rows = tuple(self.panels[i : i + self.columns] for i in range(0, len(self.panels), self.columns))
        object.__setattr__(self, "rows", rows)


def bounds(panel: Panel) -> tuple[float, float, float, float]:
    """``(x0, x1, y0, y1)``: the fixed limits where there are some, else the extent of the marks with a margin."""
    x = panel.x_range or _fit(list(_values(panel, "x")), log=panel.x_log, zero=False, margin=0.02)
    y = panel.y_range or _fit(list(_values(panel, "y")), log=panel.y_log, zero=not panel.y_log, margin=0.08)
    return (*x, *y)


def beside(x: float, x_range: tuple[float, float], *, log: bool) -> Align:
    """The side of a vertical line on which its name has room."""
    low, high = x_range
    place = math.log(x / low) / math.log(high / low) if log else (x - low) / (high - low)
    return "left" if place < 0.85 else "right"


def shared_x(figure: Figure) -> tuple[float, float] | None:
    """The stretch of x that all panels with marks look at, where the figure shares it."""
    ranges = [bounds(panel)[:2] for panel in figure.panels if panel.marks or panel.x_range]
    if not figure.share_x or not ranges:
        return None
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _values(panel: Panel, axis: Literal["x", "y"]) -> Iterator[float]:
    log = panel.x_log if axis == "x" else panel.y_log
    for mark in panel.marks:
        for values in _extent(mark, axis):
            finite = values[np.isfinite(values) & (values > 0)] if log else values[np.isfinite(values)]
            if finite.size:
                yield float(finite.min())
                yield float(finite.max())


def _extent(mark: Mark, axis: Literal["x", "y"]) -> tuple[Array, ...]:
    match mark:
        case Line() | Dots():
            return (mark.x if axis == "x" else mark.y,)
        case Band():
            return (mark.x,) if axis == "x" else (mark.low, mark.high)
        case Rects():
            return (mark.x0, mark.x1) if axis == "x" else (mark.y0, mark.y1)
        case HLine():
            return () if axis == "x" else (np.array([mark.y]),)
        case VLine():
            return (np.array([mark.x]),) if axis == "x" else ()
        case VSpan():
            return (np.array([mark.x0, mark.x1]),) if axis == "x" else ()
        case Text():
            return (np.array([mark.x if axis == "x" else mark.y]),)


def _fit(values: list[float], *, log: bool, zero: bool, margin: float) -> tuple[float, float]:
    if not values:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
        pad = max((high - low) * margin, 0.05)
        return 10 ** (low - pad), 10 ** (high + pad)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    span = (high - low) or abs(high) or 1.0
    return low if zero and low == 0 else low - span * margin, high + span * margin
