import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.measure.statistics import (
    Interval,
    Repeat,
    bootstrap,
    drift,
    percentile,
    share_interval,
    student,
    weighted_mean,
    weighted_percentile,
)


def is_stationary(t_s: npt.ArrayLike, values: npt.ArrayLike) -> bool | None:
    found = drift(t_s, values)
    return None if found is None else found.stationary


@pytest.mark.parametrize(("hits", "n", "low", "high"), [(0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (81, 263, 0.2553, 0.3662)])
def test_a_share_has_wilsons_interval(hits: int, n: int, low: float, high: float):
    # 81 of 263 is the example of Newcombe (1998), table I; 0 of 20 that of table I too
    assert share_interval(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_a_share_of_nothing_can_be_anything():
    assert share_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("q", "least"), [(50, 1), (10, 1), (90, 10), (95, 20), (99, 100), (99.9, 1000)])
def test_percentiles_need_enough_values(q: float, least: int):
    assert percentile(range(least), q) == pytest.approx(np.percentile(range(least), q))
    assert percentile(range(least - 1), q) is None


def test_percentile_of_the_finite_values():
    assert percentile([1.0, np.nan, 3.0], 50) == 2.0
    assert percentile([np.nan], 50) is None


@given(
    st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 4)), min_size=1, max_size=30).filter(lambda v: any(w for _, w in v)),
    st.floats(0, 100),
)
@settings(max_examples=200)
def test_a_weighted_percentile_is_that_of_repeated_values(pairs, q):
    pairs = sorted(pairs)
    values, weights = np.array([v for v, _ in pairs]), np.array([w for _, w in pairs], float)
    expected = np.percentile(np.repeat(values, weights.astype(int)), q)
    assert weighted_percentile(q)(values, weights) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_weighted_statistics_of_nothing_are_undefined():
    empty = np.zeros(0)
    assert np.isnan(weighted_percentile(50)(empty, empty))
    assert np.isnan(weighted_mean(np.ones(2), np.zeros(2)))


def lognormal(rng: np.random.Generator, median: float, n: int, repeats: int) -> list[Repeat]:
    return [Repeat.of(rng.lognormal(np.log(median), 0.3, n)) for _ in range(repeats)]


def test_the_ratio_estimates_b_over_a_and_is_seeded():
    rng = np.random.default_rng(0)
    a, b = lognormal(rng, 1.0, 200, 3), lognormal(rng, 2.0, 200, 3)
    first, again, other = (bootstrap(a, b, weighted_percentile(50), seed=seed, resamples=300).ratio for seed in (1, 1, 2))
    assert first == again != other
    assert first.low < first.estimate < first.high
    assert first.low < 2.0 < first.high
    assert first.estimate == pytest.approx(
        np.median(np.concatenate([r.values for r in b])) / np.median(np.concatenate([r.values for r in a]))
    )
    assert (first.n, first.repeats, first.over) == (1200, 3, "repeats and requests")
    assert first.shows_difference


def test_fewer_than_five_repeats_print_their_range_and_one_has_none():
    rng = np.random.default_rng(0)
    three = bootstrap(lognormal(rng, 1, 50, 3), lognormal(rng, 1, 50, 3), weighted_mean, resamples=50).ratio
    five = bootstrap(lognormal(rng, 1, 50, 5), lognormal(rng, 1, 50, 5), weighted_mean, resamples=50).ratio
    one = bootstrap(lognormal(rng, 1, 50, 1), lognormal(rng, 1, 50, 1), weighted_mean, resamples=50).ratio
    assert three.lowest < three.estimate < three.highest
    assert "repeats" in str(three)
    assert five.lowest is None
    assert "repeats" not in str(five)
    assert (one.lowest, one.over) == (None, "requests")
    few = bootstrap(lognormal(rng, 1, 50, 3), lognormal(rng, 1, 50, 3), weighted_percentile(99), resamples=50, least=100).ratio
    assert few.lowest is None, "a repeat of 50 has no p99"


def test_spread_between_repeats_widens_the_interval():
    """Repeats that differ make the interval wide however many requests each has; resampling requests alone would not."""
    a = [Repeat.of(np.full(500, level)) for level in (1.0, 1.3, 0.7)]
    b = [Repeat.of(np.full(500, 1.0))] * 3
    found = bootstrap(a, b, weighted_mean, resamples=500).ratio
    assert found.high - found.low > 0.3


def test_gaps_of_one_request_travel_together():
    """Ten requests of 1000 equal gaps hold ten values' worth of certainty, not ten thousand."""
    rng = np.random.default_rng(3)

    def side(grouped: bool) -> list[Repeat]:
        levels = rng.lognormal(0, 0.5, 10)
        gaps = np.repeat(levels, 1000)
        return [Repeat.grouped(gaps, np.repeat(np.arange(10), 1000), 10) if grouped else Repeat.of(gaps)]

    together = bootstrap(side(True), side(True), weighted_mean, resamples=400).ratio
    apart = bootstrap(side(False), side(False), weighted_mean, resamples=400).ratio
    assert together.high - together.low > 10 * (apart.high - apart.low)


def test_grouped_values_may_come_in_any_order():
    grouped = Repeat.grouped([1.0, 2.0, 3.0, 4.0], [2, 0, 2, 0], 3)
    assert grouped.values.tolist() == [2.0, 4.0, 1.0, 3.0]
    assert grouped.counts.tolist() == [2, 0, 2]


