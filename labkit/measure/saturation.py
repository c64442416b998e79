"""An open loop that outruns its server: the backlog grows steadily, the throughput does not, and it will not drain.

Looked for in what a load tells four times a second: requests sent and done, tokens received. Over windows of 8 s and longer
(each √2 of the last, up to all of the time so far), all of this must hold for 2 s:

* *it grows*: more requests arrived than ended in both halves of the window, in all by 2 √(arrivals + completions), which is two
  standard deviations of the difference if both were Poisson;
* *throughput does not follow*: from the first half to the second the mean number in flight rose by a fifth or more, and tokens a
  second by less than 15 % of that. While long answers fill a server, tokens a second rise with the requests in flight: such a
  growth ends by itself. Where the server does not count tokens, completions stand for them, with a wider margin. Before 20
  requests have ended no pace is known: then the requests in flight must have grown 2.5 times and tokens a second by 5 % at most;
* *it will not drain*: a pace of 3 √completions more in this window would still be below that of the requests to come. A burst
  (``burst:``, a trace) that leaves time to work it off is none; a step to more than the server can do is one.

Simulated. M/D/1 queues with 2 completions a second at full load: at 80 % load never called saturated in 100 hours (576,000
requests), at 90 and 95 % never in 40; at 130 % told after 66 s (median; 95 % within 130 s), at 200 % after 13 s (19 s). With 20
completions a second, 130 % is told after 10 s (18 s); with one in two seconds after 258 s. M/M/1, whose service is as irregular
as can be, was called so at 80 % load about once in 20 hours. Ramp-ups of answers of 8 to 60 s (equal, uniform, exponential,
lognormal): none of 1,200 with tokens counted, 7 without. Batches that slow down with every further request: none of 144 at 60
and 80 % load, all at 200 %.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow.compute as pc

from labkit.measure.digest import Digest
from labkit.measure.metrics import is_open_loop, taken_in
from labkit.measure.records import Records, Window
from labkit.measure.timing import Bools, Floats, Ints, ints

SHORTEST_S: Final = 8.0
_LASTS_S: Final = 2.0
_FEWEST: Final = 20
_GROWTH_Z: Final = 2.0
_PACE_Z: Final = 3.0
_LEAST_RISE: Final = 1.2
_MARGIN: Final = {True: 1.0, False: 3.0}  # standard deviations of the throughput's change: tokens are counted, or not
_FOLLOWING: Final = 0.15
_STARVED_RISE: Final = 2.5
_STARVED_GROWTH: Final = 1.05
_STARVED_TOKENS: Final = 20


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
        sent, done, tokens: requests sent, requests ended in any way, tokens received until then. Tokens that stay 0 are not
            counted.
        total, end_s: how many requests there will be, and when the time to send them is over.
    """

    t_s: Floats
    sent: Floats
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
        self._columns = tuple(array("d") for _ in range(4))

    def add(self, t_s: float, sent: int, done: int, tokens: int = 0) -> Saturation | None:
        """Where it stands now: running totals at a later instant. Whether it is saturated, once that is certain."""
        if self._columns[0] and t_s <= self._columns[0][-1]:
            return None
        for column, value in zip(self._columns, (t_s, sent, done, tokens), strict=True):
            column.append(value)
        told_s, sent_until, done_until, tokens_until = (np.array(column) for column in self._columns)
        course = Course(told_s, sent_until, done_until, tokens_until, self._total, self._end_s)
        return first_saturation(course, since_s=t_s)


