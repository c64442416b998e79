"""Durations: round trips, spellings, and one message for each that cannot be meant."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import SpecError
from labkit.spec import Durations

seconds = st.one_of(st.integers(0, 86_400), st.integers(0, 86_400_000).map(lambda ms: ms / 1000), st.floats(1e-9, 86_400))
positive = seconds.filter(lambda s: s > 0)
durations = st.one_of(
    st.builds(Durations, st.just("fixed"), seconds),
    st.tuples(seconds, seconds).map(lambda ab: Durations("uniform", min(ab), max(ab))),
    st.builds(Durations, st.just("exponential"), positive),
    st.builds(Durations, st.just("normal"), seconds, seconds),
    st.builds(Durations, st.just("lognormal"), positive, seconds),
    st.lists(seconds, min_size=1, max_size=9).map(lambda values: Durations("empirical", values=tuple(values))),
)


@given(given_=durations)
def test_durations_are_written_as_they_are_read(given_: Durations):
    assert Durations.parse(str(given_)) == given_
    assert Durations.parse(given_) is given_


@given(s=seconds)
def test_numbers_are_seconds(s: float):
    assert Durations.parse(s) == Durations("fixed", s)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (0, Durations("fixed", 0)),
        ("uniform: 1-5", Durations("uniform", 1, 5)),
        ("uniform:0.5,5", Durations("uniform", 0.5, 5)),
        ("lognormal:2,0.5", Durations("lognormal", 2, 0.5)),
        ("exponential:1.5", Durations("exponential", 1.5)),
        ("empirical:0, 0.5,9", Durations("empirical", values=(0, 0.5, 9))),
    ],
)
def test_spellings(given_: Any, expected: Durations):
    assert Durations.parse(given_) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "long",
            -1,
            "-1",
            float("nan"),
            float("inf"),
            True,
            None,
            "1.2.3",
            "1e3",
            ".",
            86_401,
            1e300,
            1e-40,
            "1-5",
            "fixed:1",
        ),
        *("uniform:1", "uniform:5-1", "uniform:1-90000", "exponential:", "exponential:0", "exponential:1,2", "lognormal:0,1"),
        *("normal:1", "empirical:", "empirical:1,,2", "empirical:90000", "gamma:1,2"),
    ],
)
def test_what_cannot_be_meant_is_named(text: Any):
    with pytest.raises(SpecError) as caught:
        Durations.parse(text)
    assert repr(text) in caught.value.what
    assert "lognormal:2,0.5" in caught.value.remedy
