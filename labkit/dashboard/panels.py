"""The charts as data (what is drawn, from which column, in which colour) and as the Bokeh models that a browser fills."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from bokeh import models
from bokeh.core.properties import value
from bokeh.plotting import figure as bokeh_figure

from labkit.dashboard import look
from labkit.spec.slo import Slo

_m: Any = models
_figure: Any = bokeh_figure
_value: Any = value
#: Colours of quantiles: no role's hue, and of a lightness that is read on white and on black.
P50: Final = "#6E83A3"
P99: Final = "#C2559D"
#: The SLO and what breaks it.
ALARM: Final = "#E0384F"
TOTAL: Final = "#7A6FD0"
_COLUMNS: Final = 2


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one line for each worker or device.

    Attributes:
        metric: the column, or the part of its name before the colon where there are many.
        label: what the legend calls it.
        by: which entities have one; their lines have the colour of their role at each instant.
        total: draw the sum over all entities instead of a line for each.
        scale: from the column's unit to the panel's; negative draws downwards.
        fill: opacity of the area under it.
        thin: what is drawn of a bucket where there are more values than pixels: its least and most, so that no peak is lost, or
            its mean, for what swings from one sample to the next.
        legend: what stands beside the label: the newest value, or the sum or mean of the newest values of all entities.
    """

    metric: str
    label: str
    color: str | None = None
    by: Literal["worker", "device"] | None = None
    total: bool = False
    scale: float = 1.0
    axis: Literal["left", "right"] = "left"
    dash: str = "solid"
    width: float = 1.8
    fill: float = 0.0
    unit: str = ""
    decimals: int = 0
    thin: Literal["ends", "mean"] = "ends"
    legend: Literal["last", "sum", "mean"] = "last"


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart.

    Attributes:
        top: fixed upper end of the left axis, for percentages.
        band: indices of the two series between which the area is filled.
        dots: which list of slow ones is drawn.
        limit: level of the SLO, in the panel's unit.
        ghosts: the metrics of a pin that are left behind here, lower one first.
    """

    name: str
    title: str
    unit: str
    series: tuple[Series, ...]
    top: float | None = None
    band: tuple[int, int] | None = None
    dots: Literal["ttft", "itl"] | None = None
    limit: float | None = None
    limit_label: str = ""
    ghosts: tuple[str, str] | None = None


def panels(slo: Slo, device: str = "accelerator", *, frontend: bool = False) -> tuple[Panel, ...]:
    """The eight charts, latency first; two more where a frontend tells of requests.

    Args:
        device: what utilisation, memory and power are of: ``GPU`` or ``core``.
        frontend: whether there is one.
    """
    return (
        _latency("ttft", "Time to first token", slo.ttft_s, 0),
        _latency("itl", "Inter-token latency", slo.tpot_s, 1),
        Panel(
            "throughput",
            "Output tokens",
            "tok/s",
            (
                Series("output_tok_s", "all", TOTAL, fill=0.14),
                Series("output_tok_s_per_accelerator", f"per {device}", P50, axis="right", dash="dashed", width=1.1, decimals=1),
            ),
        ),
        Panel(
            "requests",
            "Requests per worker",
            "running ↑  waiting ↓",
            (
                Series("running", "running", by="worker", legend="sum"),
                Series("waiting", "waiting", by="worker", scale=-1, legend="sum"),
            ),
        ),
        Panel(
            "kv",
            "KV cache",
            "% used, MB/s moved",
            (
                Series("kv_cache_use", "used", by="worker", scale=100, unit=" %", legend="mean"),
                Series(
                    "kv_transfer_bytes_s", "moved", TOTAL, by="worker", total=True, scale=1e-6, axis="right", width=1.2,
                    fill=0.12, unit=" MB/s", decimals=1, legend="sum",
                ),
            ),
            top=100,
        ),
        _device("utilisation", "Utilisation", device, 100),
        _device("memory_use", "Memory", device, 100),
        replace(
            _device("power_w", "Power", device, None),
            unit=f"W per {device}",
            series=(Series("power_w", "all", by="device", unit=" W", thin="mean", legend="sum"),),
        ),
        *(_frontend() if frontend else ()),
    )  # fmt: skip


def _frontend() -> tuple[Panel, Panel]:
    """As the frontend's own counters have it: without the way to the client, and with the requests of others."""
    return (
        Panel(
            "frontend_latency",
            "Frontend: latency",
            "ms, mean of 5 s",
            (
                Series("frontend_ttft_s", "first token", P50, scale=1000),
                Series("frontend_duration_s", "request", TOTAL, scale=1000, dash="dashed", width=1.2),
                Series("frontend_itl_s", "ITL", P99, scale=1000, axis="right", width=1.2, decimals=1),
            ),
        ),
        Panel(
            "frontend_requests",
            "Frontend: requests",
            "in flight ↑  queued ↓",
            (
                Series("frontend_in_flight", "in flight", P50),
                Series("frontend_queued", "queued", P99, scale=-1),
                Series(
                    "frontend_output_tok_s", "output", TOTAL, axis="right", dash="dashed", width=1.1, unit=" tok/s", thin="mean"
                ),
            ),
        ),
    )


