"""Tokens received until each tick, whatever the parts."""

from __future__ import annotations

import numpy as np
import pytest

from labkit.measure.received import Received
from tests.support.handmade import SECOND


def test_ticks_come_four_times_a_second_from_the_first_send_to_the_last():
    received = Received(np.array([5, 3, 3 + 2 * SECOND]))
    assert received.sent_ns.tolist() == [3, 5, 3 + 2 * SECOND]
    assert np.diff(received.at_ns) / SECOND == pytest.approx(np.full(9, 2 / 9))
    assert (received.at_ns[0], received.at_ns[-1]) == (3, 3 + 2 * SECOND)


def test_what_came_in_parts_adds_up_to_the_count_of_single_chunks():
    rng = np.random.default_rng(4)
    received = Received(rng.integers(0, 60 * SECOND, 40))
    t_ns, tokens = rng.integers(-SECOND, 80 * SECOND, 5000), rng.integers(1, 5, 5000)
    for part in np.array_split(np.arange(5000), 7):
        received.add(t_ns[part], tokens[part])
    expected = [tokens[t_ns <= at].sum() for at in received.at_ns]
    assert received.until().tolist() == expected


def test_an_answer_that_is_not_counted_leaves_no_count():
    received = Received(np.array([0, SECOND]))
    received.add(np.array([1, 2]), np.array([3, -1]))
    received.add(np.array([3]), np.array([3]))
    assert not received.until().any()


def test_nothing_sent_has_no_ticks():
    received = Received(np.zeros(0, np.int64))
    received.add(np.array([1]), np.array([1]))
    assert len(received.until()) == len(received.at_ns) == 0
