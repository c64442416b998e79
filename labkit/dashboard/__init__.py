"""The live lab's charts in a notebook cell, and the same charts as a page that replays them."""

from labkit.dashboard.chart_data import ChartData
from labkit.dashboard.charts import Charts
from labkit.dashboard.explorer import Explorer
from labkit.dashboard.live_figure import LiveFigure
from labkit.dashboard.page import replay_page, save_page
from labkit.dashboard.pareto import pareto
from labkit.dashboard.present import present
from labkit.dashboard.waterfall import Stretch, Waterfall, waterfall

__all__ = [
    "ChartData",
    "Charts",
    "Explorer",
    "LiveFigure",
    "Stretch",
    "Waterfall",
    "pareto",
    "present",
    "replay_page",
    "save_page",
    "waterfall",
]
