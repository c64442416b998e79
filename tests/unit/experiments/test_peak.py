from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from labkit.experiments.peak import Peak, find_peak


def found(serves: Callable[[float], bool], first: float, **options: float) -> tuple[Peak, list[float]]:
    search, tried = find_peak(first, **options), []
    try:
        tried.append(next(search))
        while True:
            tried.append(search.send(serves(tried[-1])))
    except StopIteration as stop:
        return stop.value, tried


@given(truth=st.floats(0.5, 50), first=st.floats(0.5, 50), within=st.floats(0.02, 0.5), step=st.floats(1.05, 3))
def test_the_bracket_holds_the_truth_and_is_as_narrow_as_asked(truth: float, first: float, within: float, step: float):
    assume(truth >= step * first / 32)
    peak, tried = found(lambda rate: rate <= truth, first, within=within, step=step)
    assert peak.served is not None
    assert peak.failed is not None
    assert peak.served <= truth < peak.failed
    assert peak.ratio <= 1 + within
    assert len(tried) == len(set(tried))
    assert len(tried) <= abs(math.log(truth / first, step)) + math.log2(max(math.log(step) / math.log1p(within), 1)) + 4


def test_few_trials_are_needed_from_nearby():
    _, tried = found(lambda rate: rate <= 3.3, 3.0, within=0.25, step=1.2)
    assert tried == pytest.approx([3.0, 3.6])


def test_nothing_is_tried_above_the_most_and_nothing_far_below_the_first():
    peak, tried = found(lambda _: True, 4.0, within=0.1, most_rate=10.0)
    assert (peak, tried) == (Peak(10.0, None), [4.0, 8.0, 10.0])
    assert str(peak) == "10 req/s or more"
    peak, tried = found(lambda _: False, 4.0, within=0.1)
    assert peak.served is None
    assert min(tried) == 4.0 / 32
    assert str(peak) == "below 0.125 req/s"
    assert found(lambda _: True, 40.0, within=0.1, most_rate=10.0)[1] == [10.0]


def test_a_trial_that_contradicts_an_end_opens_it():
    assert Peak(4.0, 5.0).told(3.0, served=False) == Peak(None, 3.0)
    assert Peak(4.0, 5.0).told(6.0, served=True) == Peak(6.0, None)
    assert Peak(4.0, 5.0).told(4.5, served=True) == Peak(4.5, 5.0)
    assert Peak().told(2.0, served=True) == Peak(2.0, None)
    assert str(Peak()) == "not measured"
    assert str(Peak(4.0, 4.4)) == "4 req/s (not 4.4)"
