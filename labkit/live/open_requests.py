"""The requests that are under way, each with what its chunks have said so far: the memory of a live window beyond its seconds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from labkit.load.feed import Batch
from labkit.measure.answers import Answers
from labkit.measure.chunks import RequestRows, TokenChunks, sort_out
from labkit.measure.columns import UNKNOWN, Bools, Floats, Ints, ints
from labkit.measure.digest import Digest
from labkit.measure.metrics import good_requests
from labkit.measure.outcomes import is_failure
from labkit.measure.records import CHUNKS, EVENTS, REQUESTS, SAMPLES, SPANS
from labkit.measure.timing import RequestMetrics, request_metrics
from labkit.spec.slo import Slo


class NewChunks(NamedTuple):
    """Chunks with tokens, one entry each. ``gap_ns`` is the gap before it; -1: the first of a request, or not known."""

    request: Ints
    t_ns: Ints
    tokens: Ints
    gap_ns: Ints


class NewFirsts(NamedTuple):
    """First tokens: of which request, when, and how long after its real send."""

    request: Ints
    t_ns: Ints
    ttft_s: Floats


class NewEnds(NamedTuple):
    """Requests that have ended. ``good`` met every SLO; ``unknown``: it ended well, and whether it was good is not known.

    ``tpot_s`` is of those that were whole and ended well, and NaN of the others; ``uncounted``: for want of token counts.
    """

    request: Ints
    t_ns: Ints
    failed: Bools
    good: Bools
    unknown: Bools
    tpot_s: Floats
    uncounted: Bools
    reason: list[str]


class OpenRequests:
    """Takes in batches of one shard after the other, and forgets a request when it has ended.

    A request is *whole* when everything of it was seen: it was sent under the watch, and no batch was lost meanwhile. Only of
    those is the first token known; gaps are known from the first chunk on that was seen.
    """

    def __init__(self, slo: Slo) -> None:
        self._slo = slo
        self._request = np.zeros(0, np.int64)
        self._shard = np.zeros(0, np.int64)
        self._sent_ns = np.zeros(0, np.int64)
        self._whole = np.zeros(0, np.bool_)
        self._answers = Answers.none(0)

    def __len__(self) -> int:
        return len(self._request)

    @property
    def oldest_sent_ns(self) -> int | None:
        """When the oldest of them was sent, -1 of one that was sent before anybody looked; ``None`` where there is none."""
        sent_ns = self._sent_ns
        return int(sent_ns.min()) if len(sent_ns) else None

    def tear(self, shard: int) -> None:
        """A batch of the shard was lost: its requests are not whole, and their next chunk ends no known gap."""
        mine = self._shard == shard
        self._whole[mine] = False
        self._answers.counts[mine] = 0

    def take(self, batch: Batch) -> tuple[NewChunks, NewFirsts, NewEnds]:
        """What is new with a batch."""
        request, t_ns, tokens, text = batch.chunks
        sent = np.array(batch.sent, np.int64).reshape(-1, 2)
        ended = np.array([row[0] for row in batch.ended], np.int64)
        self._enter(np.unique(np.concatenate([sent[:, 0], request, ended])), batch.shard)
        rows = RequestRows(self._request)
        at = rows.of(sent[:, 0])
        self._sent_ns[at], self._whole[at] = sent[:, 1], sent[:, 1] >= batch.since_ns
        table = pa.table([request, t_ns, pa.array(tokens, mask=tokens == UNKNOWN), text], schema=CHUNKS)
        chunks, firsts = self._chunks(sort_out(table, rows))
        ends = self._ends(batch, rows.of(ended))
        over = np.isin(self._request, ended) | ((self._shard == batch.shard) & (self._request < batch.oldest))
        if over.any():
            self._keep(~over)
        return chunks, firsts, ends

    def _enter(self, request: Ints, shard: int) -> None:
        new = np.setdiff1d(request, self._request, assume_unique=True)
        if not len(new):
            return
        unknown = np.full(len(new), UNKNOWN, np.int64)
        self._request = np.concatenate([self._request, new])
        self._shard = np.concatenate([self._shard, np.full(len(new), shard)])
        self._sent_ns = np.concatenate([self._sent_ns, unknown])
        self._whole = np.concatenate([self._whole, np.zeros(len(new), np.bool_)])
        self._answers = self._answers.extended(len(new))

    def _keep(self, which: Bools) -> None:
        self._request, self._shard, self._sent_ns = self._request[which], self._shard[which], self._sent_ns[which]
        self._whole, self._answers = self._whole[which], self._answers.select(which)

    def _chunks(self, chunks: TokenChunks) -> tuple[NewChunks, NewFirsts]:
        head_row = chunks.row[chunks.heads]
        new = self._answers.counts[head_row] == 0
        found = self._answers.add(chunks)
        gap_ns = np.full(len(chunks), UNKNOWN, np.int64)
        ends_one = np.ones(len(chunks), np.bool_)
        ends_one[chunks.heads[new]] = False
        gap_ns[ends_one] = found.gap_ns
        np.maximum(gap_ns, UNKNOWN, out=gap_ns)  # a chunk that is older than what came before it ends no gap
        first, row = chunks.heads[new], head_row[new]
        known = self._whole[row]
        first, row = first[known], row[known]
        ttft_s = (chunks.t_ns[first] - self._sent_ns[row]) / 1e9
        of = self._request[chunks.row]
        return NewChunks(of, chunks.t_ns, chunks.tokens, gap_ns), NewFirsts(self._request[row], chunks.t_ns[first], ttft_s)

    def _ends(self, batch: Batch, row: Ints) -> NewEnds:
        if not len(row):
            none, no = np.zeros(0, np.int64), np.zeros(0, np.bool_)
            return NewEnds(none, none, no, no, no, np.zeros(0), no, [])
        table = pa.Table.from_pydict(dict(zip(REQUESTS.names, zip(*batch.ended, strict=True), strict=True)), schema=REQUESTS)
        metrics = _metrics(table, self._answers.select(row))
        closed = np.isin(metrics.measurement, np.array(batch.closed_loop, np.int64))
        by_clock, by_slot = (good_requests(metrics, self._slo, open_loop=open_loop) for open_loop in (True, False))
        good, unknown = (np.where(closed, slot, clock) for clock, slot in zip(by_clock, by_slot, strict=True))
        unknown = (unknown | ~self._whole[row]) & metrics.ok
        read = self._whole[row] & metrics.ok
        tpot_s = np.where(read, metrics.tpot_s, np.nan)
        uncounted = read & np.isnan(metrics.tpot_s) & ~metrics.single
        end_ns = ints(table, "end_ns", batch.until_ns)
        outcomes = _why(table)
        failed = np.array([is_failure(outcome) for outcome, _ in outcomes], np.bool_)
        reasons = [f"{outcome}: {reason or ''}" for outcome, reason in outcomes]
        return NewEnds(metrics.request, end_ns, failed, good & ~unknown, unknown, tpot_s, uncounted, reasons)


def _metrics(requests: pa.Table, answers: Answers) -> RequestMetrics:
    samples, spans, events = (schema.empty_table() for schema in (SAMPLES, SPANS, EVENTS))
    return request_metrics(Digest(requests, answers, {}, {}, samples, spans, events, (), (), None))


def _why(requests: pa.Table) -> list[tuple[str, str | None]]:
    return list(zip(requests.column("outcome").to_pylist(), requests.column("reason").to_pylist(), strict=True))
