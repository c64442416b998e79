"""The Bokeh face: a ``Figure`` as one HTML file that opens offline: zoom, hover, click a legend entry to hide it."""

from __future__ import annotations

import itertools
import re
import textwrap
from pathlib import Path
from typing import Any, Final

import numpy as np
from bokeh import models
from bokeh.document import Document
from bokeh.embed import file_html
from bokeh.layouts import column, gridplot
from bokeh.plotting import figure as bokeh_figure
from bokeh.resources import INLINE

from labkit.figures import style
from labkit.figures.inert import inert
from labkit.figures.marks import (
    Array,
    Band,
    Dots,
    Figure,
    HLine,
    Line,
    Mark,
    Panel,
    Rects,
    Text,
    VLine,
    VSpan,
    beside,
    bounds,
    shared_x,
)
from labkit.harmless import escaped

_m: Any = models  # Bokeh builds its models at run time: its own stubs know only half of them
_grid: Any = gridplot
_figure: Any = bokeh_figure
_PX: Final = 92  # screen pixels for an inch of the static figure
_FONT: Final = "Inter, Helvetica Neue, Arial, DejaVu Sans, sans-serif"
#: round numbers on a logarithmic axis, at any zoom: the densest of the usual steps that fits
_LOG_TICKS: Final = """
const {start, end} = cb_data.range
if (end / start < 4) {
  const raw = (end - start) / most, power = 10 ** Math.floor(Math.log10(raw))
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= raw) ?? 10)
  const ticks = []
  for (let i = Math.ceil(start / step); i * step <= end; i++) ticks.push(Number((i * step).toPrecision(6)))
  return ticks
}
let ticks = []
for (const steps of [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
  ticks = []
  for (let p = Math.floor(Math.log10(start)); p <= Math.log10(end); p++) {
    for (const m of steps) {
      const tick = Number((m * 10 ** p).toPrecision(6))
      if (start <= tick && tick <= end) ticks.push(tick)
    }
  }
  if (ticks.length <= most) break
}
return ticks
"""
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def save(figure: Figure, path: Path) -> None:
    """Write the self-contained page: BokehJS is inside, nothing is fetched."""
    title = inert(figure.title)
    document = Document(title=title)
    document.add_root(layout(figure))
    page = file_html(document, INLINE, title=title)
    names: dict[str, str] = {}
    page = _UUID.sub(lambda match: names.setdefault(match[0], f"labkit-{figure.name}-{len(names)}"), page)
    path.write_text(page, encoding="utf-8")


def layout(figure: Figure) -> Any:
    """The model tree: heading, grid of plots with one toolbar, caption."""
    figure = inert(figure)
    x_range = _m.Range1d(*shared) if (shared := shared_x(figure)) else None
    plots = [[_plot(panel, x_range, figure) for panel in row] for row in figure.rows]
    for above, below in itertools.pairwise(plots) if figure.share_x else ():
        for plot in above[: len(below)]:
            plot.xaxis.axis_label = None
            plot.xaxis.major_label_text_font_size = "0px"
    heading = _m.Div(
        text=f"<div style='font:700 20px {_FONT};color:{style.INK}'>{escaped(figure.title)}</div>"
        f"<div style='font:400 13px {_FONT};color:{style.SOFT};margin-top:4px'>{escaped(figure.subtitle)}</div>"
        f"{_key(figure)}",
        sizing_mode="stretch_width",
    )
    warnings = "".join(f"<div style='color:{style.WORSE}'>! {escaped(text)}</div>" for text in figure.warnings)
    caption = _m.Div(
        text=f"<div style='font:400 12px {_FONT};color:{style.SOFT}'>{warnings}{escaped(figure.caption)}</div>",
        sizing_mode="stretch_width",
    )
    grid = _grid(plots, toolbar_location="right", merge_tools=True, toolbar_options={"logo": None}, sizing_mode="stretch_width")
    return column(
        heading,
        grid,
        caption,
        sizing_mode="stretch_width",
        styles={"max-width": "1400px", "margin": "16px auto", "padding": "0 16px"},
    )


def _key(figure: Figure) -> str:
    items = [
        f"<span style='display:inline-block;width:16px;height:8px;background:{color};margin-right:6px'></span>"
        f"<span style='margin-right:18px'>{escaped(words)}</span>"
        for words, color in figure.key
    ]
    return f"<div style='font:400 12px {_FONT};color:{style.SOFT};margin-top:8px'>{''.join(items)}</div>" if items else ""


