"""An open loop that outruns its server: the backlog grows steadily, the throughput does not, and it will not drain.

Looked for in what a load tells four times a second: requests sent, begun and done, tokens received. Over windows of 8 s and
longer (each √2 of the last, up to all of the time so far), all of this must hold for 2 s, and for an eighth of the window:

* *it grows*: more requests arrived than ended in both halves of the window, in all by 2 √(arrivals + completions), which is two
  standard deviations of the difference if both were Poisson;
* *throughput does not follow*: from the first half to the second the mean number in flight rose by a fifth or more, and tokens a
  second by less than 15 % of that. While long answers fill a server, tokens a second rise with the requests in flight: such a
  growth ends by itself. Where the server does not count tokens, completions stand for them, with a wider margin. Before 20
  requests have ended no pace is known: then, in windows of 16 s or more, the requests in flight must have grown 2.5 times and
  tokens a second by 5 % at most, for 2 s;
* *it will not drain*: a pace of 3 √completions more in this window would still be below that of the requests to come. A burst
  (``burst:``, a trace) that leaves time to work it off is none; a step to more than the server can do is one.

Completions count as less certain where they come in clots: their variance is that of the window's eighths, where that is more
than Poisson's. An engine whose prefills hold up the decodes for seconds ends many requests and then none, and a clot that is
still to come is no lack of pace.

The same is asked of the requests that wait for their first token: first tokens take the place of both the completions and, with
the wider margin, the tokens; one window more holds all of the time so far. An engine that admits a few requests a second runs
ever more of them at once until the first answers end, and tokens a second rise with the requests in flight as they do while long
answers fill a server. Only the first tokens fall behind. Before 20 of them no pace is known: where not one request begins,
nothing is told.

Simulated. M/D/1 queues with 2 completions a second at full load: at 80 % load never called saturated in 100 hours (576,000
requests), at 90 and 95 % never in 40; at 130 % told after 60 s (median; 95 % within 170 s), at 200 % after 13 s (19 s). With 20
completions a second, 130 % is told after 10 s (13 s); with one in two seconds after 258 s. M/M/1, whose service is as irregular
as can be, was called so at 80 % load less than once in 15 hours. Ramp-ups of answers of 8 to 60 s (equal, uniform, exponential,
lognormal): none of 1,200 with tokens counted, 7 without at the most. Batches that slow down with every further request: none of
48 at 60 and 80 % load, 9 of 24 at 90 %, all at 130 and 200 %. First tokens that come late, but each in its own time (2 to 60 s,
drawn in the same ways): 4 of 576 at the most. A worker that prefills first come, first served, at four and a half times what it
can do: after 10 to 21 s, a real one after 23 s.

Workers whose steps are coarse (512 tokens in, 312 ms of prefill each, 32 out, two minutes): called saturated in 2 of 160 runs
at 74 and 81 % load, in 17 of 80 at 88 %, in 54 of 80 at 122 %, in all at 148 %. With answers of 128 tokens: none of 80 at 40 and
60 % load, 3 of 40 at 80 %, 34 of 40 at 120 %.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.measure.columns import UNKNOWN
from labkit.measure.digest import Digest
from labkit.measure.metrics import is_open_loop, taken_in
from labkit.measure.records import Records, Window
from labkit.measure.timing import Bools, Floats, Ints, ints

SHORTEST_S: Final = 8.0
_LASTS_S: Final = 2.0
_LASTS_OF_WINDOW: Final = 1 / 8
_BINS: Final = 8
_FEWEST: Final = 20
_GROWTH_Z: Final = 2.0
_PACE_Z: Final = 3.0
_LEAST_RISE: Final = 1.2
_MARGIN: Final = 1.0  # standard deviations of the throughput's change in tokens
_MARGIN_IN_REQUESTS: Final = 3.0  # the same where requests stand for them
_FOLLOWING: Final = 0.15
_STARVED_RISE: Final = 2.5
_STARVED_GROWTH: Final = 1.05
_STARVED_TOKENS: Final = 20
_STARVED_S: Final = 16.0


@dataclass(frozen=True, slots=True)
class Saturation:
    """Arrivals that outpace completions.

    Attributes:
        t_s: when it was certain, in seconds from the start of the load.
        over_s: over how many seconds before that.
        arrivals_s, completions_s: requests a second.
        in_flight: requests sent and not ended.
    """

    t_s: float
    over_s: float
    arrivals_s: float
    completions_s: float
    in_flight: int

    def __str__(self) -> str:
        rates = f"arrivals {self.arrivals_s:.2g}/s, completions {self.completions_s:.2g}/s"
        return f"saturated: {rates} over the last {self.over_s:.0f} s, {self.in_flight} in flight"


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """How a load went: running totals at instants in order.

    Attributes:
        t_s: seconds from its start.
        sent, begun, done: requests sent, those of which a first token had come (or that ended without one), and requests ended
            in any way until then.
        tokens: received until then; such that stay 0 are not counted.
        total, end_s: how many requests there will be, and when the time to send them is over.
    """

    t_s: Floats
    sent: Floats
    begun: Floats
    done: Floats
    tokens: Floats
    total: float
    end_s: float


class BacklogWatch:
    """Looks at a load while it runs.

    Args:
        total: requests that the schedule holds, all phases.
        end_s: when the time to send them is over.
    """

    def __init__(self, total: float, end_s: float) -> None:
        self._total, self._end_s = total, end_s
        self._columns = tuple(array("d") for _ in range(5))

    def add(self, t_s: float, sent: int, begun: int, done: int, tokens: int) -> Saturation | None:
        """Where it stands now: running totals at a later instant. Whether it is saturated, once that is certain."""
        if self._columns[0] and t_s <= self._columns[0][-1]:
            return None
        for column, value in zip(self._columns, (t_s, sent, begun, done, tokens), strict=True):
            column.append(value)
        told_s, sent_until, begun_until, ended, received = (np.array(column) for column in self._columns)
        return first_saturation(Course(told_s, sent_until, begun_until, ended, received, self._total, self._end_s), since_s=t_s)


@dataclass(frozen=True, slots=True, eq=False)
class _Queue:
    """Requests between two events of their lives, at the instants of a course.

    Attributes:
        left: how many had left it. made: what the server had made of them, its throughput.
        area: of the number in it over time, in request-seconds. margin: see ``_MARGIN``.
        answers: whether whole answers leave it, in counted tokens.
    """

    left: Floats
    made: Floats
    area: Floats
    margin: float
    answers: bool

    @classmethod
    def of(cls, course: Course, left: Floats, tokens: Floats | None) -> _Queue:
        """Those sent that have not left; ``tokens`` is ``None`` where requests stand for them."""
        area = np.concatenate([[0.0], np.cumsum(np.diff(course.t_s) * (course.sent - left)[1:])])
        if tokens is None:
            return cls(left, left, area, _MARGIN_IN_REQUESTS, answers=False)
        return cls(left, tokens, area, _MARGIN, answers=True)


def _queues(course: Course) -> tuple[_Queue, _Queue]:
    """Requests in flight, and those of them that wait for their first token."""
    counted = bool(len(course.tokens) and course.tokens[-1] > 0)
    return _Queue.of(course, course.done, course.tokens if counted else None), _Queue.of(course, course.begun, None)


def first_saturation(course: Course, *, since_s: float = 0.0) -> Saturation | None:
    """The first instant from ``since_s`` on at which a course is saturated; ``None`` where there is none."""
    t_s = course.t_s
    queues = _queues(course)
    found: Saturation | None = None
    for length_s in _lengths_s(t_s):
        begin_s = since_s - float(_lasts_s(np.array(since_s if length_s is None else length_s)))
        now = np.arange(int(np.searchsorted(t_s, max(begin_s, 0.0), "left")), len(t_s))
        window_s = t_s[now] - t_s[0] if length_s is None else np.full(len(now), length_s)
        whole = t_s[now] - t_s[0] >= np.maximum(window_s, SHORTEST_S)
        here, over_s = now[whole], window_s[whole]
        for queue in queues if length_s is not None else queues[1:]:
            grown, flows = _grown(course, queue, here, over_s)
            lasting = _lasting(t_s[here], grown, np.where(flows, _lasts_s(over_s), _LASTS_S))
            lasting = lasting[t_s[here[lasting]] >= since_s]
            if len(lasting) and (found is None or t_s[here[lasting[0]]] < found.t_s):
                found = _told(course, int(here[lasting[0]]), float(over_s[lasting[0]]))
    return found


def _lasts_s(window_s: Floats) -> Floats:
    """How long it must hold over windows of this length, where requests leave the queue."""
    return np.maximum(_LASTS_S, window_s * _LASTS_OF_WINDOW)


def _lengths_s(t_s: Floats) -> list[float | None]:
    """How long windows are: each √2 of the last; ``None``: from the start of the load until now."""
    longest_s = float(t_s[-1] - t_s[0]) if len(t_s) else 0.0
    if longest_s < SHORTEST_S:
        return []
    steps = int(np.floor(2 * np.log2(longest_s / SHORTEST_S) + 1e-9))
    return [*(SHORTEST_S * 2 ** (step / 2) for step in range(steps + 1)), None]


def saturation_of(records: Records | Digest, window: Window) -> Saturation | None:
    """The same of a measurement that has ended: whether its requests outran the server at any time."""
    if not is_open_loop(window):
        return None
    mine = taken_in(records, window)
    received = mine.received[window.measurement]
    sent, at_ns = received.sent_ns, received.at_ns
    if len(sent) < _FEWEST:
        return None
    done_ns, first_ns = ints(mine.requests, "end_ns", UNKNOWN), mine.answers.first_ns
    begun_ns = np.where(first_ns == UNKNOWN, done_ns, first_ns)
    events = (sent, *(np.sort(at[at != UNKNOWN]) for at in (begun_ns, done_ns)))
    sent_until, begun, ended = (np.searchsorted(times, at_ns, "right").astype(np.float64) for times in events)
    t_s, end_s = (at_ns - sent[0]) / 1e9, float(window.stop_ns - sent[0]) / 1e9
    return first_saturation(Course(t_s, sent_until, begun, ended, received.until(), float(len(sent)), end_s))


def _grown(course: Course, queue: _Queue, now: Ints, window_s: Floats) -> tuple[Bools, Bools]:
    """Whether the three conditions hold for a queue at each of these ticks, over the so many seconds that end there.

    Also whether so many requests left it that a pace is known.
    """
    t_s = course.t_s
    start, middle = (np.searchsorted(t_s, t_s[now] - part, "left") for part in (window_s, window_s / 2))
    (a1, a2), (c1, c2), (t1, t2), (f1, f2) = (
        (total[middle] - total[start], total[now] - total[middle]) for total in (course.sent, queue.left, queue.made, queue.area)
    )
    arrived, left = a1 + a2, c1 + c2
    unsteady = left * _dispersion(t_s, queue.left, now, window_s)
    grows = (a1 > c1) & (a2 > c2) & (arrived - left >= _GROWTH_Z * np.sqrt(arrived + unsteady))
    flows = (left >= _FEWEST) & (c1 >= _FEWEST / 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = (f2 / (t_s[now] - t_s[middle])) / np.maximum(f1 / (t_s[middle] - t_s[start]), 0.5)
        followed = t2 / np.maximum(t1, 1e-9)
        margin = queue.margin * np.sqrt(1 / c1 + 1 / c2)
        lags = (rise >= _LEAST_RISE) & (followed <= 1 + _FOLLOWING * (rise - 1)) & (np.log(rise) - np.log(followed) >= margin)
        starves = queue.answers & (course.done[now] < _FEWEST) & (t1 >= _STARVED_TOKENS)
        starves &= (rise >= _STARVED_RISE) & (followed <= _STARVED_GROWTH) & (window_s >= _STARVED_S)
    left_s = np.maximum(course.end_s - t_s[now], 0.0)
    ahead_s = np.maximum(left_s, window_s)
    to_come = (course.total - course.sent[now] + course.total / max(course.end_s, 1e-9) * (ahead_s - left_s)) / ahead_s
    stays = to_come > (left + _PACE_Z * np.sqrt(unsteady)) / window_s
    return np.asarray(grows & np.where(flows, lags, starves) & stays, dtype=np.bool_), flows


def _dispersion(t_s: Floats, total: Floats, now: Ints, window_s: Floats) -> Floats:
    """Variance over mean of what came in the eighths of each window, 1 at the least: as steady as Poisson's."""
    back = 1 - np.arange(_BINS)[:, None] / _BINS
    bounds = np.concatenate([np.searchsorted(t_s, t_s[now] - window_s * back, "left"), now[None]])
    counts = np.diff(total[bounds], axis=0)
    found: Floats = np.maximum(counts.var(axis=0, ddof=1) / np.maximum(counts.mean(axis=0), 1e-9), 1.0)
    return found


def _lasting(t_s: Floats, holds: Bools, lasts_s: Floats) -> Ints:
    """Positions at which it has held for as long as it must."""
    if not len(t_s):
        return np.zeros(0, np.int64)
    held = np.concatenate([[0], np.cumsum(holds)])
    first = np.searchsorted(t_s, t_s - lasts_s + 1e-9, "left")
    counts = np.arange(1, len(t_s) + 1) - first
    long_enough = t_s - t_s[0] >= lasts_s - 0.6  # ticks are at most half a second apart
    return np.flatnonzero((held[1:] - held[first] == counts) & (counts > 1) & long_enough)


def _told(course: Course, at: int, window_s: float) -> Saturation:
    start = int(np.searchsorted(course.t_s, course.t_s[at] - window_s, "left"))
    over_s = float(course.t_s[at] - course.t_s[start])
    return Saturation(
        t_s=float(course.t_s[at]),
        over_s=over_s,
        arrivals_s=float(course.sent[at] - course.sent[start]) / over_s,
        completions_s=float(course.done[at] - course.done[start]) / over_s,
        in_flight=int(course.sent[at] - course.done[at]),
    )
