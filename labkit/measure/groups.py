"""The bootstrap for any number of values: where there are too many to weigh one by one, requests are drawn in groups.

A group is drawn as a whole, so that a resample is a thousand weights whatever the number of values. Groups are made of
requests from all over the repeat (every G-th), hence independent as requests are, and the interval is that of drawing requests;
its own scatter is that of an estimate from G units. With up to G requests in a repeat each is a group of its own.

Sums over groups need nothing else. A percentile of a resample is where the weighted count of values reaches its rank; the groups'
counts are taken once, in narrow bins over the range that the resampled percentiles reach.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from labkit.measure.columns import Floats, Ints
from labkit.measure.gaps import Gaps, pooled_percentiles_s
from labkit.measure.statistics import Bootstrapped, Repeat, Resampled, Statistic, bootstrap, bootstrapped

#: Values of both sides together that are weighed one by one: 2,000 resamples of them take a second.
MOST_VALUES: Final = 20_000
#: Groups of a side, over its repeats, and the fewest of one repeat.
GROUPS: Final = 1000
LEAST_GROUPS: Final = 200
#: Bins over the range of the resampled percentiles: an end of an interval is exact to a few thousandths of it.
_BINS: Final = 500
#: Nanoseconds that a conversion to seconds and back may be off.
_SLIP: Final = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class GapRepeat:
    """The inter-token latencies of one repeat.

    Attributes:
        gaps: whose rows are positions of requests.
        zeros: of each request, how many zeros belong to it besides.
    """

    gaps: Gaps
    zeros: Ints

    def __len__(self) -> int:
        return len(self.gaps) + int(self.zeros.sum())

    def repeat(self) -> Repeat:
        """One by one."""
        owners = [np.repeat(np.arange(len(self.zeros)), self.zeros)]
        values = [np.zeros(len(owners[0]))]
        for gap_ns, row, counts in self.gaps.parts():
            owners.append(np.repeat(row, counts))
            values.append(gap_ns / 1e9)
        return Repeat.grouped(np.concatenate(values), np.concatenate(owners), len(self.zeros))


Values = Repeat | GapRepeat


def pooled_percentiles(repeats: Sequence[Values], qs: Sequence[float]) -> Floats:
    """Percentiles of all values together, which are at least one."""
    if gaps := [repeat for repeat in repeats if isinstance(repeat, GapRepeat)]:
        return pooled_percentiles_s([one.gaps for one in gaps], qs, sum(int(one.zeros.sum()) for one in gaps))
    values = np.concatenate([repeat.values for repeat in repeats if isinstance(repeat, Repeat)])
    found: Floats = np.percentile(values, qs)
    return found


def grouped_bootstrap(
    repeats_a: Sequence[Values],
    repeats_b: Sequence[Values],
    statistic: Statistic,
    q: float | None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
    least: int = 1,
) -> Bootstrapped:
    """``bootstrap`` of repeats that ran in pairs, in bounded time and memory.

    Args:
        repeats_a, repeats_b: as many of one side as of the other; a side may have no value.
        statistic: of ascending values and their weights.
        q: the percentile that it is; ``None``: a mean or a sum.
        seed, resamples, level, least: as there.
    """
    if sum(map(len, (*repeats_a, *repeats_b))) <= MOST_VALUES:
        single = [[one if isinstance(one, Repeat) else one.repeat() for one in side] for side in (repeats_a, repeats_b)]
        return bootstrap(single[0], single[1], statistic, seed=seed, resamples=resamples, level=level, paired=True, least=least)
    sides = [[_Grouped.of(one, len(side)) for one in side] for side in (repeats_a, repeats_b)]
    weights = _weights(seed, resamples, *(tuple(one.units for one in side) for side in sides))
    a, b = _threads(os.getpid()).map(lambda side, times: _resampled(side, times, statistic, q), sides, weights)
    enough = 1 < len(repeats_a) < 5 and all(len(one) >= least for one in (*repeats_a, *repeats_b))
    grouped = any(one.units < one.requests for side in sides for one in side)
    return bootstrapped(
        a,
        b,
        level=level,
        extremes=_range(repeats_a, repeats_b, statistic, q) if enough else (None, None),
        unit="groups of requests" if grouped else "requests",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Grouped:
    """One repeat: the group of each of its requests, and how many groups there are."""

    values: Values
    unit: Ints
    units: int

    @classmethod
    def of(cls, values: Values, repeats: int) -> _Grouped:
        requests = len(values.counts if isinstance(values, Repeat) else values.zeros)
        units = min(requests, max(GROUPS // repeats, LEAST_GROUPS))
        return cls(values, np.arange(requests) % max(units, 1), units)

    @property
    def requests(self) -> int:
        return len(self.unit)

    @property
    def scale(self) -> float:
        """What ``parts`` counts in, by the second."""
        return 1.0 if isinstance(self.values, Repeat) else 1e9

    def parts(self) -> Iterator[tuple[Floats | Ints, Ints, Ints]]:
        """Values, the groups of the requests that they belong to, and how many (≥ 1) each of those has."""
        if isinstance(self.values, Repeat):
            some = self.values.counts > 0
            if some.any():
                yield self.values.values, self.unit[some], self.values.counts[some]
        else:
            for gap_ns, row, counts in self.values.gaps.parts():
                yield gap_ns, self.unit[row], counts

    def zeros(self) -> Floats:
        """Per group, zeros that are no part of ``parts``."""
        if isinstance(self.values, Repeat):
            return np.zeros(self.units)
        return np.bincount(self.unit, self.values.zeros, self.units).astype(np.float64)

    def sizes(self) -> Floats:
        """Values of each group."""
        if isinstance(self.values, Repeat):
            return np.bincount(self.unit, self.values.counts, self.units).astype(np.float64)
        found = self.zeros()
        for row, counts in self.values.gaps.counts():
            found += np.bincount(self.unit[row], counts, self.units)
        return found

    def sums(self) -> Floats:
        """Sum of the values of each group."""
        found = np.zeros(self.units)
        for values, unit, counts in self.parts():
            found += np.bincount(unit, np.add.reduceat(values, np.cumsum(counts) - counts), self.units)
        return found

    def at_most(self, limit: float) -> Floats:
        """Values of each group that are no greater than ``limit`` (≥ 0)."""
        found = self.zeros()
        for values, unit, counts in self.parts():
            below = np.add.reduceat(values <= limit, np.cumsum(counts) - counts, dtype=np.int64)
            found += np.bincount(unit, below, self.units)
        return found

    def between(self, low: float, high: float) -> Floats:
        """Groups × bins: values in each of the bins, open below, that divide what is above ``low`` up to ``high``."""
        found = np.zeros(self.units * _BINS, np.int64)
        for values, unit, counts in self.parts():
            near = np.flatnonzero((values > low) & (values <= high))
            bins = np.ceil((values[near] - low) * (_BINS / (high - low))).astype(np.int64) - 1
            np.add.at(found, np.repeat(unit, counts)[near] * _BINS + np.clip(bins, 0, _BINS - 1), 1)
        return found.reshape(self.units, _BINS).astype(np.float64)


@lru_cache(maxsize=1)
def _threads(_process: int) -> ThreadPoolExecutor:
    """One for each side, kept: of every new thread the allocator may hold on to as much memory as it once worked with.

    A process that was forked has threads of its own.
    """
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="labkit bootstrap")


@lru_cache(maxsize=2)
def _weights(seed: int, resamples: int, units_a: tuple[int, ...], units_b: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Of both sides, whose repeats have so many groups: resamples × groups, how often each occurs.

    Pairs of repeats are drawn together, groups with replacement within each. All quantities of a comparison share the weights.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(units_a), (resamples, len(units_a)))
    return _drawn(rng, units_a, drawn), _drawn(rng, units_b, drawn)


def _drawn(rng: np.random.Generator, sizes: tuple[int, ...], drawn: Ints) -> Floats:
    columns = []
    for repeat, units in enumerate(sizes):
        times = np.zeros((len(drawn), units))
        for slot in range(drawn.shape[1]):
            mine = np.flatnonzero(drawn[:, slot] == repeat)
            picks = rng.integers(0, max(units, 1), (len(mine), units)) + np.arange(len(mine))[:, None] * units
            times[mine] += np.bincount(picks.ravel(), minlength=picks.size).reshape(picks.shape)
        columns.append(times)
    weights = np.concatenate(columns, axis=1)
    weights.flags.writeable = False
    return weights


def _resampled(side: Sequence[_Grouped], weights: Floats, statistic: Statistic, q: float | None) -> Resampled:
    estimate = _value([one.values for one in side], statistic, q)
    if not np.isfinite(estimate):
        drawn = np.full(len(weights), np.nan)
    else:
        drawn = _sums(side, weights, statistic) if q is None else _percentiles(side, weights, q)
    return Resampled(estimate, drawn, sum(one.requests for one in side), len(side))


def _sums(side: Sequence[_Grouped], weights: Floats, statistic: Statistic) -> Floats:
    sizes, sums = (np.concatenate([getattr(one, name)() for one in side]) for name in ("sizes", "sums"))
    means = np.divide(sums, sizes, out=np.zeros(len(sums)), where=sizes > 0)
    return np.array([statistic(means, times * sizes) for times in weights])


def _percentiles(side: Sequence[_Grouped], weights: Floats, q: float) -> Floats:
    """The percentile of every resample; NaN where it has no value."""
    repeats, scale = [one.values for one in side], side[0].scale
    count = weights @ np.concatenate([one.sizes() for one in side])
    rank = (count - 1) * q / 100
    pivot = np.floor(pooled_percentiles(repeats, [q])[0] * scale + _SLIP)
    with np.errstate(invalid="ignore"):
        share = weights @ np.concatenate([one.at_most(pivot) for one in side]) / count
    reach = max(150 * float(np.nanmax(np.abs(share - q / 100))), 1e-3)
    while True:
        ends = pooled_percentiles(repeats, [max(q - reach, 0), min(q + reach, 100)]) * scale
        low, high = (ends[0], ends[1]) if scale == 1 else (np.floor(ends[0] + _SLIP), np.ceil(ends[1] - _SLIP))
        begin = weights @ np.concatenate([one.at_most(low) for one in side])
        inside = weights @ np.concatenate([one.between(low, high) for one in side]) if high > low else begin[:, None] * 0
        reached = begin[:, None] + np.cumsum(inside, axis=1)
        if reach >= 100 or (np.all(begin <= rank + 1) and np.all(reached[:, -1] >= np.minimum(rank + 1, count))):
            return np.where(count > 0, _at_rank(rank + 1, begin, inside, reached, low, high) / scale, np.nan)
        reach *= 2


def _at_rank(rank: Floats, begin: Floats, inside: Floats, reached: Floats, low: float, high: float) -> Floats:
    """Where the weighted count comes to the rank (from 1), evenly within a bin."""
    rows, bins = np.arange(len(rank)), inside.shape[1]
    at = np.minimum((reached < rank[:, None]).sum(axis=1), bins - 1)
    held = inside[rows, at]
    part = np.divide(rank - (reached[rows, at] - held), held, out=np.zeros(len(rank)), where=held > 0)
    found = low + (at + np.clip(part, 0, 1)) * ((high - low) / bins)
    return np.where(begin >= rank, low, found)


def _value(repeats: Sequence[Values], statistic: Statistic, q: float | None) -> float:
    if not sum(map(len, repeats)):
        return float("nan")
    if q is not None:
        return float(pooled_percentiles(repeats, [q])[0])
    values = np.concatenate([one.values for one in repeats if isinstance(one, Repeat)])
    return statistic(values, np.ones(len(values)))


def _range(
    repeats_a: Sequence[Values], repeats_b: Sequence[Values], statistic: Statistic, q: float | None
) -> tuple[float | None, float | None]:
    pairs = [[_value([one], statistic, q) for one in pair] for pair in zip(repeats_a, repeats_b, strict=True)]
    ratios = [above / below for below, above in pairs if below and np.isfinite(below) and np.isfinite(above)]
    return (min(ratios), max(ratios)) if ratios else (None, None)
