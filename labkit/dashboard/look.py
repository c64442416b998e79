"""How charts in a notebook look: nothing painted behind them, text in JupyterLab's colours, a faint grid in y."""

from __future__ import annotations

from typing import Any, Final

FONT: Final = "Inter, system-ui, Segoe UI, Helvetica Neue, DejaVu Sans, sans-serif"
#: Text that is read on white and on black, where the page gives no ``--bk-…-color`` of its own.
SOFT: Final = "#7D8694"
#: seconds as 1:05 and 1:00:05
CLOCK: Final = """
const s = Math.round(tick), sign = s < 0 ? "-" : "", a = Math.abs(s), two = (v) => String(v).padStart(2, "0")
const h = Math.floor(a / 3600), m = Math.floor(a / 60) % 60
return sign + (h ? h + ":" + two(m) : m) + ":" + two(a % 60)
"""
#: 1,500 as 1.5k; what is drawn downwards is counted upwards all the same
SHORT: Final = """
const a = Math.abs(tick)
return a >= 1e6 ? +(a / 1e6).toFixed(2) + "M" : a >= 1e4 ? +(a / 1e3).toFixed(1) + "k" : String(+a.toPrecision(3))
"""


def dress(plot: Any) -> None:
    """Give a Bokeh figure the house's look, in light and in dark."""
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = None
    plot.toolbar.logo = None
    plot.xgrid.grid_line_color = None
    plot.ygrid.grid_line_color, plot.ygrid.grid_line_alpha = SOFT, 0.18
    for axis in (*plot.xaxis, *plot.yaxis):
        dress_axis(axis)
    for axis in plot.xaxis:
        axis.axis_line_color, axis.axis_line_alpha = SOFT, 0.35


def dress_axis(axis: Any) -> None:
    """No line, no ticks, small soft labels."""
    axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = None
    axis.major_label_text_font = axis.axis_label_text_font = FONT
    axis.major_label_text_font_size, axis.axis_label_text_font_size = "10px", "11px"
    axis.major_label_text_color = axis.axis_label_text_color = SOFT
    axis.axis_label_text_font_style = "normal"
    axis.major_label_standoff = 4
    axis.axis_label_standoff = 6


def dress_legend(legend: Any) -> None:
    """In a row without a frame; a click on a name hides what it stands for."""
    legend.orientation, legend.location = "horizontal", "top_left"
    legend.background_fill_color = legend.border_line_color = None
    legend.label_text_font, legend.label_text_font_size, legend.label_text_color = FONT, "11px", SOFT
    legend.padding, legend.margin, legend.spacing, legend.glyph_width = 0, 2, 14, 14
    legend.click_policy = "hide"
