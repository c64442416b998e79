"""Pins on a Pareto chart: what an accelerator gives against what a user gets, with intervals and the frontier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from bokeh import models
from bokeh.core.properties import value
from bokeh.plotting import figure as bokeh_figure

from labkit.dashboard import look
from labkit.figures import style
from labkit.harmless import escaped
from labkit.live.pin import Estimate, Pin
from labkit.live.pin import frontier as live_frontier
from labkit.measure.statistics import least_values

_m: Any = models
_figure: Any = bokeh_figure
_value: Any = value
Against = Literal["tok_s_per_user", "ttft_p99_s", "ttft_p50_s"]
Y: Final = "output_tok_s_per_accelerator"
#: metric: (axis label, factor to the unit shown, decimals, whether more is better)
_AXES: Final[dict[str, tuple[str, float, int, bool]]] = {
    Y: ("output tokens/s per {accelerator}", 1.0, 1, True),
    "tok_s_per_user": ("tokens/s per user (1 / median TPOT)", 1.0, 1, True),
    "ttft_p50_s": ("TTFT p50 (ms)", 1000.0, 0, False),
    "ttft_p99_s": ("TTFT p99 (ms)", 1000.0, 0, False),
}
_MORE: Final = {
    "tpot_p50_s": ("TPOT p50", 1000.0, 1, "ms"),
    "tpot_p99_s": ("TPOT p99", 1000.0, 1, "ms"),
    "itl_p50_s": ("ITL p50", 1000.0, 1, "ms"),
    "itl_p99_s": ("ITL p99", 1000.0, 1, "ms"),
    "goodput_hz": ("goodput", 1.0, 2, "req/s"),
    "slo_attainment": ("meet the SLO", 100.0, 0, "%"),
    "output_tok_s": ("output", 1.0, 0, "tok/s"),
}
#: metric: why a pin has none
_LACKS: Final = {
    Y: "its output tokens were not counted",
    "tok_s_per_user": "the TPOT of its requests is not known",
    "ttft_p50_s": "no first token is known",
    "ttft_p99_s": f"too few requests for a p99, which needs {least_values(99)}",
}
#: Before the label of a pin with warnings.
WARNED: Final = "⚠ "
_HOLLOW: Final = 0.12


@dataclass(frozen=True, slots=True)
class Placed:
    """A pin that has both coordinates, in the units shown."""

    pin: Pin
    x: float
    y: float


class Corner(NamedTuple):
    """A side of a point: pixels from it to its label (y downwards), and how far up that is, in parts of the chart."""

    dx: int
    dy: int
    align: Literal["left", "right"]
    up: float


CORNERS: Final = (
    Corner(9, -7, "left", 0.03),
    Corner(9, 19, "left", -0.09),
    Corner(-9, -7, "right", 0.03),
    Corner(-9, 19, "right", -0.09),
)


def placed(pins: Sequence[Pin], against: Against = "tok_s_per_user") -> list[Placed]:
    """The pins that can be drawn; one that lacks a coordinate is not put at 0."""
    found = []
    for pin in pins:
        x, y = pin.value(against), pin.value(Y)
        if x is not None and y is not None:
            found.append(Placed(pin, x * _AXES[against][1], y))
    return found


def remarks(pins: Sequence[Pin], charts: Sequence[Against]) -> list[str]:
    """What charts of these pins do not say by themselves: which pins are missing and why, and what the signs mean."""
    said = []
    for against in charts:
        reasons = {pin.label: [_LACKS[name] for name in (Y, against) if pin.value(name) is None] for pin in pins}
        if missing := [f"{label} ({' and '.join(why)})" for label, why in reasons.items() if why]:
            said.append(f"Not on the chart of {_AXES[against][0]}: {', '.join(missing)}.")
    if "ttft_p50_s" in charts:
        few = ", ".join(pin.label for pin in pins if pin.value("ttft_p99_s") is None)
        said.append(f"TTFT is drawn as p50 since not every pin has a p99: {few} ({_LACKS['ttft_p99_s']}).")
    if any(pin.warnings for pin in pins):
        said.append(f"{WARNED.strip()} has warnings: they are below the table.")
    if any(not pin.settled for pin in pins):
        said.append("A hollow point was not shown to be stationary: its figures may depend on when it was cut.")
    return said


def frontier(points: Sequence[Placed], against: Against = "tok_s_per_user") -> list[Placed]:
    """The points that no other beats in both coordinates (one at least as good in both and better in one), by x."""
    of = {id(point.pin): point for point in points}
    best = live_frontier([point.pin for point in points], against, Y, more_x=_AXES[against][3])
    return [of[id(pin)] for pin in best]


def pareto(
    pins: Sequence[Pin], against: Against = "tok_s_per_user", *, accelerator: str = "accelerator", height: int = 300
) -> Any:
    """The chart as one Bokeh figure, to be shown in a ``LiveFigure``; clicking a pin tells its label, run and measurement."""
    points = placed(pins, against)
    colors = style.topology_colors((pin.topology, pin.topology) for pin in pins)
    plot = _figure(
        name="pareto",
        height=height,
        sizing_mode="stretch_width",
        x_range=_range([_ends(p.pin, against) for p in points]),
        y_range=_range([_ends(p.pin, Y) for p in points]),
        tools="pan,wheel_zoom,reset,save",
        toolbar_location="right",
        active_scroll=None,
        min_border_right=20,
    )
    look.dress(plot)
    plot.toolbar.autohide = True
    plot.xaxis.axis_label = _AXES[against][0]
    plot.yaxis.axis_label = _AXES[Y][0].format(accelerator=accelerator)
    plot.yaxis.formatter = plot.xaxis.formatter = _m.CustomJSTickFormatter(code=look.SHORT)
    edge = frontier(points, against)
    line = _m.ColumnDataSource({"x": [p.x for p in edge], "y": [p.y for p in edge]}, name="frontier")
    plot.line("x", "y", source=line, line_color=look.SOFT, line_dash=[5, 4], line_width=1.4)
    _whiskers(plot, points, against, colors)
    if points:
        corners = free_corners(points, plot.x_range.end - plot.x_range.start, plot.y_range.end - plot.y_range.start)
        dots = _dots(plot, points, corners, colors, accelerator)
        plot.add_tools(
            _m.HoverTool(renderers=[dots], tooltips="@tip{safe}", point_policy="snap_to_data", visible=False),
            _m.TapTool(renderers=[dots], visible=False),
        )
        items = []
        for name in colors:
            if mine := [i for i, point in enumerate(points) if point.pin.topology == name]:
                filled = min(mine, key=lambda i: not points[i].pin.settled)
                items.append(_m.LegendItem(label=_value(name), renderers=[dots], index=filled))
        legend = _m.Legend(items=items)
        plot.add_layout(legend, "above")
        look.dress_legend(legend)
    else:
        plot.xaxis.major_label_text_alpha = plot.yaxis.major_label_text_alpha = 0
        plot.ygrid.grid_line_color = None
        plot.add_layout(
            _m.Label(
                x=0.5, y=0.5, text="no pin has both figures" if pins else "no pins yet", text_color=look.SOFT,
                text_font=look.FONT, text_font_size="12px", text_align="center", text_baseline="middle",
            )
        )  # fmt: skip
    return plot


def free_corners(points: Sequence[Placed], width: float, height: float) -> list[Corner]:
    """Where each point's label stands, so that labels of near points do not cover each other, as far as four corners allow.

    Args:
        width, height: of the chart, in its units; a label is taken as a seventh of the one and a fourteenth of the other.
    """
    taken: list[tuple[float, float]] = []  # lower left ends, in parts of the chart
    found = []
    for point in points:
        at = [(point.x / width + (0.02 if c.align == "left" else -0.16), point.y / height + c.up) for c in CORNERS]
        free = [i for i, (x, y) in enumerate(at) if all(abs(x - u) > 0.14 or abs(y - v) > 0.07 for u, v in taken)]
        best = free[0] if free else 0
        taken.append(at[best])
        found.append(CORNERS[best])
    return found


def _dots(plot: Any, points: Sequence[Placed], corners: Sequence[Corner], colors: dict[str, str], accelerator: str) -> Any:
    """All in one: each renderer of its own is dozens of elements in the page."""
    source = _m.ColumnDataSource(
        {
            "x": [point.x for point in points],
            "y": [point.y for point in points],
            "color": [colors[point.pin.topology] for point in points],
            "label": [point.pin.label for point in points],
            "shown": [named(point.pin) for point in points],
            "alpha": [0.9 if point.pin.settled else _HOLLOW for point in points],
            "run": [point.pin.run for point in points],
            "measurement": [point.pin.measurement for point in points],
            "tip": [tip(point.pin, accelerator) for point in points],
            "dx": [corner.dx for corner in corners],
            "dy": [corner.dy for corner in corners],
            "align": [corner.align for corner in corners],
        },
        name="pins",
        tags=["tap"],
    )
    plot.text(
        "x", "y", "shown", source=source, x_offset="dx", y_offset="dy", text_align="align", text_color=look.SOFT,
        text_font=_value(look.FONT),
        text_font_size="11px",
        text_font_style="bold",
    )  # fmt: skip
    return plot.scatter(
        "x", "y", source=source, size=11, fill_color="color", line_color="color", line_width=1.6, fill_alpha="alpha",
        nonselection_fill_alpha="alpha", nonselection_line_alpha=1,
    )  # fmt: skip


def _whiskers(plot: Any, points: list[Placed], against: str, colors: dict[str, str]) -> None:
    rows: dict[str, list[Any]] = {"x0": [], "y0": [], "x1": [], "y1": [], "color": []}
    for point in points:
        low, high = _ends(point.pin, against)
        bottom, top = _ends(point.pin, Y)
        for x0, y0, x1, y1 in ((low, point.y, high, point.y), (point.x, bottom, point.x, top)):
            for name, end in zip(rows, (x0, y0, x1, y1, colors[point.pin.topology]), strict=True):
                rows[name].append(end)
    source = _m.ColumnDataSource(rows, name="whiskers")
    plot.segment("x0", "y0", "x1", "y1", source=source, line_color="color", line_width=1.6, line_alpha=0.65)


def _ends(pin: Pin, metric: str) -> tuple[float, float]:
    """The interval in the unit shown; an end that is not known is the value itself."""
    estimate, scale = pin.metrics[metric], _AXES[metric][1]
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    return low * scale, high * scale


def _range(ends: list[tuple[float, float]]) -> Any:
    """Room around all intervals; a few points are not blown up to fill the chart."""
    if not ends:
        return _m.Range1d(0, 1)
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    room = max((high - low) * 0.15, high * 0.06)
    return _m.Range1d(max(low - room, 0.0), high + room)


def named(pin: Pin) -> str:
    """A pin's label, with a sign where it has warnings."""
    return f"{WARNED if pin.warnings else ''}{pin.label}"


