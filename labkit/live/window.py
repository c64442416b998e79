"""The sliding window over the live events: what clients saw in the last seconds, by the definitions of ``measure``.

Throughput counts token events inside the window, as a measurement's does. Latencies are of the *events* inside it: TTFT of
the first tokens, ITL of the gaps that ended, whatever becomes of their requests, TPOT of the requests that ended well. (A
measurement's are of the requests that were scheduled inside it and ended as asked, which only its end can tell.) Where every
request of a measurement lies inside the window and ended well, both are the same numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from labkit.live.open_requests import NewChunks, NewEnds, NewFirsts, OpenRequests
from labkit.live.sample import Dot, LiveStats
from labkit.live.tails import Recent, Tail
from labkit.load.feed import Batch
from labkit.measure.columns import UNKNOWN, Floats, Ints
from labkit.measure.gaps import Gaps
from labkit.measure.statistics import least_values, percentile
from labkit.spec.slo import Slo

WINDOW_S: Final = 5.0
#: A shard that has said nothing for so long is not waited for.
_SILENT_NS: Final = 2_000_000_000
_MOST_DOTS: Final = 4
_MOST_SLOW: Final = 8
_REMEMBERED_NS: Final = 60_000_000_000
#: Where a window has too few first tokens for a p99, one is slow that took so many times the median of the last minute: in a
#: queue that waited for all of another request. The median is of so many first tokens at least.
SLOW_MEDIANS: Final = 2.0
LEAST_FIRSTS: Final = 5
_MOST_FIRSTS: Final = least_values(99)

Why = Literal["ttft", "itl", "failed"]


class Tick(NamedTuple):
    """What the window says at one instant."""

    stats: LiveStats
    slow_ttft: tuple[Dot, ...]
    slow_itl: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Slow:
    """What was bad about a request of the last minute.

    Attributes:
        t_s: when it was seen, in seconds since the lab began; ``t_ns`` by the records' clock.
        value_s: the time to its first token, or the gap before a token; 0 of a failed one.
        text: how it failed.
    """

    request: int
    t_s: float
    t_ns: int
    why: Why
    value_s: float = 0.0
    text: str = ""


class Trail:
    """Columns of events that are forgotten when they are old. The first column is the instant of each."""

    def __init__(self) -> None:
        self._parts: deque[tuple[int, tuple[Any, ...]]] = deque()

    def add(self, t_ns: Ints, *columns: Any) -> None:
        """Take a part; within it the instants may be in any order."""
        if len(t_ns):
            self._parts.append((int(t_ns.max()), (t_ns, *columns)))

    def forget(self, before_ns: int) -> None:
        """Drop the parts that ended before."""
        while self._parts and self._parts[0][0] < before_ns:
            self._parts.popleft()

    def between(self, start_ns: int, end_ns: int, columns: int) -> tuple[Any, ...]:
        """The columns, as many as there are, of the events in [start, end), part after part."""
        found = []
        for _, part in self._parts:
            inside = (part[0] >= start_ns) & (part[0] < end_ns)
            if inside.all():
                found.append(part)
            elif inside.any():
                found.append(tuple(column[inside] for column in part))
        if not found:
            return tuple(np.zeros(0, np.int64) for _ in range(columns))
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))


@dataclass(slots=True)
class _Shard:
    """The newest that a shard has said of itself."""

    newest: Batch
    lost_until_ns: int = 0  # events are missing that happened before


class LiveWindow:
    """Takes in the batches of all shards, and gives the statistics of the last seconds at any tick.

    Memory is bounded by the events of the window, the requests under way, and a few entries a tick of the last minute.

    Args:
        length_s: of the window.
        slo: for goodput, and for what is slow.
        origin_ns: when the lab began.
        since_ns: when the watch began: the window does not reach back beyond.
    """

    def __init__(self, length_s: float = WINDOW_S, *, slo: Slo | None = None, origin_ns: int = 0, since_ns: int = 0) -> None:
        self._length_ns, self._origin_ns, self._since_ns = round(length_s * 1e9), origin_ns, since_ns
        self._end_ns = 0
        self.slo = slo or Slo()
        self._open = OpenRequests(self.slo)
        self._shards: dict[int, _Shard] = {}
        self._sent, self._chunks, self._firsts, self._ends = Trail(), Trail(), Trail(), Trail()
        self._recent_ttft, self._recent_itl = Recent(), Recent()
        self._uncounted_ns = -1  # when a chunk came that may hold any number of tokens
        self._new_firsts: list[NewFirsts] = []
        self._new_gaps: list[NewChunks] = []
        self._new_failures: list[tuple[int, int, str]] = []
        self._slow: deque[Slow] = deque()
        self._recent: deque[tuple[int, float]] = deque(maxlen=_MOST_FIRSTS)
        self._limits: tuple[float | None, float | None] = (self.slo.ttft_s, self.slo.tpot_s)

    def add(self, batch: Batch) -> None:
        """Take in what a shard sent; its batches come in order."""
        shard = self._shards.get(batch.shard)
        if shard is None:
            shard = self._shards[batch.shard] = _Shard(batch)
            self._since_ns = max(self._since_ns, batch.since_ns)
        if batch.lost > (0 if shard.newest is batch else shard.newest.lost):
            shard.lost_until_ns = batch.until_ns
            self._open.tear(batch.shard)
        shard.newest = batch
        chunks, firsts, ends = self._open.take(batch)
        self._sent.add(np.array([t_ns for _, t_ns in batch.sent if t_ns >= batch.since_ns], np.int64))
        self._chunks.add(chunks.t_ns, chunks.tokens, chunks.gap_ns)
        self._firsts.add(firsts.t_ns, firsts.ttft_s)
        newest = (column[-_MOST_FIRSTS:].tolist() for column in (firsts.t_ns, firsts.ttft_s))
        self._recent.extend(zip(*newest, strict=True))
        self._remember(firsts, chunks)
        self._ends.add(ends.t_ns, ends.good, ends.unknown, ends.tpot_s, ends.uncounted)
        self._new_firsts.append(firsts)
        self._new_gaps.append(chunks)
        self._new_failures += _failures(ends)

    @property
    def heard(self) -> int:
        """Shards that have told of themselves: before all have, requests under way may be unknown."""
        return len(self._shards)

    @property
    def oldest_sent_ns(self) -> int | None:
        """When the oldest request under way was sent, -1 where that was before the watch; ``None`` where none is under way."""
        return self._open.oldest_sent_ns

    def horizon_ns(self, now_ns: int) -> int:
        """The last instant whose events are all known: where the window of a tick at ``now_ns`` should end."""
        known = [shard.newest.until_ns for shard in self._shards.values() if shard.newest.running]
        return max(min([now_ns, *known]), now_ns - _SILENT_NS, self._end_ns)

    def tick(self, end_ns: int, *, accelerators: float = 0.0) -> Tick:
        """The window that ends at ``end_ns``, and what was slow since the last tick.

        Args:
            end_ns: see ``horizon_ns``, which never goes back.
            accelerators: held by the whole topology; 0 where unknown.
        """
        self._end_ns = max(self._end_ns, end_ns)
        start_ns = max(end_ns - self._length_ns, self._since_ns)
        for trail in (self._sent, self._chunks, self._firsts, self._ends):
            trail.forget(start_ns)
        stats = self._stats(start_ns, max(end_ns, start_ns), accelerators)
        ttft_s = _least(self.slo.ttft_s, stats.ttft_p99_s)
        limits = self._slow_ttft_s(end_ns) if ttft_s is None else ttft_s, _least(self.slo.tpot_s, stats.itl_p99_s)
        self._limits = (
            self.slo.ttft_s or stats.ttft_p99_s or stats.ttft_p50_s or self._limits[0],
            self.slo.tpot_s or stats.itl_p99_s or stats.itl_p50_s or self._limits[1],
        )
        slow_ttft, slow_itl = self._slowest(end_ns)
        return Tick(stats, _beyond(slow_ttft, limits[0]), _beyond(slow_itl, limits[1]))

    def tails(self, since_ns: int) -> dict[str, Tail]:
        """How the latencies of now are spread, of the last minute at most: ``ttft`` and ``itl``, each where there is any.

        By the seconds in which the events were seen, as ``LiveStats`` are. On the thread that adds.

        Args:
            since_ns: what happened before is left out.
        """
        start_ns = max(since_ns, self._since_ns)
        itl = Tail() if self._uncounted_ns >= start_ns else self._recent_itl.tail(start_ns, self._end_ns)
        found = {"ttft": self._recent_ttft.tail(start_ns, self._end_ns), "itl": itl}
        return {name: tail for name, tail in found.items() if tail.n}

    def slow(self, least_ns: int = 0) -> Sequence[tuple[float, Slow]]:
        """What was remembered of the last minute, with how bad it was: 1 is at the SLO (or at the window's p99); failures are
        infinitely bad. Those before ``least_ns`` are left out."""
        limits = {"ttft": self._limits[0], "itl": self._limits[1]}
        return [
            (float("inf") if one.why == "failed" else one.value_s / (limits[one.why] or 1.0), one)
            for one in self._slow.copy()  # the watch's thread adds meanwhile
            if one.t_ns >= least_ns
        ]

    def _remember(self, firsts: NewFirsts, chunks: NewChunks) -> None:
        self._recent_ttft.add(firsts.t_ns, firsts.ttft_s)
        gap = chunks.gap_ns != UNKNOWN
        t_ns, tokens = chunks.t_ns[gap], chunks.tokens[gap]
        if (uncounted := tokens == UNKNOWN).any():
            self._uncounted_ns = max(self._uncounted_ns, int(t_ns[uncounted].max()))
        self._recent_itl.add(t_ns, chunks.gap_ns[gap] / 1e9, np.maximum(tokens - 1, 0))

    def _stats(self, start_ns: int, end_ns: int, accelerators: float) -> LiveStats:
        length_s = (end_ns - start_ns) / 1e9
        shards = self._shards.values()
        whole = all(shard.lost_until_ns <= start_ns for shard in shards)
        (sent,) = self._sent.between(start_ns, end_ns, 1)
        _, tokens, gap_ns = self._chunks.between(start_ns, end_ns, 3)
        _, ttft_s = self._firsts.between(start_ns, end_ns, 2)
        _, good, unknown, tpot_s, uncounted = self._ends.between(start_ns, end_ns, 5)
        tpot = None if uncounted.any() else percentile(tpot_s, 50)
        counts = gap_ns != UNKNOWN
        gaps, itl = int(counts.sum()), _itl(gap_ns[counts], tokens[counts])

        def rate(count: float | None) -> float | None:
            return count / length_s if whole and count is not None and length_s > 0 else None

        output = rate(None if (tokens == UNKNOWN).any() else float(tokens.sum()))
        return LiveStats(
            window_s=length_s,
            requests=len(ttft_s),
            gaps=gaps,
            sent_hz=rate(len(sent)),
            done_hz=rate(len(good)),
            failed=sum(shard.newest.failed for shard in shards),
            in_flight=sum(shard.newest.in_flight for shard in shards),
            output_tok_s=output,
            output_tok_s_per_accelerator=output / accelerators if output is not None and accelerators else None,
            tok_s_per_user=1 / tpot if tpot else None,
            goodput_hz=rate(None if unknown.any() else int(good.sum())),
            ttft_p50_s=percentile(ttft_s, 50),
            ttft_p99_s=percentile(ttft_s, 99),
            itl_p50_s=itl[0],
            itl_p99_s=itl[1],
            end_ns=end_ns,
            lost=sum(shard.newest.lost for shard in shards),
        )

    def _slow_ttft_s(self, end_ns: int) -> float | None:
        """The TTFT beyond which a request is slow where neither an SLO nor a p99 says so: by the median of the last minute."""
        ttft_s = [ttft_s for t_ns, ttft_s in self._recent if t_ns >= end_ns - _REMEMBERED_NS]
        return SLOW_MEDIANS * float(np.median(ttft_s)) if len(ttft_s) >= LEAST_FIRSTS else None

    def _slowest(self, end_ns: int) -> tuple[list[Slow], list[Slow]]:
        """The worst of what has come since the last tick; kept for a minute."""
        firsts, gaps, failures = self._new_firsts, self._new_gaps, self._new_failures
        self._new_firsts, self._new_gaps, self._new_failures = [], [], []
        slow_ttft = self._top("ttft", [(f.request, f.t_ns, f.ttft_s) for f in firsts])
        slow_itl = self._top("itl", [(g.request, g.t_ns, g.gap_ns / 1e9) for g in gaps])
        failed = [Slow(request, self._s(t_ns), t_ns, "failed", text=text) for request, t_ns, text in failures[-_MOST_SLOW:]]
        self._slow.extend((*slow_ttft, *slow_itl, *failed))
        while self._slow and self._slow[0].t_ns < end_ns - _REMEMBERED_NS:
            self._slow.popleft()
        return slow_ttft, slow_itl

    def _top(self, why: Why, parts: list[tuple[Ints, Ints, Floats]]) -> list[Slow]:
        parts = [part for part in parts if len(part[0])]
        if not parts:
            return []
        request, t_ns, value_s = (np.concatenate(column) for column in zip(*parts, strict=True))
        worst = (
            np.argsort(value_s)[-_MOST_SLOW:]
            if len(value_s) <= _MOST_SLOW
            else np.argpartition(value_s, -_MOST_SLOW)[-_MOST_SLOW:]
        )
        found = [(int(request[i]), int(t_ns[i]), float(value_s[i])) for i in worst if value_s[i] >= 0]
        return [Slow(who, self._s(at), at, why, value) for who, at, value in sorted(found, key=lambda one: -one[2])]

    def _s(self, t_ns: int) -> float:
        return (t_ns - self._origin_ns) / 1e9


def _itl(gap_ns: Ints, tokens: Ints) -> tuple[float | None, float | None]:
    """Median and p99 of the inter-token latencies: each gap, and a zero for each further token of the chunk that ends it."""
    if not len(gap_ns) or (tokens == UNKNOWN).any():
        return None, None
    gaps, zeros = Gaps(), int(tokens.sum()) - len(tokens)
    gaps.add(gap_ns, np.zeros(1, np.int64), np.array([len(gap_ns)]))
    p50, p99 = gaps.percentiles_s((50.0, 99.0), zeros)
    return float(p50), float(p99) if len(gaps) + zeros >= least_values(99) else None


def _failures(ends: NewEnds) -> list[tuple[int, int, str]]:
    return [(int(ends.request[i]), int(ends.t_ns[i]), ends.reason[i]) for i in np.flatnonzero(ends.failed)[-_MOST_SLOW:]]


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _beyond(slow: list[Slow], limit: float | None) -> tuple[Dot, ...]:
    return tuple(Dot(one.t_s, one.request, one.value_s) for one in slow[:_MOST_DOTS] if limit is not None and one.value_s > limit)
