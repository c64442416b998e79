"""Durations by the hundred million: four bytes each, and every order statistic exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from labkit.measure.columns import Floats, Ints

_SMALL = npt.NDArray[np.uint32]
#: Stands for a gap of 4.29 s and more, which is kept beside.
_LONG: Final = np.iinfo(np.uint32).max
_BITS: Final = 16
_BINS: Final = 1 << _BITS


class Gaps:
    """Gaps in nanoseconds with the rows of the requests that they belong to, part after part.

    Sums are of integers, and order statistics are found by counting them: whatever the parts, the results are the same.
    """

    def __init__(self) -> None:
        self._parts: list[_SMALL] = []
        self._long: list[Ints] = []
        self._owners: list[tuple[Ints, Ints]] = []
        self._ranked: dict[int, int] = {}
        self.total_ns = 0
        self.longest_ns = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, gap_ns: Ints, row: Ints, counts: Ints) -> None:
        """Take gaps (≥ 0), request after request: ``counts[i]`` of them are of the request in ``row[i]``."""
        if not len(gap_ns):
            return
        some = counts > 0
        if not some.all():
            row, counts = row[some], counts[some]
        self._ranked.clear()
        self._parts.append(np.minimum(gap_ns, _LONG).astype(np.uint32))
        self._long.append(gap_ns[gap_ns >= _LONG])
        self._owners.append((row, counts))
        self.total_ns += int(gap_ns.sum())
        self.longest_ns = max(self.longest_ns, int(gap_ns.max()))
        self._count += len(gap_ns)

    def renumbered(self, row_of: Ints) -> Gaps:
        """The same gaps, of requests that are now in the rows ``row_of[row]``."""
        other = Gaps()
        other._parts, other._long, other._ranked = self._parts, self._long, self._ranked
        other._owners = [(row_of[row], counts) for row, counts in self._owners]
        other.total_ns, other.longest_ns, other._count = self.total_ns, self.longest_ns, self._count
        return other

    def parts(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        """The parts as they were taken: gaps in ns, rows of requests, and how many gaps (≥ 1) each has."""
        for part, long, (row, counts) in zip(self._parts, self._long, self._owners, strict=True):
            gap_ns = part.astype(np.int64)
            if len(long):
                gap_ns[part == _LONG] = long
            yield gap_ns, row, counts

    def counts(self) -> Iterator[tuple[Ints, Ints]]:
        """Rows of requests, and how many gaps (≥ 1) each has in a part."""
        return iter(self._owners)

    def ranked(self, ranks: Ints) -> Ints:
        """The gaps of these ranks, from 0, in ascending order; each is looked for once."""
        new = np.array([rank for rank in ranks.tolist() if rank not in self._ranked], np.int64)
        if len(new):
            self._ranked.update(zip(new.tolist(), _ranked([self], new).tolist(), strict=True))
        return np.array([self._ranked[rank] for rank in ranks.tolist()], np.int64)

    def percentiles_s(self, qs: Sequence[float], zeros: int = 0) -> Floats:
        """Percentiles of the gaps and of so many ``zeros`` besides: ``np.percentile`` of them all, to the last bit."""
        return pooled_percentiles_s([self], qs, zeros)


def pooled_percentiles_s(pool: Sequence[Gaps], qs: Sequence[float], zeros: int = 0) -> Floats:
    """Percentiles, linear between ranks, of several gaps together and of ``zeros`` besides."""
    if not qs:
        return np.zeros(0)
    count = sum(map(len, pool)) + zeros
    rank = (count - 1) * (np.asarray(qs, np.float64) / 100)
    below = np.floor(rank).astype(np.int64)
    around = np.stack([below, np.minimum(below + 1, count - 1)]) - zeros
    ranks = np.maximum(around.ravel(), 0)
    found = (pool[0].ranked(ranks) if len(pool) == 1 else _ranked(pool, ranks)).reshape(around.shape)
    low, high = np.where(around < 0, 0, found) / 1e9
    part = rank - below
    step = high - low
    return np.where(part < 0.5, low + step * part, high - step * (1 - part))


def _ranked(pool: Sequence[Gaps], ranks: Ints) -> Ints:
    """The gaps of these ranks, from 0, in ascending order."""
    if sum(map(len, pool)) > _BINS:
        return counted_ranks(pool, ranks)
    values = [gap_ns for gaps in pool for gap_ns, _, _ in gaps.parts()]
    return np.partition(np.concatenate(values), np.unique(ranks))[ranks] if values else np.zeros_like(ranks)


def counted_ranks(pool: Sequence[Gaps], ranks: Ints) -> Ints:
    """The gaps of these ranks where there are too many to sort: counted by their upper 16 bits, then by the lower ones."""
    parts = [part for gaps in pool for part in gaps._parts]
    upper = np.zeros(_BINS, np.int64)
    for part in parts:
        upper += np.bincount(part >> _BITS, minlength=_BINS)
    ends = np.cumsum(upper)
    bins = np.minimum(np.searchsorted(ends, ranks, "right"), _BINS - 1)
    wanted = np.unique(bins)
    position = np.zeros(_BINS, np.int64)
    position[wanted] = np.arange(len(wanted))
    chosen = np.zeros(_BINS, np.bool_)
    chosen[wanted] = True
    lower = np.zeros(len(wanted) * _BINS, np.int64)
    for part in parts:
        near = part[chosen[part >> _BITS]]
        np.add.at(lower, position[near >> _BITS] * _BINS + (near & (_BINS - 1)), 1)
    found = np.empty(len(ranks), np.int64)
    for i, (rank, upper_bits) in enumerate(zip(ranks, bins, strict=True)):
        inside = np.cumsum(lower[position[upper_bits] * _BINS :][:_BINS])
        found[i] = (upper_bits << _BITS) + np.searchsorted(inside, rank - ends[upper_bits] + upper[upper_bits], "right")
    if np.any(found >= _LONG):
        long = np.sort(np.concatenate([long for gaps in pool for long in gaps._long]))
        first = int(ends[-1]) - len(long)
        found[found >= _LONG] = long[ranks[found >= _LONG] - first]
    return found
