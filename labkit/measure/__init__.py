"""Records, and what follows from them: pure functions, one definition per metric."""

from labkit.measure.metrics import Summary, chunk_gaps, itl_s, request_metrics, summarise
from labkit.measure.records import Records, Window
from labkit.measure.statistics import Interval, bootstrap, percentile

__all__ = [
    "Interval",
    "Records",
    "Summary",
    "Window",
    "bootstrap",
    "chunk_gaps",
    "itl_s",
    "percentile",
    "request_metrics",
    "summarise",
]
