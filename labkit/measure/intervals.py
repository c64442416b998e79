"""Intervals on a circle, to be shifted around it: disjoint ones, and those that carry a load and add up."""

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


class Loads(NamedTuple):
    """Intervals in [0, length_s] that may lie over one another, each with a load of so many tokens."""

    start_s: Floats
    end_s: Floats
    tokens: Floats
    length_s: float

    @classmethod
    def of(cls, pairs: Floats, tokens: Floats, length_s: float) -> Self:
        """``(n, 2)`` starts and ends, as far as they are inside."""
        inside = np.clip(pairs, 0, length_s)
        kept = inside[:, 1] > inside[:, 0]
        return cls(inside[kept, 0], inside[kept, 1], tokens[kept], length_s)

    def at(self, instants: Floats, shift_s: float = 0.0) -> Floats:
        """Tokens under way at instants in ascending order, once all intervals were shifted by as much."""
        steps = np.zeros(len(instants) + 1)
        around = shift_s % self.length_s
        for shift in (around, around - self.length_s) if around else (0.0,):
            steps += np.bincount(np.searchsorted(instants, self.start_s + shift), self.tokens, len(steps))
            steps -= np.bincount(np.searchsorted(instants, self.end_s + shift), self.tokens, len(steps))
        return np.cumsum(steps[:-1])

    def within(self, start_s: Floats, end_s: Floats, shift_s: float = 0.0) -> Floats:
        """For each [start, end) the tokens of the intervals whose middle lies in it, once all were shifted by as much."""
        middle = ((self.start_s + self.end_s) / 2 + shift_s) % self.length_s
        order = np.argsort(middle)
        before = np.concatenate([[0.0], np.cumsum(self.tokens[order])])
        first, last = (np.searchsorted(middle[order], bound) for bound in (start_s, end_s))
        return np.asarray(before[last] - before[first])
