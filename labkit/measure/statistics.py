"""Percentiles, intervals and stationarity: what may be said from how many values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
#: So many standard deviations hold 95 % of a normal distribution, on both sides of its middle.
NORMAL_95: Final = 1.959964


def percentile(values: npt.ArrayLike, q: float) -> float | None:
    """The q-th percentile of the finite values, linear between ranks; ``None`` where there are too few to claim it.

    A percentile above the median needs ``100 / (100 − q)`` values: 100 for p99, 20 for p95, 10 for p90.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(np.percentile(known, q)) if len(known) and len(known) >= least_values(q) else None


def least_values(q: float) -> int:
    """How many values a percentile needs."""
    return 1 if q <= 50 else int(np.ceil(100 / (100 - q) - 1e-9))


def too_few(n: int, q: float) -> str:
    """Why a percentile of ``n`` values is not shown."""
    return f"n too small (n={n}, p{q:g} needs {least_values(q)})"


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of which ``hits`` of ``n`` independent cases were seen: Wilson's score interval (1927).

    It keeps its width where all cases agree, and stays within 0 and 1; without a case it is all of that.
    """
    if not n:
        return 0.0, 1.0
    z2, share = NORMAL_95**2, hits / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = NORMAL_95 * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its interval.

    Attributes:
        low, estimate, high: the estimate is of the data themselves; the bounds are bootstrap percentiles (``high`` may be inf).
        level: coverage aimed at, such as 0.95.
        n: values (requests) that the estimate is of; of a ratio, both sides together.
        repeats: how many; of a ratio, the smaller number of the two sides.
        over: what was resampled: ``repeats and requests``, or ``requests`` where a side has one repeat only; where there are
            too many to draw one by one, ``groups of requests`` in their place.
        lowest, highest: range of the ratio over the pairs of repeats, printed where there are fewer than 5; ``None`` otherwise.
    """

    low: float
    estimate: float
    high: float
    level: float = 0.95
    n: int = 0
    repeats: int = 0
    over: str = "repeats and requests"
    lowest: float | None = None
    highest: float | None = None

    @property
    def spread(self) -> float:
        """The farther bound's distance from the estimate, as a part of it: 0.1 is within ±10 %."""
        farther = max(self.high - self.estimate, self.estimate - self.low)
        return farther / abs(self.estimate) if self.estimate else float("inf")

    @property
    def shows_difference(self) -> bool:
        """Whether the interval of a ratio leaves 1 out."""
        return not self.low <= 1 <= self.high

    def __str__(self) -> str:
        text = f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"
        return text if self.lowest is None else f"{text} (repeats {self.lowest:.3g}–{self.highest:.3g})"


@dataclass(frozen=True, slots=True, eq=False)
class Repeat:
    """The values of one repeat, grouped by request: those of one request are resampled together.

    Attributes:
        values: all values, request after request.
        counts: how many belong to each request (0 is allowed).
    """

    values: Floats
    counts: Ints

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Repeat:
        """One value per request; requests without one (NaN) have none."""
        array = np.asarray(values, dtype=np.float64)
        known = np.isfinite(array)
        return cls(array[known], known.astype(np.int64))

    @classmethod
    def grouped(cls, values: npt.ArrayLike, request: npt.ArrayLike, requests: int) -> Repeat:
        """Values with the position (0 … requests − 1) of the request that each belongs to."""
        array, owner = np.asarray(values, dtype=np.float64), np.asarray(request, dtype=np.int64)
        order = np.argsort(owner, kind="stable")
        return cls(array[order], np.bincount(owner, minlength=requests).astype(np.int64))


#: A statistic of pooled values with integer weights: (values in ascending order, weight of each) → one number, or NaN.
Statistic = Callable[[Floats, Floats], float]


def weighted_mean(values: Floats, weights: Floats) -> float:
    """Mean of values that occur ``weights`` times."""
    total = weights.sum()
    return float(values @ weights / total) if total else float("nan")


def weighted_total(values: Floats, weights: Floats) -> float:
    """Sum of values that occur ``weights`` times."""
    return float(values @ weights)