def _latency(name: Literal["ttft", "itl"], title: str, limit_s: float | None, decimals: int) -> Panel:
    return Panel(
        name,
        title,
        "ms",
        (
            Series(f"{name}_p50_s", "p50", P50, scale=1000, decimals=decimals),
            Series(f"{name}_p99_s", "p99", P99, scale=1000, decimals=decimals),
        ),
        band=(0, 1),
        dots=name,
        limit=None if limit_s is None else limit_s * 1000,
        limit_label="" if limit_s is None else f"SLO {limit_s * 1000:g}",
        ghosts=(f"{name}_p50_s", f"{name}_p99_s"),
    )


def _device(metric: str, title: str, device: str, top: float | None) -> Panel:
    scale = 1.0 if top is None else 100.0
    return Panel(
        metric,
        title,
        f"% per {device}",
        (Series(metric, "mean", by="device", scale=scale, unit=" %", thin="mean", legend="mean"),),
        top=top,
    )


def plots(drawn: tuple[Panel, ...], height: int = 148) -> list[Any]:
    """One Bokeh figure for each panel, empty, with one x-range for all. Names are how the browser finds what it fills:
    ``<panel>:left``, ``:right``, ``:area``, ``:dots``, ``:ghosts``, ``:y``, ``:y2``; ``x`` and ``events`` for all."""
    x_range = _m.Range1d(0, 60, name="x")
    events = _source("events", "x", "color")
    labels = _source("event labels", "x", "y", "text", "color")
    sided = [any(series.axis == "right" for series in panel.series) for panel in drawn]
    margins = [46 if any(sided[column::_COLUMNS]) else 14 for column in range(_COLUMNS)]  # plots of a column stand in line
    return [
        _plot(panel, x_range, events, labels if index < _COLUMNS else None, height, margins[index % _COLUMNS])
        for index, panel in enumerate(drawn)
    ]


def _source(name: str, *columns: str) -> Any:
    return _m.ColumnDataSource({column: [] for column in columns}, name=name)


def _plot(panel: Panel, x_range: Any, events: Any, labels: Any | None, height: int, margin: int) -> Any:
    plot = _figure(
        name=panel.name,
        height=height,
        sizing_mode="stretch_width",
        x_range=x_range,
        y_range=_m.Range1d(0, panel.top * 1.04 if panel.top else 1, name=f"{panel.name}:y"),
        tools=[_m.PanTool(dimensions="width"), _m.WheelZoomTool(dimensions="width", modifiers={"ctrl": True})],
        toolbar_location=None,
        lod_threshold=None,
        min_border_left=46,
        min_border_right=margin,
        min_border_top=6,
        min_border_bottom=20,
    )
    plot.extra_y_ranges = {"unit": _m.Range1d(0, 1), "right": _m.Range1d(0, 1, name=f"{panel.name}:y2")}
    look.dress(plot)
    plot.xaxis.formatter = _m.CustomJSTickFormatter(code=look.CLOCK)
    plot.yaxis.formatter = _m.CustomJSTickFormatter(code=look.SHORT)
    plot.yaxis.ticker = _m.BasicTicker(desired_num_ticks=4, mantissas=[1, 2, 5], num_minor_ticks=0)
    plot.xaxis.ticker = _m.AdaptiveTicker(desired_num_ticks=6, base=60, mantissas=[1, 2, 5, 10, 15, 30], num_minor_ticks=0)
    if any(series.axis == "right" for series in panel.series):
        right = _m.LinearAxis(y_range_name="right", ticker=plot.yaxis[0].ticker, formatter=plot.yaxis[0].formatter)
        look.dress_axis(right)
        plot.add_layout(right, "right")
    if panel.ghosts:
        ghosts = _source(f"{panel.name}:ghosts", "y0", "y1", "color")
        for y, dash in (("y0", "solid"), ("y1", "dashed")):  # p50, p99
            plot.hspan(y=y, source=ghosts, line_color="color", line_alpha=0.55, line_width=1.4, line_dash=dash)
    plot.vspan(x="x", source=events, line_color="color", line_alpha=0.75, line_width=1, line_dash="4 3")
    for axis in ("right", "left"):
        scale = {} if axis == "left" else {"y_range_name": "right"}
        areas = _source(f"{panel.name}:{axis}:area", "xs", "ys", "color", "alpha")
        plot.patches("xs", "ys", source=areas, fill_color="color", fill_alpha="alpha", line_color=None, **scale)
        lines = _source(f"{panel.name}:{axis}", "xs", "ys", "color", "width", "dash")
        plot.multi_line(
            "xs", "ys", source=lines, line_color="color", line_width="width", line_dash="dash", line_join="round", **scale
        )
    if panel.limit is not None:
        limit = _m.Span(location=panel.limit, dimension="width", line_color=ALARM, line_dash=[6, 4], line_alpha=0.75)
        plot.add_layout(limit)
    if panel.dots:
        dots = _source(f"{panel.name}:dots", "x", "y", "marker", "request")
        plot.scatter("x", "y", marker="marker", source=dots, size=6, fill_color=ALARM, fill_alpha=0.75, line_color=None)
    if labels is not None:
        plot.text(
            "x", "y", "text", source=labels, y_range_name="unit", text_color="color", text_font=_value(look.FONT),
            text_font_size="10px",
            text_baseline="top", x_offset=4, text_font_style="bold",
        )  # fmt: skip
    return plot
