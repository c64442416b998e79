"""Latencies by side, from ``labkit.measure``, in the shape that the figures draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from labkit.figures.marks import Array
from labkit.figures.series import EXCERPT_S, excerpt, sides
from labkit.measure.chunks import RequestRows, TokenChunks, sort_out
from labkit.measure.digest import Digest, digest
from labkit.measure.gaps import pooled_percentiles_s
from labkit.measure.metrics import STALL_S
from labkit.measure.records import Records, Window
from labkit.measure.statistics import least_values, percentile
from labkit.measure.timing import (
    UNKNOWN,
    Bools,
    ChunkGaps,
    Ints,
    RequestMetrics,
    chunk_gaps,
    ints,
    itl_s,
    request_metrics,
)

__all__ = ["STALL_S", "Latency", "Values", "milliseconds", "percentile_text"]

Latency = Literal["ttft", "tpot", "itl", "chunk_gap"]
#: A figure of a larger run is drawn from a sample: nobody sees more, and they would not fit into memory.
MOST_CHUNKS: Final = 1_000_000
SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Per-request and per-gap numbers of a run, computed once for all figures.

    Attributes:
        requests: every one.
        gaps: of all requests, or of one in ``one_in`` where the run has more chunks than can be drawn.
        stalls: gaps of all requests that one of the excerpts may show a stall of.
        counted: the server said how many tokens each chunk holds, so ITL and throughput are known.
        tokens_s: by measurement the tokens that came in each second from its start on, where any came.
        uncounted: measurements in which chunks came whose tokens are unknown.
        taken: what was taken in of the records.
    """

    requests: RequestMetrics
    gaps: ChunkGaps
    stalls: ChunkGaps
    counted: bool
    tokens_s: Mapping[int, Array]
    uncounted: frozenset[int]
    one_in: int
    taken: Digest

    @classmethod
    def of(cls, records: Records | Digest, *, most_chunks: int = MOST_CHUNKS) -> Values:
        """Compute them in one pass over the chunks; records without a single request give empty arrays."""
        taken = records if isinstance(records, Digest) else digest(records)
        requests, counts = request_metrics(taken), taken.answers.counts
        one_in = max(1, -(-int(counts.sum()) // most_chunks))
        drawn = np.random.default_rng(0).random(len(counts)) < 1 / one_in  # by chance: every n-th may be every first turn
        stalling = drawn if one_in == 1 else _stalling(taken, most_chunks)
        seconds = _Seconds(taken.windows, requests.measurement)
        kept: list[tuple[Ints, Ints, Ints]] = []
        rows = RequestRows(requests.request)
        for part in taken.parts:
            chunks = sort_out(part, rows)
            seconds.add(chunks)
            which = (drawn | stalling)[chunks.row]
            kept.append((chunks.row[which], chunks.t_ns[which], chunks.tokens[which]))
        columns = [np.concatenate(column) for column in zip(*kept, strict=True)] if kept else [np.zeros(0, np.int64)] * 3
        gaps = chunk_gaps(taken, TokenChunks.of(*columns))
        return cls(
            requests=requests,
            gaps=gaps if one_in == 1 else gaps.select(drawn[gaps.row]),
            stalls=gaps if one_in == 1 else gaps.select(stalling[gaps.row]),
            counted=not seconds.unknown,
            tokens_s=seconds.tokens,
            uncounted=frozenset(seconds.uncounted),
            one_in=one_in,
            taken=taken,
        )

    def sampled(self, what: str, but: str = "") -> str:
        """A sentence for the subtitle: ``Gaps of 1 in 10 requests.``; empty where all were drawn."""
        return f" {what} of 1 in {self.one_in} requests{but}." if self.one_in > 1 else ""

    def percentiles_ms(self, windows: Sequence[Window], latency: Latency) -> dict[float, float]:
        """p50 and p99 of all gaps of some windows; empty where ``window_ms`` has them all, or there are none."""
        pool = [self.taken.gaps[window.measurement] for window in windows if window.measurement in self.taken.gaps]
        if self.one_in == 1 or not any(map(len, pool)):
            return {}
        surplus = self.taken.answers.surplus if latency == "itl" else np.zeros_like(self.requests.index)
        zeros = sum(int(surplus[self._counts_in(window)].sum()) for window in windows)
        return {q: float(value) * 1e3 for q, value in zip((50, 99), pooled_percentiles_s(pool, (50, 99), zeros), strict=True)}

    def window_ms(self, window: Window, latency: Latency) -> Array:
        """Latencies in ms of a window's measure phase, of the requests that ended as asked: what its summary is made of."""
        if latency in ("itl", "chunk_gap"):
            gaps = self.gaps.select(self._counts_in(window)[self.gaps.row])
            values = itl_s(gaps) if latency == "itl" else gaps.gap_s
        else:
            mine = self._counts_in(window)
            values = self.requests.ttft_s[mine] if latency == "ttft" else self.requests.tpot_s[mine]
        return np.asarray(values[np.isfinite(values)] * 1e3, dtype=np.float64)

    def _counts_in(self, window: Window) -> Bools:
        """The requests of a window's measure phase that ended as asked."""
        mine = (self.requests.measurement == window.measurement) & self.requests.measured & self.requests.ok
        return np.asarray(mine & (self.requests.index >= window.first_index), dtype=np.bool_)

    def why_none(self, latency: Latency) -> str:
        """Why a latency has no values at all."""
        if not len(self.requests):
            return "no request was recorded"
        if not np.any(self.requests.measured & self.requests.ok):
            return "no request of a measure phase completed"
        if latency == "ttft":
            return "no chunk with a token was seen"
        return "every answer came in one chunk" if self.counted else "the server did not say how many tokens a chunk holds"


class _Seconds:
    """Tokens by the second, taken in part by part."""

    def __init__(self, windows: Sequence[Window], measurement: Ints) -> None:
        self._windows = {window.measurement: window for window in windows}
        self._measurement = measurement
        self.tokens: dict[int, Array] = {}
        self.uncounted: set[int] = set()
        self.unknown = False

    def add(self, chunks: TokenChunks) -> None:
        """Take in a part of the chunks."""
        owner = self._measurement[chunks.row]
        self.unknown = self.unknown or bool((chunks.tokens == UNKNOWN).any())
        for number in np.unique(owner).tolist():
            if (window := self._windows.get(number)) is None:
                continue
            mine = owner == number
            t_ns, tokens = chunks.t_ns[mine], chunks.tokens[mine]
            if (tokens == UNKNOWN).any():
                self.uncounted.add(number)
            inside = (t_ns >= window.start_ns) & (t_ns <= window.end_ns)
            length = int(window.end_ns - window.start_ns) // SECOND_NS + 1
            found: Array = np.bincount((t_ns[inside] - window.start_ns) // SECOND_NS, tokens[inside], length).astype(np.float64)
            self.tokens[number] = self.tokens[number] + found if number in self.tokens else found


def _stalling(taken: Digest, most_chunks: int) -> Bools:
    """Requests that may stall in an excerpt: none without spans, whose rows show it, and no more than can be drawn."""
    answers, measurement = taken.answers, ints(taken.requests, "measurement")
    found = np.zeros(len(measurement), np.bool_)
    for windows in sides(taken.windows).values() if len(taken.spans) else ():
        begin, end = excerpt(windows[0], EXCERPT_S)
        here = (answers.first_ns <= end) & (answers.last_ns >= begin) & (answers.longest_gap_ns > STALL_S * 1e9)
        found |= here & (measurement == windows[0].measurement)
    return found & (np.cumsum(np.where(found, answers.counts, 0)) <= most_chunks)


def percentile_text(values: Array, q: float, exact: float | None = None) -> tuple[float | None, str]:
    """``(value in ms, "p99 332 ms")``; where there are too few values the text says so and the value is ``None``.

    ``exact`` is taken in its place where it is given.
    """
    value = percentile(values, q) if exact is None else exact
    if value is None:
        return None, f"p{q:g}: {len(values)} values, needs {least_values(q)}"
    return value, f"p{q:g} {milliseconds(value)} ms"


def milliseconds(value: float) -> str:
    """A latency in ms as people say it: 7.4, 18.6, 332, 1,240."""
    return f"{value:,.1f}" if value < 99.95 else f"{value:,.0f}"