def tip(pin: Pin, accelerator: str) -> str:
    """All that is known of a pin, as escaped HTML."""
    rows = [
        ("split", pin.topology),
        ("load", pin.workload),
        ("workers", pin.settings or "unknown"),
        ("SLO", pin.slo or "none"),
        ("run", f"{pin.run} {pin.measurement}"),
        ("window", f"{pin.window_s:.0f} s, {pin.requests:,} requests" if pin.requests else f"{pin.window_s:.0f} s"),
        ("stationary", pin.stationary),
    ]
    if pin.cut:
        rows.append(("its beginning", pin.cut))
    for metric, (label, scale, decimals, _) in _AXES.items():
        if (estimate := pin.metrics.get(metric)) is not None:
            rows.append((label.format(accelerator=accelerator), _with_interval(estimate, scale, decimals)))
    for metric, (label, scale, decimals, unit) in _MORE.items():
        if (estimate := pin.metrics.get(metric)) is not None:
            rows.append((label, f"{_with_interval(estimate, scale, decimals)} {unit}"))
    cells = "".join(
        f"<tr><td style='opacity:.7;padding-right:12px'>{escaped(name)}</td>"
        f"<td style='text-align:right'>{escaped(value)}</td></tr>"
        for name, value in rows
    )
    warned = "".join(f"<div style='max-width:420px'>{WARNED}{escaped(warning)}</div>" for warning in pin.warnings)
    return f"<b>{escaped(pin.label)}</b><table style='font-size:11px'>{cells}</table><div style='font-size:11px'>{warned}</div>"


def _with_interval(estimate: Estimate, scale: float, decimals: int) -> str:
    value = f"{estimate.value * scale:,.{decimals}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low * scale:,.{decimals}f}, {estimate.high * scale:,.{decimals}f}]"
