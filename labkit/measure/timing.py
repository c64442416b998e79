"""Latencies of single requests and gaps between their chunks, as columns: the "Per request" table of the metric definitions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from labkit.errors import SpecError
from labkit.measure.answers import Answers
from labkit.measure.chunks import RequestRows, TokenChunks, sort_out
from labkit.measure.columns import UNKNOWN, Bools, Floats, Ints, Select, bools, equals, floats, ints
from labkit.measure.digest import Digest
from labkit.measure.outcomes import ANSWERED, CANCELLED
from labkit.measure.records import Records

__all__ = [
    "UNKNOWN",
    "Bools",
    "ChunkGaps",
    "Floats",
    "Ints",
    "RequestMetrics",
    "Select",
    "TokenChunks",
    "bools",
    "chunk_gaps",
    "equals",
    "floats",
    "ints",
    "itl_s",
    "request_metrics",
    "token_chunks",
]


@dataclass(frozen=True, slots=True, eq=False)
class RequestMetrics:
    """One entry per row of ``records.requests``, in its order. NaN is undefined, never 0.

    Attributes:
        request, measurement, index, epoch: as recorded.
        measured: scheduled in the measure phase.
        ok: ended as asked.
        cancelled: ended by the client, by order; neither done nor failed.
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
    cancelled: Bools
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

    @property
    def failed(self) -> Bools:
        """Neither ended as asked nor cancelled."""
        return ~(self.ok | self.cancelled)

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


def token_chunks(records: Records | Digest) -> TokenChunks:
    """The chunks with tokens of a whole table, by the row of their request, then by time.

    Those of requests that the requests table lacks (a torn end) are left out.

    Raises:
        SpecError: of a digest that did not keep its chunks.
    """
    if records.chunks is None:
        raise SpecError("the chunks were taken in and not kept", remedy="use the records themselves: run.records()")
    return sort_out(records.chunks, RequestRows(ints(records.requests, "request")), by_row=True)


def request_metrics(records: Records | Digest, chunks: TokenChunks | None = None) -> RequestMetrics:
    """Latencies of every request of the records.

    Args:
        records: of a run, or a part of it.
        chunks: what ``token_chunks`` made of the same records, to save doing it twice.
    """
    table = records.requests
    if isinstance(records, Digest):
        answers = records.answers
    else:
        answers = Answers.none(len(table))
        answers.add(token_chunks(records) if chunks is None else chunks)
    scheduled, sent = ints(table, "scheduled_ns", UNKNOWN), ints(table, "sent_ns", UNKNOWN)
    answered, was_sent, was_scheduled = answers.counts > 0, sent != UNKNOWN, scheduled != UNKNOWN
    first, last = answers.first_ns, answers.last_ns
    output = ints(table, "output_tokens", UNKNOWN)
    counted = answered & (answers.first_tokens != UNKNOWN) & (output != UNKNOWN)
    later_tokens = output - answers.first_tokens
    return RequestMetrics(
        request=ints(table, "request"),
        measurement=ints(table, "measurement"),
        index=ints(table, "index"),
        epoch=ints(table, "epoch"),
        measured=equals(table, "phase", "measure"),
        ok=equals(table, "outcome", ANSWERED),
        cancelled=equals(table, "outcome", CANCELLED),
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


def chunk_gaps(records: Records | Digest, chunks: TokenChunks | None = None) -> ChunkGaps:
    """Every gap between consecutive token chunks of one request; arguments as for ``request_metrics``."""
    chunks = token_chunks(records) if chunks is None else chunks
    new = Answers.none(len(records.requests)).add(chunks)
    ends = np.ones(len(chunks), np.bool_)
    ends[chunks.heads] = False
    end = np.flatnonzero(ends)
    row, table = chunks.row[end], records.requests
    return ChunkGaps(
        request=ints(table, "request")[row],
        measurement=ints(table, "measurement")[row],
        row=row,
        start_ns=chunks.t_ns[end - 1],
        end_ns=chunks.t_ns[end],
        gap_s=new.gap_ns / 1e9,
        tokens=chunks.tokens[end],
        measured=equals(table, "phase", "measure")[row],
        ok=equals(table, "outcome", ANSWERED)[row],
    )


def itl_s(gaps: ChunkGaps) -> Floats:
    """Inter-token latencies: each gap, then k − 1 zeros for the other tokens of its chunk; NaN for a chunk of unknown count.

    Token-weighted; dividing a gap by k would hide the stall that a reader sees. Its sum over a request is TPOT · (n − k₁).
    """
    times = np.maximum(gaps.tokens, 1)
    latencies = np.zeros(int(times.sum()))
    latencies[np.cumsum(times) - times] = np.where(gaps.tokens == UNKNOWN, np.nan, gaps.gap_s)
    return latencies


def _seconds(ns: Ints, where: Bools) -> Floats:
    return np.where(where, ns / 1e9, np.nan)
