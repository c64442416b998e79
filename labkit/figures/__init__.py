"""Figures: each one once as data → drawing, with a matplotlib face (png, svg, pdf) and a Bokeh face (interactive html)."""

from labkit.figures.comparison import ComparisonRow, comparison
from labkit.figures.context import Context, context
from labkit.figures.draw import FORMATS, draw_all, export, figures_of
from labkit.figures.marks import Figure
from labkit.figures.report import keep_report, show_report
from labkit.figures.show import (
    comparison_rows,
    draw_interference,
    draw_run,
    draw_saturation,
    draw_scaling,
    draw_search,
    draw_whatif,
    show,
    show_interference,
    show_saturation,
    show_scaling,
    show_search,
    show_second_opinion,
    show_whatif,
)

__all__ = [
    "FORMATS",
    "ComparisonRow",
    "Context",
    "Figure",
    "comparison",
    "comparison_rows",
    "context",
    "draw_all",
    "draw_interference",
    "draw_run",
    "draw_saturation",
    "draw_scaling",
    "draw_search",
    "draw_whatif",
    "export",
    "figures_of",
    "keep_report",
    "show",
    "show_interference",
    "show_report",
    "show_saturation",
    "show_scaling",
    "show_search",
    "show_second_opinion",
    "show_whatif",
]
