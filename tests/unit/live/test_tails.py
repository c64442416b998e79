"""A tail is exact at every edge, says of how many values it is, and forgets what is old."""

from __future__ import annotations

import numpy as np
import pytest

from labkit.live.tails import EDGES_S, REMEMBERED_S, Recent, Tail, counted, tail_of
from tests.support.handmade import MS, SECOND


def test_every_share_is_that_of_the_values_themselves():
    values = np.random.default_rng(0).lognormal(-3, 1.5, 5_000)
    tail = tail_of(counted(values))
    assert tail.n == 5_000
    for value, share in zip(tail.value_s, tail.share, strict=True):
        assert share == np.mean(values >= value)
    assert list(tail.value_s) == sorted(tail.value_s)
    assert 0.99 < tail.value_s[-1] / values.max() <= 1.01
    assert min(tail.share) == 1 / 5_000, "it ends at one value: a share of none is not drawn"


def test_a_bin_without_values_is_level_and_no_point_is_spent_on_it():
    tail = tail_of(counted(np.array([0.010, 0.010, 1.0])))
    assert tail.share == pytest.approx((1.0, 1 / 3, 1 / 3))
    low, fallen, high = tail.value_s
    assert low <= 0.010 < fallen <= low * 1.011
    assert high <= 1.0 < high * 1.011


def test_what_is_too_small_for_a_bin_counts_and_what_is_not_finite_does_not():
    tail = tail_of(counted(np.array([0.02, np.nan, np.inf]), zeros=3))
    assert tail.n == 4
    assert tail.share[-1] == 0.25
    assert tail_of(counted(np.zeros(0))) == Tail()
    assert tail_of(counted(np.array([5_000.0]))) == Tail((EDGES_S[-1],), (1.0,), 1)


def test_of_what_is_recent_only_whole_seconds_inside_are_counted():
    recent = Recent()
    t_ns = np.array([1_500, 2_100, 2_900, 3_100, 4_000]) * MS
    recent.add(t_ns, np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0, 0, 7, 0, 0]))
    assert recent.tail(2 * SECOND, 4 * SECOND).n == 3 + 7
    assert recent.tail(1_600 * MS, 4_900 * MS).n == 3 + 7
    assert recent.tail(0, 5 * SECOND).n == 5 + 7
    assert recent.tail(4 * SECOND, 4 * SECOND) == Tail()


def test_seconds_that_come_late_are_added_and_those_of_a_minute_ago_forgotten():
    recent, one = Recent(), np.array([0.1])
    for second in (10, 12, 11, 12):
        recent.add(np.array([second]) * SECOND, one)
    assert recent.tail(0, 13 * SECOND).n == 4
    recent.add(np.array([12 + REMEMBERED_S]) * SECOND, one)
    assert recent.tail(0, (13 + REMEMBERED_S) * SECOND).n == 1, "a minute at most"
    recent.add(np.array([13 + 3 * REMEMBERED_S]) * SECOND, one)
    assert len(recent._seconds) == 1