def weighted_percentile(q: float) -> Statistic:
    """The percentile, linear between ranks, of values that occur ``weights`` times: ``np.percentile(np.repeat(…), q)``."""

    def statistic(values: Floats, weights: Floats) -> float:
        ends = np.cumsum(weights)
        if not len(ends) or not ends[-1]:
            return float("nan")
        rank = (ends[-1] - 1) * q / 100
        below = np.floor(rank)
        at, following = np.searchsorted(ends, (below, min(below + 1, ends[-1] - 1)), "right")
        return float(values[at] + (values[following] - values[at]) * (rank - below))

    return statistic


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """Intervals of both sides and of their ratio, from the same resamples; ``None`` where a side has no value (or A is 0)."""

    a: Interval | None
    b: Interval | None
    ratio: Interval | None


def bootstrap(
    repeats_a: Sequence[Repeat],
    repeats_b: Sequence[Repeat],
    statistic: Statistic,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
    paired: bool = False,
    same_requests: bool = False,
    least: int = 1,
) -> Bootstrapped:
    """The statistic of each side and of B over A, each with a two-level bootstrap interval: repeats, then requests within them.

    Single values are never resampled: the gaps of one request travel together. Percentile bootstrap after Efron and Tibshirani
    (1993), in the two stages of Davison and Hinkley (1997), section 3.8.

    Args:
        repeats_a, repeats_b: per repeat the values of a side, pooled for the statistic.
        statistic: of ascending values and their weights.
        seed: of the resampling.
        resamples: how many.
        level: of the interval.
        paired: repeat i of both sides ran beside each other: they are drawn together.
        same_requests: so are their requests, of which each side has as many in every repeat, in the same order: what a request
            asks for, and how its arrivals crowd, is then no part of the ratio's interval.
        least: values that the statistic needs; the range over repeats is left out where one of them has fewer.
    """
    sides = (_Pool.of(repeats_a), _Pool.of(repeats_b))
    bottom, top = (statistic(side.values, np.ones(len(side.values))) for side in sides)
    rng = np.random.default_rng(seed)
    paired = paired and len(repeats_a) == len(repeats_b)
    below, above = np.full((2, resamples), np.nan)
    for i in range(resamples):
        drawn_a = _draw(rng, len(repeats_a))
        drawn_b = drawn_a if paired else _draw(rng, len(repeats_b))
        times_a = sides[0].times(rng, drawn_a)
        times_b = times_a if same_requests else sides[1].times(rng, drawn_b)
        below[i] = statistic(sides[0].values, times_a[sides[0].owner])
        above[i] = statistic(sides[1].values, times_b[sides[1].owner])
    enough = all(len(repeat.values) >= least for repeat in (*repeats_a, *repeats_b))
    fewer = 1 < min(len(repeats_a), len(repeats_b)) < 5
    return bootstrapped(
        Resampled(bottom, below, sides[0].requests, len(repeats_a)),
        Resampled(top, above, sides[1].requests, len(repeats_b)),
        level=level,
        extremes=_range(repeats_a, repeats_b, statistic) if fewer and enough else (None, None),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """A side's statistic, and the same of every resample (NaN where it has no value).

    Attributes:
        n, repeats: requests and repeats that it is of.
    """

    estimate: float
    drawn: Floats
    n: int
    repeats: int

    def interval(self, level: float, unit: str) -> Interval | None:
        """With percentiles of the resamples for bounds; ``None`` where there is no value."""
        drawn = self.drawn[~np.isnan(self.drawn)]
        if not np.isfinite(self.estimate) or not len(drawn):
            return None
        low, high = np.percentile(drawn, [50 - 50 * level, 50 + 50 * level], method="nearest")
        over = f"repeats and {unit}" if self.repeats > 1 else unit
        return Interval(float(low), float(self.estimate), float(high), level=level, n=self.n, repeats=self.repeats, over=over)


def bootstrapped(
    a: Resampled, b: Resampled, *, level: float, extremes: tuple[float | None, float | None], unit: str = "requests"
) -> Bootstrapped:
    """The intervals that resamples give, drawn for both sides together.

    Args:
        a, b: the sides.
        level: of the intervals.
        extremes: lowest and highest ratio of a pair of repeats.
        unit: what was drawn within a repeat.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = b.drawn / a.drawn  # over 0: infinite, and undefined where both are
        ratio = b.estimate / a.estimate if a.estimate else np.nan
    both = Resampled(ratio, ratios, a.n + b.n, min(a.repeats, b.repeats)).interval(level, unit)
    lowest, highest = extremes
    return Bootstrapped(
        a.interval(level, unit), b.interval(level, unit), None if both is None else replace(both, lowest=lowest, highest=highest)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """All values of a side, sorted once; a resample is then a weight per value: how often its request was drawn."""

    values: Floats
    owner: Ints  # of each value, the request's position over all repeats
    sizes: Ints  # requests per repeat

    @classmethod
    def of(cls, repeats: Sequence[Repeat]) -> _Pool:
        counts = np.concatenate([repeat.counts for repeat in repeats]) if repeats else np.zeros(0, np.int64)
        values = np.concatenate([repeat.values for repeat in repeats]) if repeats else np.zeros(0)
        order = np.argsort(values, kind="stable")
        owner = np.repeat(np.arange(len(counts)), counts)
        return cls(values[order], owner[order], np.array([len(repeat.counts) for repeat in repeats], np.int64))

    @property
    def requests(self) -> int:
        return int(self.sizes.sum())

    def times(self, rng: np.random.Generator, drawn: Ints) -> Floats:
        """How often each request occurs when these repeats are drawn, and requests with replacement within each."""
        per_request = np.zeros(self.requests)
        first = np.cumsum(self.sizes) - self.sizes
        for repeat in drawn:
            size = int(self.sizes[repeat])
            if size:
                per_request[first[repeat] : first[repeat] + size] += np.bincount(rng.integers(0, size, size), minlength=size)
        return per_request


def _draw(rng: np.random.Generator, count: int) -> Ints:
    return rng.integers(0, count, count) if count > 1 else np.zeros(count, np.int64)


def _range(repeats_a: Sequence[Repeat], repeats_b: Sequence[Repeat], statistic: Statistic) -> tuple[float | None, float | None]:
    ratios = []
    for a, b in zip(repeats_a, repeats_b, strict=False):
        below, above = (statistic(np.sort(side.values), np.ones(len(side.values))) for side in (a, b))
        if below and np.isfinite(below) and np.isfinite(above):
            ratios.append(above / below)
    return (min(ratios), max(ratios)) if ratios else (None, None)


@dataclass(frozen=True, slots=True)
class Drift:
    """Outcome of the stationarity test.

    Attributes:
        z: of the difference between the window's begin and end.
        change: that difference as a part of the overall mean.
        first, last: means of the first and of the last third.
    """

    stationary: bool
    z: float
    change: float
    first: float
    last: float


def drift(t_s: npt.ArrayLike, values: npt.ArrayLike, *, limit_z: float = 3.29, least_change: float = 0.2) -> Drift | None:
    """Geweke's test (1992): does the mean over the first third differ from that over the last third?

    Variances are of batch means, so that values that follow each other closely (a queue) do not count as independent. Called
    a drift only when the means differ by ``limit_z`` standard errors (0.1 % by chance; more with few batches, as Student's t)
    and by ``least_change`` of the overall mean: with many requests a difference of no consequence is significant too.

    Args:
        t_s: instants in seconds, any origin.
        values: one per instant; NaN is left out.
        limit_z, least_change: both must be passed to call it a drift.

    Returns:
        ``None`` with fewer than 24 values: nothing can be said.
    """
    when, what = np.asarray(t_s, dtype=np.float64), np.asarray(values, dtype=np.float64)
    known = np.isfinite(what) & np.isfinite(when)
    what = what[known][np.argsort(when[known], kind="stable")]
    if len(what) < 24:
        return None
    third = len(what) // 3
    head, tail = what[:third], what[-third:]
    error = float(np.hypot(_standard_error(head), _standard_error(tail)))
    limit = student(limit_z, 2 * (_batches(third) - 1))
    difference = float(tail.mean() - head.mean())
    mean = float(np.abs(what).mean())
    change = difference / mean if mean else 0.0
    z = difference / error if error else (0.0 if difference == 0 else float(np.copysign(np.inf, difference)))
    return Drift(abs(z) < limit or abs(change) < least_change, z, change, float(head.mean()), float(tail.mean()))


def _batches(n: int) -> int:
    return max(4, int(np.sqrt(n)))


def _standard_error(values: Floats) -> float:
    """Of the mean, from about √n batch means (at least 4 batches)."""
    batches = _batches(len(values))
    batch_means = [part.mean() for part in np.array_split(values, batches)]
    return float(np.std(batch_means, ddof=1) / np.sqrt(batches))


def student(z: float, freedom: int) -> float:
    """The quantile of Student's t where the normal one is ``z``: Abramowitz and Stegun (1964), 26.7.5, two terms."""
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
