"""Little's law over the progress of a load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.lab.residence import Residence
from labkit.load.progress import Progress

NOW = Progress(t_ns=0, sent=0, done=0, failed=0, in_flight=0, in_flight_by_epoch={}, output_tokens=0, begun=0)


def seen(*points: tuple[float, int, int]) -> Residence:
    residence = Residence()
    for t_s, done, in_flight in points:
        residence.add(replace(NOW, t_ns=int(t_s * 1e9), done=done, in_flight=in_flight))
    return residence


def test_six_under_way_and_two_ended_a_second_are_under_way_for_three_seconds():
    assert seen(*((t, 2 * t, 6) for t in range(20))).mean_s == pytest.approx(3.0)


def test_only_the_last_half_minute_counts():
    slow = [(float(t), t, 100) for t in range(100)]
    fast = [(100.0 + t, 100 + 10 * t, 5) for t in range(40)]
    assert seen(*slow, *fast).mean_s == pytest.approx(0.5)


def test_nothing_is_known_where_none_ended():
    assert seen().mean_s is None
    assert seen((0.0, 3, 7)).mean_s is None
    assert seen((0.0, 3, 7), (20.0, 3, 9)).mean_s is None