def _plot(panel: Panel, x_range: Any, figure: Figure) -> Any:
    x0, x1, y0, y1 = bounds(panel)
    shared = x_range is not None
    plot = _figure(
        frame_height=round(panel.height * _PX),
        sizing_mode="stretch_width",
        x_axis_type="log" if panel.x_log else "linear",
        y_axis_type="log" if panel.y_log else "linear",
        x_range=x_range if shared else _m.Range1d(x0, x1),
        y_range=_m.Range1d(y0, y1),
        title=panel.title,
        x_axis_label=panel.x_label,
        y_axis_label=panel.y_label,
        tools="xpan,xwheel_zoom,xbox_zoom,reset,save" if shared else "pan,wheel_zoom,box_zoom,reset,save",
        active_drag=None,
        min_width=260,
        outline_line_color=None,
        lod_threshold=None,
    )
    _dress(plot, panel)
    entries: dict[str, list[Any]] = {}
    for mark in panel.marks:
        renderers = _mark(plot, mark, panel, y0, y1)
        if renderers and not isinstance(mark, HLine | VLine | Text) and mark.label:
            entries.setdefault(mark.label, []).extend(renderers)
    if panel.note:
        start, end = (x_range.start, x_range.end) if shared else (x0, x1)
        middle = (start * end) ** 0.5 if panel.x_log else (start + end) / 2
        level = (y0 * y1) ** 0.5 if panel.y_log else (y0 + y1) / 2
        plot.add_layout(
            _m.Label(
                x=middle,
                y=level,
                text="\n".join(textwrap.wrap(panel.note, 80 // figure.columns + 20)),
                text_align="center",
                text_baseline="middle",
                text_color=style.SOFT,
                text_font=_FONT,
                text_font_size="13px",
            )
        )
    if entries:
        legend = _m.Legend(
            items=[_m.LegendItem(label=label, renderers=renderers) for label, renderers in entries.items()],
            orientation="horizontal",
            location="top_left",
            click_policy="hide",
            border_line_color=None,
            background_fill_color=None,
            padding=0,
            margin=2,
            spacing=14,
            glyph_width=16,
            glyph_height=12,
            label_text_font=_FONT,
            label_text_font_size="12px",
            label_text_color=style.SOFT,
            label_standoff=4,
        )
        plot.add_layout(legend, "above")
    return plot


def _ticker(most: int) -> Any:
    return _m.BasicTicker(desired_num_ticks=most, mantissas=[1, 2, 5], num_minor_ticks=0)


def _dress(plot: Any, panel: Panel) -> None:
    plot.title.text_font, plot.title.text_font_size, plot.title.text_color = _FONT, "14px", style.INK
    plot.xgrid.grid_line_color = None
    plot.ygrid.grid_line_color = style.GRID if panel.grid else None
    for axis, ticks, log in ((plot.xaxis[0], panel.x_ticks, panel.x_log), (plot.yaxis[0], panel.y_ticks, panel.y_log)):
        axis.axis_line_color = "#C3C8D0" if axis is plot.xaxis[0] else None
        axis.major_tick_line_color = axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = _FONT
        axis.axis_label_text_font_size, axis.major_label_text_font_size = "12px", "12px"
        axis.axis_label_text_color = axis.major_label_text_color = style.SOFT
        if ticks is not None:
            axis.ticker = _m.FixedTicker(ticks=[at for at, _ in ticks])
            axis.major_label_overrides = dict(ticks)
        else:
            most = 9 if axis is plot.xaxis[0] else max(min(int(panel.height / 0.32), 6), 2)
            ticker = _m.CustomJSTicker(args={"most": most}, major_code=_LOG_TICKS) if log else _ticker(most)
            axis.ticker = ticker
            axis.formatter = _m.NumeralTickFormatter(format="0,0.[00]")
    if panel.note:
        plot.ygrid.grid_line_color = None
        plot.yaxis.major_label_text_alpha = 0
    if panel.note and not panel.marks:
        plot.xaxis.major_label_text_alpha = 0
    if panel.y_ticks_right:
        right = _m.LinearAxis(
            ticker=_m.FixedTicker(ticks=[at for at, _ in panel.y_ticks_right]),
            major_label_overrides=dict(panel.y_ticks_right),
            axis_line_color=None,
            major_tick_line_color=None,
            minor_tick_line_color=None,
            major_label_text_font=_FONT,
            major_label_text_font_size="12px",
            major_label_text_color=style.INK,
        )
        plot.add_layout(right, "right")


def _hover(plot: Any, renderer: Any, tips: list[tuple[str, str]], mode: str = "mouse") -> None:
    plot.add_tools(_m.HoverTool(renderers=[renderer], tooltips=tips, mode=mode, visible=False, point_policy="follow_mouse"))


def _source(**columns: Any) -> Any:
    return _m.ColumnDataSource({name: list(values) if isinstance(values, tuple) else values for name, values in columns.items()})


def _mark(plot: Any, mark: Mark, panel: Panel, y0: float, y1: float) -> list[Any]:
    match mark:
        case Line():
            return _line(plot, mark, panel, y0)
        case Band():
            return [_area(plot, mark.x, mark.low, mark.high, mark.color, mark.alpha)]
        case Dots():
            source = _source(x=mark.x, y=mark.y, **({"tip": list(mark.tips)} if len(mark.tips) else {}))
            dots = plot.scatter(
                "x",
                "y",
                source=source,
                size=mark.size * 1.5,
                color=mark.color,
                alpha=mark.alpha,
                line_color=mark.color,
                line_width=0 if mark.marker == "circle" else 1.5,
                marker="circle" if mark.marker == "circle" else "x",
            )
            _hover(
                plot, dots, [("", "@tip")] if len(mark.tips) else [(panel.x_label, "@x{0,0.0}"), (panel.y_label, "@y{0,0.00}")]
            )
            return [dots]
        case Rects():
            source = _source(
                x0=mark.x0, x1=mark.x1, y0=mark.y0, y1=mark.y1, **({"tip": list(mark.tips)} if len(mark.tips) else {})
            )
            boxes = plot.quad("x0", "x1", "y1", "y0", source=source, color=mark.color, alpha=mark.alpha, line_color=None)
            if len(mark.tips):
                _hover(plot, boxes, [("", "@tip")])
            return [boxes]
        case HLine():
            plot.add_layout(
                _m.Span(location=mark.y, dimension="width", line_color=mark.color, line_dash=mark.dash, line_width=1.2)
            )
            _edge_label(plot, plot.x_range.end, mark.y, mark.text, mark.color, "right", "bottom", -3, 2)
        case VLine():
            plot.add_layout(
                _m.Span(location=mark.x, dimension="height", line_color=mark.color, line_dash=mark.dash, line_width=1.2)
            )
            align = beside(mark.x, (plot.x_range.start, plot.x_range.end), log=panel.x_log)
            _edge_label(plot, mark.x, y1, mark.text, mark.color, align, "top", 4 if align == "left" else -4, -2)
        case VSpan():
            plot.add_layout(
                _m.BoxAnnotation(
                    left=mark.x0, right=mark.x1, fill_color=mark.color, fill_alpha=mark.alpha, level="underlay", line_color=None
                )
            )
            _edge_label(plot, mark.x0, y1, mark.text, mark.color, "left", "top", 4, -2, bold=True)
        case Text():
            text = _m.Label(
                x=mark.x,
                y=mark.y,
                text=mark.text,
                x_offset=mark.dx * 1.3,
                y_offset=mark.dy * 1.3,
                text_align=mark.align,
                text_baseline="middle",
                text_color=mark.color,
                text_font=_FONT,
                text_font_size=f"{mark.size * 1.45:.0f}px",
                text_font_style="bold" if mark.bold else "normal",
                background_fill_color=style.PAPER,
                background_fill_alpha=0.7,
            )
            plot.add_layout(text)
    return []


def _line(plot: Any, mark: Line, panel: Panel, y0: float) -> list[Any]:
    source = _source(x=mark.x, y=mark.y)
    line = plot.line(
        "x",
        "y",
        source=source,
        color=mark.color,
        line_width=mark.width * 1.2,
        alpha=mark.alpha,
        line_dash=mark.dash,
        line_join="round",
    )
    if mark.alpha > 0.5 and mark.label:
        _hover(plot, line, [("", mark.label), (panel.x_label, "@x{0,0.0}"), (panel.y_label, "@y{0,0.00}")])
    renderers = [line]
    if mark.fill:
        floor = y0 if panel.y_log else 0.0
        renderers.append(_area(plot, mark.x, np.where(np.isfinite(mark.y), floor, np.nan), mark.y, mark.color, mark.fill))
    return renderers


def _area(plot: Any, x: Array, low: Array, high: Array, color: str, alpha: float) -> Any:
    """One renderer for a band with gaps: Bokeh's own area does not stop at NaN, patches do."""
    whole = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    runs = np.split(np.arange(len(x)), np.flatnonzero(np.diff(whole.astype(np.int8))) + 1)
    parts = [run for run in runs if run.size and whole[run[0]]]
    source = _m.ColumnDataSource(
        {
            "xs": [np.concatenate([x[part], x[part][::-1]]) for part in parts],
            "ys": [np.concatenate([high[part], low[part][::-1]]) for part in parts],
        }
    )
    return plot.patches("xs", "ys", source=source, color=color, alpha=alpha, line_color=None)


def _edge_label(
    plot: Any, x: float, y: float, text: str, color: str, align: str, baseline: str, dx: int, dy: int, *, bold: bool = False
) -> None:
    if text:
        plot.add_layout(
            _m.Label(
                x=x,
                y=y,
                text=text,
                x_offset=dx,
                y_offset=dy,
                text_align=align,
                text_baseline=baseline,
                text_color=color,
                text_font=_FONT,
                text_font_size="12px",
                text_font_style="bold" if bold else "normal",
            )
        )
