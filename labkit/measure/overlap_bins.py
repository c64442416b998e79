"""Gaps sorted by the prefill tokens beside them, with percentiles of each bin and what chance would make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.measure.pool import Pool
from labkit.measure.statistics import Interval, Statistic, least_values, weighted_percentile
from labkit.measure.timing import Bools, Floats, Ints

#: Bins of gaps that see a prefill.
_MOST: Final = 6
_RESAMPLES: Final = 300
_OVER: Final = "blocks of time"
#: An interval needs as many blocks of time with a gap of the bin.
_LEAST_BLOCKS: Final = 5


@dataclass(frozen=True, slots=True)
class Bin:
    """Gaps beside which as many prefill tokens were under way.

    Attributes:
        least, most: tokens, both included; 0 and 0 for clear gaps.
        tokens: their mean.
        n: gaps.
        mean_s, p50_s, p99_s: of the gaps, with 95 % intervals from drawing twentieths of a window: gaps of one step are one
            event, so neither gaps nor requests are drawn. The bounds are NaN where fewer than 5 of them have such a gap, and a
            percentile is ``None`` where there are too few gaps to claim it.
        null_s: where the median of as many gaps lies in 95 % of the shifts of prefills in time, had these no effect.
    """

    least: float
    most: float
    tokens: float
    n: int
    mean_s: Interval
    p50_s: Interval
    p99_s: Interval | None
    null_s: tuple[float, float] | None

    @property
    def name(self) -> str:
        """``no prefill``, ``512`` or ``65-128``."""
        if not self.most:
            return "no prefill"
        return f"{self.least:,.0f}" if self.least == self.most else f"{self.least:,.0f}-{self.most:,.0f}"


def edges_of(tokens: Sequence[Floats]) -> Floats:
    """Upper ends of the bins for gaps that see a prefill, ascending, the last one infinite where there is any.

    Up to six different numbers of tokens (prompts of equal length, and two at a time) are a bin each. More are divided into
    sixths of the gaps of all sides, at two significant digits.

    Args:
        tokens: of each side, beside each of its gaps; 0 is clear.
    """
    beside = np.concatenate([one[one > 0] for one in tokens]) if tokens else np.zeros(0)
    if not len(beside):
        return np.zeros(0)
    different = np.unique(beside)
    if len(different) <= _MOST:
        return np.asarray(np.append(different[:-1], np.inf))
    inner = np.quantile(beside, np.arange(1, _MOST) / _MOST)
    round_to = 10.0 ** (np.floor(np.log10(inner)) - 1)
    ends = np.unique(np.ceil(inner / round_to) * round_to)
    return np.append(ends[ends < different[-1]], np.inf)


def bins_of(pool: Pool, tokens: Floats, seen: Bools, clear: Bools, edges: Floats, seed: int) -> tuple[Bin, ...]:
    """The bins that have gaps, clear ones first.

    Args:
        pool: of the gaps.
        tokens, seen, clear: of each gap; one that is neither is left out.
        edges: of ``edges_of``.
        seed: of the resampling and the shifts.
    """
    which = _which(tokens, seen, clear, edges)
    found = []
    null = _null(pool, which, edges, seed)
    rng = np.random.default_rng(seed)
    for number in range(len(edges) + 1):
        mine = which == number
        if not mine.any():
            continue
        gap_s, beside = pool.gap_s[mine], tokens[mine]
        order = np.argsort(gap_s, kind="stable")
        block = np.unique(pool.block[mine], return_inverse=True)[1].reshape(-1)[order]
        weights = _weights(rng, block)
        p99 = len(gap_s) >= least_values(99)
        found.append(
            Bin(
                float(beside.min()),
                float(beside.max()),
                float(beside.mean()),
                len(gap_s),
                _mean(gap_s[order], block, weights),
                _interval(gap_s[order], block, weights, weighted_percentile(50)),
                _interval(gap_s[order], block, weights, weighted_percentile(99)) if p99 else None,
                null.get(number),
            )
        )
    return tuple(found)


def _which(tokens: Floats, seen: Bools, clear: Bools, edges: Floats) -> Ints:
    """The bin of each gap; -1 for none."""
    beside = np.searchsorted(edges, tokens, "left") + 1
    return np.where(clear, 0, np.where(seen & (tokens > 0), beside, -1)).astype(np.int64)


def _weights(rng: np.random.Generator, block: Ints) -> Ints | None:
    """How often each block is drawn: (resamples, blocks); ``None`` where there are too few."""
    blocks = int(block.max()) + 1
    if blocks < _LEAST_BLOCKS:
        return None
    return rng.multinomial(blocks, np.full(blocks, 1 / blocks), _RESAMPLES).astype(np.int64)


def _mean(gap_s: Floats, block: Ints, weights: Ints | None) -> Interval:
    """As ``_interval``, from the sums of the blocks alone."""
    value = float(gap_s.mean())
    if weights is None:
        return Interval(float("nan"), value, float("nan"), n=len(gap_s), over=_OVER)
    drawn = (weights @ np.bincount(block, gap_s)) / (weights @ np.bincount(block))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(min(low, value)), value, float(max(high, value)), n=len(gap_s), over=_OVER)


def _interval(gap_s: Floats, block: Ints, weights: Ints | None, statistic: Statistic) -> Interval:
    value = statistic(gap_s, np.ones(len(gap_s)))
    if weights is None:
        return Interval(float("nan"), value, float("nan"), n=len(gap_s), over=_OVER)
    drawn = np.array([statistic(gap_s, times[block].astype(np.float64)) for times in weights])
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(float(min(low, value)), value, float(max(high, value)), n=len(gap_s), over=_OVER)


def _null(pool: Pool, which: Ints, edges: Floats, seed: int) -> dict[int, tuple[float, float]]:
    """Per bin, where its median lies for shifted prefills, once the bins' means have been made equal to that of clear gaps."""
    n = np.bincount(which[which >= 0], minlength=len(edges) + 1)
    if not n[0]:
        return {}
    sums = np.bincount(which[which >= 0], pool.gap_s[which >= 0], len(edges) + 1)
    means = sums / np.maximum(n, 1)
    alike = np.divide(means[0], means, out=np.ones(len(means)), where=means > 0)
    equal = np.where(which >= 0, pool.gap_s * alike[which], pool.gap_s)
    order = np.argsort(equal, kind="stable")
    medians = np.full((len(pool.shifts(seed)), len(edges) + 1), np.nan)
    for row, shift in enumerate(pool.shifts(seed)):
        shifted = _which(pool.tokens(shift), *pool.split(shift), edges)[order]
        for number in np.flatnonzero(n):
            mine = np.flatnonzero(shifted == number)
            if len(mine):
                medians[row, number] = equal[order[mine[len(mine) // 2]]]
    return {
        int(number): (float(low), float(high))
        for number in np.flatnonzero(n)
        if np.isfinite(medians[:, number]).any()
        for low, high in [np.nanpercentile(medians[:, number], [2.5, 97.5])]
    }
