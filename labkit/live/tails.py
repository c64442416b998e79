"""How latencies are spread: for any latency, the share of them that are at or above it. Of a pin, and of what just happened.

Values are counted in bins of one hundredth, whose edges are the same for all, so that tails can be held against each other. At an
edge a share is exact; between two it is drawn as a line. What lies below the first edge (tokens that came in one piece with the
one before have waited for nothing) counts as being there.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from labkit.measure.columns import Floats, Ints

#: From 10 µs to 1,000 s, each 1 % above the one before.
EDGES_S: Final[Floats] = np.float64(1e-5) * np.float64(1.01) ** np.arange(1852, dtype=np.float64)
_SECOND_NS: Final = 1_000_000_000
#: Seconds that are remembered: as long as the longest pin.
REMEMBERED_S: Final = 60


class Tail(NamedTuple):
    """Latencies in seconds, ascending, and the share of ``n`` values that are at or above each; shares are never 0."""

    value_s: tuple[float, ...] = ()
    share: tuple[float, ...] = ()
    n: int = 0


def counted(value_s: Floats, zeros: int = 0) -> Ints:
    """How many values lie in each bin: below the first edge, between it and the second, …, from the last on.

    Args:
        value_s: any that are not finite are left out.
        zeros: so many more values are 0.
    """
    counts = np.bincount(np.searchsorted(EDGES_S, value_s[np.isfinite(value_s)], side="right"), minlength=len(EDGES_S) + 1)
    counts[0] += zeros
    return counts


def tail_of(counts: npt.NDArray[np.integer]) -> Tail:
    """The tail of what ``counted`` has counted; of several of these, their sum's."""
    n = int(counts.sum())
    if not n:
        return Tail()
    above = np.cumsum(counts[::-1])[::-1][1:]  # at or above each edge
    filled = counts > 0
    known = (filled[:-1] | filled[1:]) & (above > 0)  # on both sides of a bin with values: between others it is level
    return Tail(tuple(EDGES_S[known].tolist()), tuple((above[known] / n).tolist()), n)


class Recent:
    """Values of the last minute by the second in which each was seen. One thread adds and asks."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, Ints]] = deque()

    def add(self, t_ns: Ints, value_s: Floats, zeros: Ints | None = None) -> None:
        """Take values, each seen at an instant; ``zeros``: how many more of 0 were seen then."""
        seconds = t_ns // _SECOND_NS
        for second in np.unique(seconds).tolist():
            mine = seconds == second
            self._of(second)[:] += counted(value_s[mine], 0 if zeros is None else int(zeros[mine].sum()))

    def tail(self, start_ns: int, end_ns: int) -> Tail:
        """Of the whole seconds that lie between two instants, of the last minute at most."""
        first, last = -(-start_ns // _SECOND_NS), end_ns // _SECOND_NS
        found = [counts for second, counts in self._seconds if max(first, last - REMEMBERED_S) <= second < last]
        return tail_of(np.sum(found, axis=0)) if found else Tail()

    def _of(self, second: int) -> Ints:
        """The counts of a second; shards tell of their seconds in turns, so that it may not be the newest."""
        for known, counts in reversed(self._seconds):
            if known == second:
                return counts
        counts = counted(np.zeros(0))
        self._seconds.append((second, counts))
        while self._seconds[0][0] < second - 2 * REMEMBERED_S:
            self._seconds.popleft()
        return counts
