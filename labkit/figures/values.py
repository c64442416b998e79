"""Latencies by side, from ``labkit.measure``, in the shape that the figures draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from labkit.figures.marks import Array
from labkit.measure.metrics import STALL_S
from labkit.measure.records import Records, Window
from labkit.measure.statistics import least_values, percentile
from labkit.measure.timing import (
    UNKNOWN,
    ChunkGaps,
    RequestMetrics,
    TokenChunks,
    chunk_gaps,
    itl_s,
    request_metrics,
    token_chunks,
)

__all__ = ["STALL_S", "Latency", "Values", "milliseconds", "percentile_text"]

Latency = Literal["ttft", "tpot", "itl", "chunk_gap"]


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Per-request and per-gap numbers of a run, computed once for all figures.

    ``counted``: the server said how many tokens each chunk holds, so ITL and throughput are known.
    """

    requests: RequestMetrics
    chunks: TokenChunks
    gaps: ChunkGaps
    counted: bool

    @classmethod
    def of(cls, records: Records) -> Values:
        """Compute them; records without a single request give empty arrays."""
        chunks = token_chunks(records)
        counted = not bool(np.any(chunks.tokens == UNKNOWN))
        return cls(request_metrics(records, chunks), chunks, chunk_gaps(records, chunks), counted)

    def window_ms(self, window: Window, latency: Latency) -> Array:
        """Latencies in ms of a window's measure phase, of the requests that ended as asked: what its summary is made of."""
        if latency in ("itl", "chunk_gap"):
            counts = self.requests.index[self.gaps.row] >= window.first_index
            gaps = self.gaps.select((self.gaps.measurement == window.measurement) & self.gaps.measured & self.gaps.ok & counts)
            values = itl_s(gaps) if latency == "itl" else gaps.gap_s
        else:
            mine = (self.requests.measurement == window.measurement) & self.requests.measured & self.requests.ok
            mine &= self.requests.index >= window.first_index
            values = self.requests.ttft_s[mine] if latency == "ttft" else self.requests.tpot_s[mine]
        return np.asarray(values[np.isfinite(values)] * 1e3, dtype=np.float64)

    def why_none(self, latency: Latency) -> str:
        """Why a latency has no values at all."""
        if not len(self.requests):
            return "no request was recorded"
        if not np.any(self.requests.measured & self.requests.ok):
            return "no request of a measure phase completed"
        if latency == "ttft":
            return "no chunk with a token was seen"
        return "every answer came in one chunk" if self.counted else "the server did not say how many tokens a chunk holds"


def percentile_text(values: Array, q: float) -> tuple[float | None, str]:
    """``(value in ms, "p99 332 ms")``; where there are too few values the text says so and the value is ``None``."""
    value = percentile(values, q)
    if value is None:
        return None, f"p{q:g}: {len(values)} values, needs {least_values(q)}"
    return value, f"p{q:g} {milliseconds(value)} ms"


def milliseconds(value: float) -> str:
    """A latency in ms as people say it: 7.4, 18.6, 332, 1,240."""
    return f"{value:,.1f}" if value < 99.95 else f"{value:,.0f}"