def test_no_ratio_of_nothing_or_to_nothing():
    some, none, zero = [Repeat.of([1.0, 2.0])], [Repeat.of([np.nan])], [Repeat.of([0.0, 0.0])]
    assert bootstrap(none, some, weighted_mean, resamples=10).ratio is None
    assert bootstrap(some, none, weighted_mean, resamples=10).ratio is None
    assert bootstrap(zero, some, weighted_mean, resamples=10).ratio is None
    assert bootstrap([], some, weighted_mean, resamples=10).ratio is None
    assert bootstrap(some, zero, weighted_mean, resamples=10).ratio.high == 0.0


def test_a_denominator_that_vanishes_opens_the_interval():
    rare = [Repeat.of(np.array([1.0] + [0.0] * 19))]
    often = [Repeat.of(np.array([1.0] * 10 + [0.0] * 10))]
    assert bootstrap(rare, often, weighted_mean, resamples=400).ratio.high == np.inf


@pytest.mark.parametrize("repeats", [1, 8])
def test_intervals_cover_the_truth_about_as_often_as_they_say(repeats: int):
    """95 % intervals of a true ratio of 1.5; with 8 repeats each has a level of its own."""
    rng = np.random.default_rng(repeats)
    trials, covered = 80, 0
    for trial in range(trials):
        spread = 0.1 if repeats > 1 else 0.0
        a, b = (
            [Repeat.of(rng.lognormal(np.log(level) + rng.normal(0, spread), 0.4, 40)) for _ in range(repeats)]
            for level in (1.0, 1.5)
        )
        covered += (found := bootstrap(a, b, weighted_percentile(50), seed=trial, resamples=200).ratio).low <= 1.5 <= found.high
    assert 0.86 <= covered / trials <= 0.99


def test_each_side_has_an_interval_of_its_own_from_the_same_resamples():
    rng = np.random.default_rng(0)
    a, b = lognormal(rng, 1.0, 200, 3), lognormal(rng, 2.0, 100, 4)
    found = bootstrap(a, b, weighted_mean, resamples=300)
    for side, repeats, own in ((found.a, a, 600), (found.b, b, 400)):
        values = np.concatenate([repeat.values for repeat in repeats])
        assert side.estimate == pytest.approx(values.mean())
        assert side.low < values.mean() < side.high
        assert (side.n, side.repeats, side.lowest) == (own, len(repeats), None)
    assert (found.ratio.n, found.ratio.repeats) == (1000, 3)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sides_own_interval_covers_its_mean_as_often_as_it_says(seed: int):
    rng = np.random.default_rng(seed)
    covered = 0
    for trial in range(100):
        side = [Repeat.of(rng.lognormal(0, 0.5, 60))]
        covered += (found := bootstrap(side, side, weighted_mean, seed=trial, resamples=200).a).low <= np.exp(0.125) <= found.high
    assert 0.86 <= covered / 100 <= 0.99


def test_a_side_without_values_leaves_the_other_its_interval():
    some, none, zero = [Repeat.of([1.0, 2.0])], [Repeat.of([np.nan])], [Repeat.of([0.0, 0.0])]
    found = bootstrap(none, some, weighted_mean, resamples=10)
    assert (found.a, found.ratio) == (None, None)
    assert found.b.estimate == 1.5
    found = bootstrap(zero, some, weighted_mean, resamples=10)
    assert (found.a.estimate, found.a.high, found.ratio) == (0, 0, None)


def test_the_spread_is_that_of_the_farther_bound():
    assert Interval(0.9, 1.0, 1.3).spread == pytest.approx(0.3)
    assert Interval(1.0, 2.0, 2.2).spread == pytest.approx(0.5)
    assert Interval(0.0, 0.0, 1.0).spread == np.inf


def test_no_difference_is_shown_when_one_is_inside():
    assert not Interval(0.9, 1.0, 1.1).shows_difference
    assert Interval(1.1, 1.2, 1.3).shows_difference
    assert Interval(0.7, 0.8, 0.9).shows_difference


def test_steady_values_are_stationary_and_a_growing_queue_is_not():
    rng = np.random.default_rng(0)
    t = np.arange(200.0)
    steady = rng.lognormal(-1, 0.2, 200)
    assert is_stationary(t, steady) is True
    growing = drift(t, steady * (1 + t / 100))
    assert not growing.stationary
    assert growing.change > 0.5
    assert is_stationary(t, steady + 5 * (1 - t / 200)) is False


def test_stationarity_of_few_values_is_unknown():
    assert is_stationary(np.arange(23), np.arange(23)) is None
    assert is_stationary(np.arange(24), np.arange(24.0)) is False


def test_a_difference_of_no_consequence_is_no_drift():
    rng = np.random.default_rng(0)
    values = 1 + rng.normal(0, 0.01, 5000) + np.linspace(0, 0.05, 5000)
    found = drift(np.arange(5000), values)
    assert abs(found.z) > 10
    assert found.stationary


def test_false_alarms_are_rare():
    rng = np.random.default_rng(1)
    alarms = sum(is_stationary(np.arange(90), rng.lognormal(0, 0.5, 90)) is False for _ in range(300))
    assert alarms / 300 < 0.02


@pytest.mark.parametrize(("freedom", "known"), [(6, 5.96), (12, 4.32), (30, 3.65)])
def test_the_limit_is_that_of_students_t(freedom: int, known: float):
    assert student(3.29, freedom) == pytest.approx(known, rel=0.07)


def test_order_is_by_time():
    rng = np.random.default_rng(0)
    t = rng.permutation(100.0 * np.arange(100))
    assert is_stationary(t, t) is False
