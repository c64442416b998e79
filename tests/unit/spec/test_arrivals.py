"""Rates that change with time: round trips, areas, and one message for each that cannot be meant."""

import math
from itertools import pairwise, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import SpecError
from labkit.spec.arrivals import Burst, Ramp, Step, parse_profile

rates = st.integers(1, 100_000).map(lambda n: n / 100)
seconds = st.integers(1, 100_000).map(lambda n: n / 10)
profiles = st.one_of(
    st.builds(Ramp, rates, rates, st.none() | seconds),
    st.builds(lambda low, high, on, off: Burst(low, high, on, round(on + off, 1)), rates, rates, seconds, seconds),
    st.lists(st.tuples(seconds, rates), max_size=5, unique_by=lambda step: step[0]).map(
        lambda steps: Step(((0.0, 1.5), *sorted(steps)))
    ),
)


@given(profile=profiles)
def test_profiles_are_written_as_they_are_read(profile):
    assert parse_profile(str(profile)) == profile
    assert parse_profile(str(profile.warmup())) == profile.warmup()


@given(profile=profiles, until_s=seconds)
def test_segments_join_and_are_reached_in_order(profile, until_s):
    segments = list(takewhile(lambda segment: segment.start_s < until_s, profile.segments(until_s)))[:50]
    assert segments[0].start_s == 0
    assert all(one.end_s == pytest.approx(two.start_s) for one, two in pairwise(segments))
    for segment in segments:
        share = [segment.expected * part / 8 for part in range(8)] if math.isfinite(segment.expected) else [0, 1, 10, 1000]
        instants = [segment.reach_s(requests) for requests in share]
        assert instants == sorted(instants)
        assert segment.start_s <= instants[0] <= instants[-1] <= segment.end_s


def test_the_instants_of_a_ramp_are_those_of_its_integral():
    (segment,) = Ramp(2, 10).segments(20.0)
    assert segment.expected == 120
    assert segment.reach_s(60) == pytest.approx(13.0278, abs=1e-4)  # 2t + t²/5 = 60
    (falling,) = Ramp(10, 0).segments(20.0)
    assert falling.reach_s(100 - 1e-9) == pytest.approx(20.0, abs=1e-3)


def test_a_ramp_over_less_than_the_phase_holds_its_last_rate():
    rising, held = Ramp(2, 10, 20.0).segments(None)
    assert (rising.expected, held.reach_s(40)) == (120, 24.0)
    assert not Ramp(2, 10, 20.0).needs_duration
    assert Ramp(2, 0, 20.0).needs_duration, "after them there are no more requests"


def test_spellings():
    assert parse_profile("ramp: 1-8 / 60") == Ramp(1, 8, 60)
    assert parse_profile("burst: 10 @ 5/20") == Burst(0, 10, 5, 20)
    assert parse_profile("burst:1-10@5/20") == Burst(1, 10, 5, 20)
    assert parse_profile("step:0=1,30=4") == Step(((0, 1), (30, 4)))
    assert parse_profile("poisson") is None


@pytest.mark.parametrize(
    "text",
    [
        *("ramp:", "ramp:1", "ramp:0-0", "ramp:1--8", "ramp:1e3-2", "ramp:nan-1", "ramp:1-8/", "ramp:1-8/0", "ramp:1-8 req/s"),
        *("burst:10", "burst:10@20/5", "burst:0@5/20", "burst:10@0/20", "burst:1@0.000000001/1"),
        *("step:", "step:0=0", "step:5=1", "step:0=1,30=2,30=3", "step:0=1,30=2,20=3", "step:0:1", "step:0=1,"),
    ],
)
def test_what_describes_no_rate_is_named(text):
    with pytest.raises(SpecError) as caught:
        parse_profile(text)
    assert repr(text) in caught.value.what
    assert "ramp:1-8" in caught.value.remedy
