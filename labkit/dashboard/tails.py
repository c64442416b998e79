"""Tails of latencies: what share of them is at or above each, of every pin as a faint line behind the line of now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from bokeh import models
from bokeh.core.properties import value
from bokeh.plotting import figure as bokeh_figure

from labkit.dashboard import look
from labkit.dashboard.panels import ALARM
from labkit.figures import style
from labkit.live.pin import Pin
from labkit.live.tails import Tail
from labkit.measure.statistics import least_values
from labkit.spec.slo import Slo

_m: Any = models
_figure: Any = bokeh_figure
_value: Any = value
Name = Literal["ttft", "itl"]
#: latency: (axis label, what it is of)
LATENCIES: Final[dict[Name, tuple[str, str]]] = {
    "ttft": ("time to first token (ms)", "requests"),
    "itl": ("inter-token latency (ms)", "tokens"),
}
#: Shares with a line across; those that are a percentile's have its name.
_SHARES: Final = (1.0, 0.5, *(10.0**-power for power in range(1, 8)))
_NAMED: Final = """
const name = { 0.5: "p50", 0.1: "p90", 0.01: "p99", 0.001: "p99.9" }[+tick.toPrecision(2)]
return (name ? name + "  " : "") + +(100 * tick).toPrecision(2) + "%"
"""
_MOST_SHARE: Final = 0.99
_LEAST_MS: Final = 0.1  # left of it lies what came in one piece with the token before


class Now(NamedTuple):
    """What serves now.

    Attributes:
        topology: the split.
        tails: by latency.
    """

    topology: str
    tails: Mapping[str, Tail]


def tail_chart(pins: Sequence[Pin], latency: Name, *, slo: Slo | None = None, now: Now | None = None, height: int = 260) -> Any:
    """One chart as a Bokeh figure. With ``now`` it has a line of now, in the source ``<latency>:now``, and the range
    ``<latency>:x``: ``fresh`` gives what they become."""
    label, noun = LATENCIES[latency]
    limit_s = None if slo is None else slo.ttft_s if latency == "ttft" else slo.tpot_s
    drawn = [(pin, pin.tails[latency]) for pin in pins if latency in pin.tails]
    found = [tail for _, tail in drawn] + ([now.tails[latency]] if now is not None and latency in now.tails else [])
    plot = _figure(
        name=f"{latency} tails", height=height, sizing_mode="stretch_width", x_axis_type="log", y_axis_type="log",
        x_range=_m.Range1d(*x_range(found), name=f"{latency}:x"), y_range=_m.Range1d(_lowest(found), 1.3, name=f"{latency}:y"),
        tools="pan,wheel_zoom,reset,save", toolbar_location="right", active_scroll=None, min_border_right=20,
    )  # fmt: skip
    look.dress(plot)
    plot.toolbar.autohide = True
    plot.xaxis.axis_label, plot.yaxis.axis_label = label, f"{noun} at or above"
    plot.xaxis.formatter = _m.CustomJSTickFormatter(code=look.SHORT)
    plot.xaxis.ticker = _m.LogTicker(mantissas=[1, 2, 5], num_minor_ticks=0)
    plot.yaxis.formatter = _m.CustomJSTickFormatter(code=_NAMED)
    plot.yaxis.ticker = _m.FixedTicker(ticks=list(_SHARES))
    plot.ygrid.ticker = plot.yaxis[0].ticker
    if limit_s is not None:
        plot.add_layout(_m.Span(location=limit_s * 1e3, dimension="height", line_color=ALARM, line_dash=[6, 4], line_alpha=0.75))
    colors = colors_of(pins, now)
    items = []
    if drawn:  # all in one: each renderer of its own is dozens of elements in the page
        lines = [line(tail) for _, tail in drawn]
        rows = {
            "xs": [x for x, _ in lines],
            "ys": [y for _, y in lines],
            "color": [colors[pin.topology] for pin, _ in drawn],
            "name": [f"{pin.label}, {tail.n:,} {noun}" for pin, tail in drawn],
        }
        source = _m.ColumnDataSource(rows, name=f"{latency}:pins")
        faint = plot.multi_line("xs", "ys", source=source, line_color="color", line_alpha=0.6, line_width=1.5)
        items += [_m.LegendItem(label=_value(pin.label), renderers=[faint], index=i) for i, (pin, _) in enumerate(drawn)]
        plot.add_tools(_hover(faint, "@name"))
    if now is not None:
        source = _m.ColumnDataSource(columns(latency, now), name=f"{latency}:now")
        thick = plot.line("x", "y", source=source, line_color=colors[now.topology], line_width=2.8, line_join="round")
        thick.name = f"now, {now.topology}"
        items.append(_m.LegendItem(label=_value("now"), renderers=[thick]))
        plot.add_tools(_hover(thick, "$name"))
    if items:
        legend = _m.Legend(items=items)
        plot.add_layout(legend, "above")
        look.dress_legend(legend)
    return plot


def _hover(renderer: Any, name: str) -> Any:
    """What a point of its lines says, ``name`` first."""
    tips = [("", name), ("ms", "$snap_x{0,0.0}"), ("at or above", "$snap_y{0.0%}")]
    return _m.HoverTool(renderers=[renderer], tooltips=tips, line_policy="nearest", visible=False)


def fresh(pins: Sequence[Pin], now: Now) -> dict[str, Any]:
    """What the charts of these pins become as time goes on, for ``Plain.fill`` in the page: columns, and ends of ranges."""
    sources, ranges = {}, {}
    for latency in LATENCIES:
        found = [pin.tails[latency] for pin in pins if latency in pin.tails]
        found += [now.tails[latency]] if latency in now.tails else []
        sources[f"{latency}:now"] = columns(latency, now)
        ranges[f"{latency}:x"], ranges[f"{latency}:y"] = x_range(found), (_lowest(found), 1.3)
    return {"sources": sources, "ranges": ranges}


def columns(latency: Name, now: Now) -> dict[str, list[float]]:
    """The line of now."""
    x, y = line(now.tails.get(latency, Tail()))
    return {"x": x, "y": y}


def colors_of(pins: Sequence[Pin], now: Now | None) -> dict[str, str]:
    """A colour for each topology: that of the Pareto charts, whatever serves now."""
    serving = [] if now is None else [(now.topology, now.topology)]
    return style.topology_colors([*((pin.topology, pin.topology) for pin in pins), *serving])


def line(tail: Tail) -> tuple[list[float], list[float]]:
    """Milliseconds and shares; what lies left of a tenth of a millisecond is not drawn."""
    points = [(value * 1e3, share) for value, share in zip(tail.value_s, tail.share, strict=True) if value * 1e3 >= _LEAST_MS]
    return [round(x, 4) for x, _ in points], [round(y, 7) for _, y in points]


def x_range(tails: Sequence[Tail]) -> tuple[float, float]:
    """Ends that hold all lines from their lowest hundredth on, in ms; in steps of 1.3 to 2 times, so that they seldom move."""
    lines = [(x, y) for x, y in map(line, tails) if x]
    if not lines:
        return 1.0, 1000.0
    low = min(next((at for at, share in zip(x, y, strict=True) if share < _MOST_SHARE), x[0]) for x, y in lines)
    high = max(x[-1] for x, _ in lines)
    return _step(low / 1.15, up=False), _step(high * 1.15, up=True)


def _step(value: float, *, up: bool) -> float:
    steps = [mantissa * 10.0**power for power in range(-2, 8) for mantissa in (1, 1.5, 2, 3, 5, 7)]
    fit = [step for step in steps if (step >= value if up else step <= value)]
    return (min(fit) if up else max(fit)) if fit else value


def _lowest(tails: Sequence[Tail]) -> float:
    """The lower end of the shares: a bit below one in as many values as the longest line is of, p99 at least."""
    most = max((tail.n for tail in tails), default=0)
    return 0.7 / max(most, least_values(99))
