"""Questions put to a deployment or to recorded runs, one a module."""

from labkit.experiments.compare import Comparison, compare, compare_runs
from labkit.experiments.conclude import Conclusion, compare_sides, conclude, slo_of
from labkit.experiments.interleave import interleave
from labkit.experiments.side_by_side import SideBySide, side_by_side
from labkit.experiments.side_by_side_text import conditions_text, side_by_side_text
from labkit.experiments.table import table
from labkit.experiments.until import Narrow
from labkit.experiments.verdict import Verdict, verdict

__all__ = [
    "Comparison",
    "Conclusion",
    "Narrow",
    "SideBySide",
    "Verdict",
    "compare",
    "compare_runs",
    "compare_sides",
    "conclude",
    "conditions_text",
    "interleave",
    "side_by_side",
    "side_by_side_text",
    "slo_of",
    "table",
    "verdict",
]
