from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.measure.intervals import Intervals, Loads

LENGTH = 10.0
#: Off the grid of the instants, so that rounding decides nothing.
bounds = st.integers(-2, 12).map(lambda n: n + 0.3)
pairs = st.lists(st.tuples(bounds, bounds), max_size=8)


@settings(max_examples=200)
@given(pairs, st.integers(-25, 25))
def test_cover_is_what_shifting_each_interval_around_the_circle_says(found: list[tuple[float, float]], shift: int) -> None:
    instants = np.arange(0, LENGTH, 0.5)
    union = Intervals.of(np.array(found, dtype=np.float64).reshape(-1, 2), LENGTH)
    expected = [any(max(a, 0) <= (t - shift) % LENGTH < min(b, LENGTH) for a, b in found) for t in instants]
    assert union.cover(instants, shift).tolist() == expected
    assert np.all(union.start_s[1:] > union.end_s[:-1])


def test_met_counts_intervals_with_an_instant_in_them() -> None:
    union = Intervals.of(np.array([[1.0, 2.0], [1.5, 3.0], [5.0, 5.1], [8.0, 9.0]]), LENGTH)
    assert union.met(np.array([1.1, 2.9, 8.5])) == 2
    assert union.met(np.array([4.0])) == 0


@settings(max_examples=200)
@given(pairs, st.integers(-25, 25))
def test_loads_add_up_wherever_they_are_shifted(found: list[tuple[float, float]], shift: int) -> None:
    instants = np.arange(0, LENGTH, 0.5)
    tokens = np.arange(1.0, len(found) + 1)
    loads = Loads.of(np.array(found, dtype=np.float64).reshape(-1, 2), tokens, LENGTH)
    inside = [
        (max(a, 0), min(b, LENGTH), n) for (a, b), n in zip(found, tokens.tolist(), strict=True) if max(a, 0) < min(b, LENGTH)
    ]
    expected = [sum(n for a, b, n in inside if a <= (t - shift) % LENGTH < b) for t in instants]
    assert loads.at(instants, shift).tolist() == expected
    steps = [sum(n for a, b, n in inside if t <= ((a + b) / 2 + shift) % LENGTH < t + 0.5) for t in instants]
    assert loads.within(instants, instants + 0.5, shift).tolist() == steps
