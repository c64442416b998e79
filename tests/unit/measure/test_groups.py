"""The bootstrap of many values against that which weighs them one by one."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from labkit.measure import groups
from labkit.measure.gaps import Gaps
from labkit.measure.groups import GapRepeat, grouped_bootstrap, pooled_percentiles
from labkit.measure.statistics import (
    Interval,
    Repeat,
    bootstrap,
    weighted_mean,
    weighted_percentile,
    weighted_total,
)


def latencies(seed: int, requests: int, factor: float = 1.0) -> Repeat:
    rng = np.random.default_rng(seed)
    return Repeat.of(np.where(rng.random(requests) < 0.02, np.nan, rng.lognormal(np.log(0.2 * factor), 0.4, requests)))


def answers(seed: int, requests: int, factor: float = 1.0, chunks: int = 12) -> GapRepeat:
    """Gaps that differ from request to request; every tenth request has bundles, every seventh no gap."""
    rng = np.random.default_rng(seed)
    gaps = Gaps()
    for begin in range(0, requests, 50):
        row = np.arange(begin, min(begin + 50, requests))
        counts = np.where(row % 7 == 0, 0, chunks)
        level = np.repeat(rng.lognormal(np.log(0.02e9 * factor), 0.2, len(row)), counts)
        gaps.add((level * rng.lognormal(0, 0.1, len(level))).astype(np.int64), row, counts)
    return GapRepeat(gaps, np.where(np.arange(requests) % 10 == 1, 3, 0))


def both(make, statistic, q, monkeypatch: pytest.MonkeyPatch, *, requests: int, repeats: int) -> list[tuple[Interval, Interval]]:
    """Intervals one by one and by groups: of the ratio, and of either side."""
    a = [make(i, requests) for i in range(repeats)]
    b = [make(100 + i, requests, 1.1) for i in range(repeats)]
    exact = grouped_bootstrap(a, b, statistic, q, resamples=800)
    monkeypatch.setattr(groups, "MOST_VALUES", 0)
    grouped = grouped_bootstrap(a, b, statistic, q, resamples=800)
    return [(exact.ratio, grouped.ratio), (exact.a, grouped.a), (exact.b, grouped.b)]


CASES = [
    (latencies, weighted_percentile(50), 50),
    (latencies, weighted_percentile(99), 99),
    (latencies, weighted_mean, None),
    (latencies, weighted_total, None),
    (answers, weighted_percentile(50), 50),
    (answers, weighted_percentile(95), 95),
]


@pytest.mark.parametrize(("make", "statistic", "q"), CASES)
@pytest.mark.parametrize(("requests", "repeats"), [(300, 1), (300, 3), (1200, 2)])
def test_intervals_are_those_of_single_requests(make, statistic, q, requests, repeats, monkeypatch):
    found = both(make, statistic, q, monkeypatch, requests=requests, repeats=repeats)
    expected = "groups of requests" if requests > groups.GROUPS // repeats else "requests"
    for exact, grouped in found:
        assert grouped.estimate == pytest.approx(exact.estimate, rel=1e-12)
        width = exact.high - exact.low
        assert grouped.low == pytest.approx(exact.low, abs=0.2 * width)
        assert grouped.high == pytest.approx(exact.high, abs=0.2 * width)
        assert (grouped.n, grouped.repeats) == (exact.n, exact.repeats)
        assert grouped.over == (expected if repeats == 1 else f"repeats and {expected}")
    exact, grouped = found[0]
    assert (grouped.lowest, grouped.highest) == pytest.approx((exact.lowest, exact.highest)) if repeats > 1 else True


def test_few_values_are_weighed_one_by_one():
    a, b = [latencies(0, 200)], [latencies(1, 200, 1.2)]
    found = grouped_bootstrap(a, b, weighted_percentile(50), 50, seed=3, resamples=300)
    assert found == bootstrap(a, b, weighted_percentile(50), seed=3, resamples=300, paired=True)
    few = grouped_bootstrap([answers(0, 60)], [answers(1, 60)], weighted_percentile(50), 50, seed=3, resamples=300)
    explicit = [answers(0, 60).repeat()], [answers(1, 60).repeat()]
    assert few == bootstrap(*explicit, weighted_percentile(50), seed=3, resamples=300, paired=True)


def test_repeats_that_lie_far_apart_are_drawn_as_wholes(monkeypatch: pytest.MonkeyPatch):
    """A resampled percentile may be anywhere between the repeats: the bins reach as far as the resamples do."""
    monkeypatch.setattr(groups, "MOST_VALUES", 0)
    a = [latencies(0, 400), latencies(1, 400, 10.0), latencies(2, 400, 100.0)]
    b = [latencies(10, 400), latencies(11, 400), latencies(12, 400)]
    found = grouped_bootstrap(a, b, weighted_percentile(50), 50, resamples=600).ratio
    exact = bootstrap(a, b, weighted_percentile(50), resamples=600, paired=True).ratio
    assert found is not None
    assert exact is not None
    assert np.log10([found.low, found.high]) == pytest.approx(np.log10([exact.low, exact.high]), abs=0.3)


def test_values_that_are_all_alike(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "MOST_VALUES", 0)
    gaps = Gaps()
    gaps.add(np.full(3000, 20_000_000), np.arange(300), np.full(300, 10))
    same = [GapRepeat(gaps, np.zeros(300, np.int64))]
    found = grouped_bootstrap(same, same, weighted_percentile(99), 99, resamples=50).ratio
    assert (found.low, found.estimate, found.high) == pytest.approx((1.0, 1.0, 1.0))
    zero = [Repeat.of(np.zeros(300))]
    assert grouped_bootstrap(zero, zero, weighted_mean, None, resamples=50).ratio is None


def test_the_same_threads_work_each_time(monkeypatch: pytest.MonkeyPatch):
    """Found by the soak: the allocator kept what each pin's threads had worked with, 12 MB for every one of sixteen."""
    monkeypatch.setattr(groups, "MOST_VALUES", 0)
    seen = set[threading.Thread]()

    def mean(values, weights):
        seen.add(threading.current_thread())
        return weighted_mean(values, weights)

    side = [latencies(1, 300)]
    for _ in range(8):
        grouped_bootstrap(side, side, mean, None, resamples=10)
    assert 1 <= len(seen) <= 2


def test_a_side_without_values_has_no_ratio(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groups, "MOST_VALUES", 0)
    side = latencies(0, 50)
    found = grouped_bootstrap([Repeat.of([])], [side], weighted_percentile(50), 50, resamples=10)
    assert (found.a, found.ratio) == (None, None)
    assert found.b is not None
    assert found.b.estimate == pytest.approx(float(np.median(side.values)))


def test_pooled_percentiles_count_zeros():
    one = answers(0, 200)
    assert pooled_percentiles([one, one], [50, 95]) == pytest.approx(np.percentile(one.repeat().values, [50, 95]), rel=1e-3)
    assert len(one) == len(one.repeat())
