"""Order statistics of gaps are those of numpy on the raw values, whatever the values and the parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.measure.gaps import Gaps, counted_ranks, pooled_percentiles_s

QS = [0, 1, 50, 90, 95, 99, 99.9, 100]
durations = st.one_of(
    st.integers(0, 5), st.integers(0, 2**17), st.integers(2**32 - 3, 2**32 + 3), st.integers(2**33, 2**45), st.just(20_000_000)
)


def made(values: list[int], cut: int = 5) -> Gaps:
    gaps = Gaps()
    for begin in range(0, len(values), cut):
        part = np.array(values[begin : begin + cut], np.int64)
        gaps.add(part, np.array([begin, begin + 1]), np.array([0, len(part)]))
    return gaps


@settings(max_examples=100)
@given(st.lists(durations, min_size=1, max_size=40), st.integers(0, 30))
def test_percentiles_are_those_of_numpy_to_the_last_bit(values: list[int], zeros: int):
    raw = np.concatenate([np.zeros(zeros), np.array(values) / 1e9])
    assert made(values).percentiles_s(QS, zeros).tolist() == np.percentile(raw, QS).tolist()


@settings(max_examples=100)
@given(st.lists(durations, min_size=1, max_size=40))
def test_counting_finds_what_sorting_finds(values: list[int]):
    ranks = np.arange(len(values))
    pool = [made(values[:7]), made(values[7:])]
    assert counted_ranks(pool, ranks).tolist() == sorted(values)


@settings(max_examples=50)
@given(st.lists(st.lists(durations, max_size=12), min_size=1, max_size=4).filter(any))
def test_a_pool_is_all_of_its_values(lists: list[list[int]]):
    raw = np.array([value for values in lists for value in values]) / 1e9
    assert pooled_percentiles_s([made(values) for values in lists], QS).tolist() == np.percentile(raw, QS).tolist()


def test_many_gaps_in_many_parts():
    values = np.random.default_rng(0).lognormal(np.log(0.02e9), 0.8, 100_000).astype(np.int64)
    gaps = made(values.tolist(), 1009)
    assert gaps.percentiles_s(QS).tolist() == np.percentile(values / 1e9, QS).tolist()
    assert (len(gaps), gaps.total_ns, gaps.longest_ns) == (100_000, int(values.sum()), int(values.max()))
    gaps.add(np.array([10**12]), np.array([0]), np.array([1]))
    assert gaps.percentiles_s([100]).tolist() == [1000.0], "what was found before does not outlive an addition"


def test_parts_come_back_as_they_were_with_their_owners():
    gaps = Gaps()
    gaps.add(np.array([7, 2**40, 2**32 - 1]), np.array([3, 9, 4]), np.array([1, 0, 2]))
    gaps.add(np.array([], np.int64), np.array([5]), np.array([0]))
    ((gap_ns, row, counts),) = gaps.parts()
    assert (gap_ns.tolist(), row.tolist(), counts.tolist()) == ([7, 2**40, 2**32 - 1], [3, 4], [1, 2])
    other = gaps.renumbered(np.arange(10) * 10)
    ((_, row, _),) = other.parts()
    assert row.tolist() == [30, 40]
    assert other.percentiles_s([50]) == gaps.percentiles_s([50]) == pytest.approx([(2**32 - 1) / 1e9])


def test_no_percentile_asked_is_none_given():
    assert Gaps().percentiles_s([]).tolist() == []