def first_saturation(course: Course, *, since_s: float = 0.0) -> Saturation | None:
    """The first instant from ``since_s`` on at which a course is saturated; ``None`` where there is none."""
    t_s = course.t_s
    begin = int(np.searchsorted(t_s, max(since_s - _LASTS_S, 0.0), "left"))
    now = np.arange(begin, len(t_s))
    flying = np.concatenate([[0.0], np.cumsum(np.diff(t_s) * (course.sent - course.done)[1:])])
    found: Saturation | None = None
    window_s = SHORTEST_S
    while len(t_s) and window_s <= t_s[-1] - t_s[0]:
        here = now[t_s[now] - t_s[0] >= window_s]
        grown = _grown(course, flying, here, window_s)
        lasting = here[_lasting(t_s[here], grown)]
        lasting = lasting[t_s[lasting] >= since_s]
        if len(lasting) and (found is None or t_s[lasting[0]] < found.t_s):
            found = _told(course, int(lasting[0]), window_s)
        window_s *= 2**0.5
    return found


def saturation_of(records: Records | Digest, window: Window) -> Saturation | None:
    """The same of a measurement that has ended: whether its requests outran the server at any time."""
    if not is_open_loop(window):
        return None
    mine = taken_in(records, window)
    received = mine.received[window.measurement]
    sent, at_ns = received.sent_ns, received.at_ns
    if len(sent) < _FEWEST:
        return None
    done = np.sort(ints(mine.requests.filter(pc.is_valid(mine.requests["end_ns"])), "end_ns"))
    sent_until, done_until = (np.searchsorted(events, at_ns, "right").astype(np.float64) for events in (sent, done))
    end_s = float(window.stop_ns - sent[0]) / 1e9
    return first_saturation(Course((at_ns - sent[0]) / 1e9, sent_until, done_until, received.until(), float(len(sent)), end_s))


def _grown(course: Course, flying: Floats, now: Ints, window_s: float) -> Bools:
    """Whether the three conditions hold at each of these ticks, over the window that ends there."""
    t_s = course.t_s
    start, middle = (np.searchsorted(t_s, t_s[now] - part, "left") for part in (window_s, window_s / 2))
    (a1, a2), (c1, c2), (t1, t2), (f1, f2) = (
        (total[middle] - total[start], total[now] - total[middle]) for total in (course.sent, course.done, course.tokens, flying)
    )
    counted = bool(len(course.tokens) and course.tokens[-1] > 0)
    if not counted:
        t1, t2 = c1, c2
    arrived, ended = a1 + a2, c1 + c2
    grows = (a1 > c1) & (a2 > c2) & (arrived - ended >= _GROWTH_Z * np.sqrt(arrived + ended))
    flows = (ended >= _FEWEST) & (c1 >= _FEWEST / 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = (f2 / (t_s[now] - t_s[middle])) / np.maximum(f1 / (t_s[middle] - t_s[start]), 0.5)
        followed = t2 / np.maximum(t1, 1e-9)
        margin = _MARGIN[counted] * np.sqrt(1 / c1 + 1 / c2)
        lags = (rise >= _LEAST_RISE) & (followed <= 1 + _FOLLOWING * (rise - 1)) & (np.log(rise) - np.log(followed) >= margin)
        starves = counted & (course.done[now] < _FEWEST) & (t1 >= _STARVED_TOKENS)
        starves &= (rise >= _STARVED_RISE) & (followed <= _STARVED_GROWTH)
    left_s = np.maximum(course.end_s - t_s[now], 0.0)
    ahead_s = np.maximum(left_s, window_s)
    to_come = (course.total - course.sent[now] + course.total / max(course.end_s, 1e-9) * (ahead_s - left_s)) / ahead_s
    stays = to_come > (ended + _PACE_Z * np.sqrt(ended)) / window_s
    return np.asarray(grows & np.where(flows, lags, starves) & stays, dtype=np.bool_)


def _lasting(t_s: Floats, holds: Bools) -> Ints:
    """Positions at which it has held for as long as it must."""
    if not len(t_s):
        return np.zeros(0, np.int64)
    held = np.concatenate([[0], np.cumsum(holds)])
    first = np.searchsorted(t_s, t_s - _LASTS_S + 1e-9, "left")
    counts = np.arange(1, len(t_s) + 1) - first
    long_enough = t_s - t_s[0] >= _LASTS_S - 0.6  # ticks are at most half a second apart
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
