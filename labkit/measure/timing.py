"""Latencies of single requests and gaps between their chunks, as columns: the "Per request" table of the metric definitions.

Everything is one pass of sorted arrays; a million requests of a hundred chunks fit in memory and take seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from labkit.measure.records import Records

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Select = Bools | Ints
UNKNOWN = -1


@dataclass(frozen=True, slots=True, eq=False)
class RequestMetrics:
    """One entry per row of ``records.requests``, in its order. NaN is undefined, never 0.

    Attributes:
        request, measurement, index, epoch: as recorded.
        measured: scheduled in the measure phase.
        ok: ended as asked; everything else is a failure.
        straddled: alive across a re-split.
        send_lag_s: real send − scheduled send; undefined where the schedule was not recorded (an imported run).
        ttft_s: first chunk with at least one token − real send. Where the server does not count, the first chunk with text.
        ttft_from_schedule_s: the same − *scheduled* send.
        tpot_s: (last − first token chunk) / (n − k₁); undefined for n = k₁ and where n or k₁ is unknown.
        single: n = k₁: no token after the first chunk, so that TPOT is undefined by nature and no limit on it can be missed.
        e2e_s: last token chunk − real send.
        prompt_tokens, output_tokens: as the server counted.
        scheduled_ns: as recorded; the real send where the schedule was not.
        first_token_ns, last_token_ns: instants as floats (exact to 4 ns for a year of uptime).
        end_ns: end of the HTTP stream.
    """

    request: Ints
    measurement: Ints
    index: Ints
    epoch: Ints
    measured: Bools
    ok: Bools
    straddled: Bools
    send_lag_s: Floats
    ttft_s: Floats
    ttft_from_schedule_s: Floats
    tpot_s: Floats
    single: Bools
    e2e_s: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    scheduled_ns: Ints
    first_token_ns: Floats
    last_token_ns: Floats
    end_ns: Floats

    def __len__(self) -> int:
        return len(self.request)

    def select(self, which: Select) -> Self:
        """The entries of a mask or of row numbers."""
        return type(self)(**{name.name: getattr(self, name.name)[which] for name in fields(self)})


@dataclass(frozen=True, slots=True, eq=False)
class ChunkGaps:
    """Gaps between consecutive token chunks, grouped by request, in time order within one.

    Attributes:
        request, measurement: whose.
        row: the request's row in ``records.requests``.
        start_ns, end_ns: instants of the chunk before and of the chunk that ends the gap.
        gap_s: ``chunk_gap_s`` of the definitions.
        tokens: tokens of the chunk that ends the gap; -1 where the server did not say.
        measured, ok: of the request.
    """

    request: Ints
    measurement: Ints
    row: Ints
    start_ns: Ints
    end_ns: Ints
    gap_s: Floats
    tokens: Ints
    measured: Bools
    ok: Bools

    def __len__(self) -> int:
        return len(self.request)

    def select(self, which: Select) -> Self:
        """The entries of a mask or of positions."""
        return type(self)(**{name.name: getattr(self, name.name)[which] for name in fields(self)})


@dataclass(frozen=True, slots=True, eq=False)
class TokenChunks:
    """Chunks that hold at least one token, sorted by the row of their request, then by time.

    Attributes:
        row: row in ``records.requests``. t_ns: arrival. tokens: -1 where the server did not say.
        starts, counts: per row of ``records.requests``, its first chunk and how many it has.
    """

    row: Ints
    t_ns: Ints
    tokens: Ints
    starts: Ints
    counts: Ints


def token_chunks(records: Records) -> TokenChunks:
    """Sort out the chunks with tokens; those of requests that the requests table lacks (a torn end) are left out.

    A chunk counts when it has ≥ 1 token, with or without text; text decides only where the count is unknown.
    """
    requests = ints(records.requests, "request")
    tokens = ints(records.chunks, "tokens", UNKNOWN)
    counts_as_token = (tokens > 0) | ((tokens == UNKNOWN) & bools(records.chunks, "text"))
    order = np.argsort(requests, kind="stable")
    wanted = ints(records.chunks, "request")[counts_as_token]
    at = np.minimum(np.searchsorted(requests, wanted, sorter=order), max(len(requests) - 1, 0))
    row = order[at] if len(requests) else at
    known = requests[row] == wanted if len(requests) else np.zeros(len(wanted), bool)
    row = row[known]
    t_ns = ints(records.chunks, "t_ns")[counts_as_token][known]
    tokens = tokens[counts_as_token][known]
    by_row = np.argsort(row, kind="stable")
    if np.any((np.diff(t_ns[by_row]) < 0) & (np.diff(row[by_row]) == 0)):
        by_row = np.lexsort((t_ns, row))
    counts = np.bincount(row, minlength=len(requests)).astype(np.int64)
    return TokenChunks(row[by_row], t_ns[by_row], tokens[by_row], np.cumsum(counts) - counts, counts)


def request_metrics(records: Records, chunks: TokenChunks | None = None) -> RequestMetrics:
    """Latencies of every request of the records.

    Args:
        records: of a run, or a part of it.
        chunks: what ``token_chunks`` made of the same records, to save doing it twice.
    """
    chunks = token_chunks(records) if chunks is None else chunks
    table = records.requests
    scheduled, sent = ints(table, "scheduled_ns", UNKNOWN), ints(table, "sent_ns", UNKNOWN)
    answered, was_sent, was_scheduled = chunks.counts > 0, sent != UNKNOWN, scheduled != UNKNOWN
    first, last, first_tokens = (np.full(len(table), UNKNOWN, np.int64) for _ in range(3))
    first[answered] = chunks.t_ns[chunks.starts[answered]]
    last[answered] = chunks.t_ns[(chunks.starts + chunks.counts - 1)[answered]]
    first_tokens[answered] = chunks.tokens[chunks.starts[answered]]
    output = ints(table, "output_tokens", UNKNOWN)
    counted = answered & (first_tokens != UNKNOWN) & (output != UNKNOWN)
    later_tokens = output - first_tokens
    return RequestMetrics(
        request=ints(table, "request"),
        measurement=ints(table, "measurement"),
        index=ints(table, "index"),
        epoch=ints(table, "epoch"),
        measured=equals(table, "phase", "measure"),
        ok=equals(table, "outcome", "ok"),
        straddled=bools(table, "straddled"),
        send_lag_s=_seconds(sent - scheduled, was_sent & was_scheduled),
        ttft_s=_seconds(first - sent, answered & was_sent),
        ttft_from_schedule_s=_seconds(first - scheduled, answered & was_scheduled),
        tpot_s=_seconds(last - first, counted & (later_tokens > 0)) / np.maximum(later_tokens, 1),
        single=counted & (later_tokens == 0),
        e2e_s=_seconds(last - sent, answered & was_sent),
        prompt_tokens=floats(table, "prompt_tokens"),
        output_tokens=floats(table, "output_tokens"),
        scheduled_ns=np.where(was_scheduled, scheduled, sent),
        first_token_ns=np.where(answered, first, np.nan),
        last_token_ns=np.where(answered, last, np.nan),
        end_ns=floats(table, "end_ns"),
    )


def chunk_gaps(records: Records, chunks: TokenChunks | None = None) -> ChunkGaps:
    """Every gap between consecutive token chunks of one request; arguments as for ``request_metrics``."""
    chunks = token_chunks(records) if chunks is None else chunks
    within = np.flatnonzero(np.diff(chunks.row) == 0)
    row, start, end = chunks.row[within], chunks.t_ns[within], chunks.t_ns[within + 1]
    table = records.requests
    return ChunkGaps(
        request=ints(table, "request")[row],
        measurement=ints(table, "measurement")[row],
        row=row,
        start_ns=start,
        end_ns=end,
        gap_s=(end - start) / 1e9,
        tokens=chunks.tokens[within + 1],
        measured=equals(table, "phase", "measure")[row],
        ok=equals(table, "outcome", "ok")[row],
    )


def itl_s(gaps: ChunkGaps) -> Floats:
    """Inter-token latencies: each gap, then k − 1 zeros for the other tokens of its chunk; NaN for a chunk of unknown count.

    Token-weighted; dividing a gap by k would hide the stall that a reader sees. Its sum over a request is TPOT · (n − k₁).
    """
    times = np.maximum(gaps.tokens, 1)
    latencies = np.zeros(int(times.sum()))
    latencies[np.cumsum(times) - times] = np.where(gaps.tokens == UNKNOWN, np.nan, gaps.gap_s)
    return latencies


def ints(table: pa.Table, name: str, missing: int = 0) -> Ints:
    """A column as int64, with ``missing`` for null."""
    column = table.column(name)
    if column.null_count:
        column = column.fill_null(pa.scalar(missing, column.type))
    return np.asarray(column.to_numpy(), dtype=np.int64)


def floats(table: pa.Table, name: str) -> Floats:
    """A column as float64, with NaN for null."""
    return np.asarray(table.column(name).cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def bools(table: pa.Table, name: str) -> Bools:
    """A column as bool."""
    return np.asarray(table.column(name).to_numpy(), dtype=np.bool_)


def equals(table: pa.Table, name: str, value: str) -> Bools:
    """Where a text column holds ``value``; null does not."""
    found = pc.fill_null(pc.equal(table.column(name), value), False)
    return np.asarray(found.to_numpy(), dtype=np.bool_)


def _seconds(ns: Ints, where: Bools) -> Floats:
    return np.where(where, ns / 1e9, np.nan)
