"""Disjoint intervals on a circle, to be shifted around it."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from labkit.measure.timing import Bools, Floats, Ints


class Intervals(NamedTuple):
    """Disjoint intervals in ascending order in [0, length_s]; what is shifted out at one end comes in at the other."""

    start_s: Floats
    end_s: Floats
    length_s: float

    @classmethod
    def of(cls, pairs: Floats, length_s: float) -> Self:
        """The union of ``(n, 2)`` starts and ends, as far as it is inside."""
        inside = np.clip(pairs, 0, length_s)
        inside = inside[inside[:, 1] > inside[:, 0]]
        inside = inside[np.argsort(inside[:, 0], kind="stable")]
        start, end = inside[:, 0], np.maximum.accumulate(inside[:, 1])
        apart = start[1:] > end[:-1]
        return cls(start[np.append(True, apart)[: len(start)]], end[np.append(apart, True)[: len(end)]], length_s)

    def cover(self, instants: Floats, shift_s: float = 0.0) -> Bools:
        """Which instants, given in ascending order, lie in an interval once all were shifted by as much."""
        steps: Ints = np.zeros(len(instants) + 1, np.int64)
        around = shift_s % self.length_s
        for shift in (around, around - self.length_s) if around else (0.0,):
            steps += np.bincount(np.searchsorted(instants, self.start_s + shift), minlength=len(steps))
            steps -= np.bincount(np.searchsorted(instants, self.end_s + shift), minlength=len(steps))
        return np.asarray(np.cumsum(steps[:-1]) > 0)

    def met(self, instants: Floats) -> int:
        """How many intervals hold an instant."""
        return int((np.searchsorted(instants, self.end_s) > np.searchsorted(instants, self.start_s)).sum())
