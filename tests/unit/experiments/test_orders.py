"""Orders: one at a time, urgent ones first and between the waits of others, and an end for those that nobody carries out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError

import pytest

from labkit.errors import LabError
from labkit.experiments.orders import Cancelled, Orders


@pytest.fixture
def failures() -> list[Exception]:
    return []


@pytest.fixture
def orders(failures: list[Exception]) -> Iterator[Orders]:
    made = Orders(failures.append, lambda: None)
    yield made
    made.close()


def test_they_are_carried_out_in_turn_and_urgent_ones_before_those_that_have_not_begun(orders: Orders):
    begun, go, done = threading.Event(), threading.Event(), list[str]()

    def hold() -> None:
        begun.set()
        assert go.wait(30)
        done.append("first")

    first = orders.take(hold)
    begun.wait(30)
    second = orders.take(lambda: done.append("second"))
    urgent = orders.take(lambda: done.append("urgent"), urgent=True)
    assert not urgent.done(), "what is under way and does something is not crossed"
    go.set()
    for future in (first, second, urgent):
        future.result(30)
    assert done == ["first", "urgent", "second"]
    assert not orders.busy


def test_an_urgent_one_is_carried_out_while_another_waits_on_the_same_thread(orders: Orders):
    waiting = orders.take(lambda: orders.wait(600.0))
    thread = orders.take(threading.get_ident, urgent=True).result(30)
    assert not waiting.done()
    assert thread not in (threading.get_ident(), None)
    orders.cancel()
    with pytest.raises(Cancelled):
        waiting.result(30)
    assert orders.take(threading.get_ident).result(30) == thread


def test_an_urgent_one_that_fails_ends_none_but_itself(orders: Orders, failures: list[Exception]):
    waiting = orders.take(lambda: orders.wait(600.0))

    def fail() -> None:
        raise LabError("no", remedy="none")

    with pytest.raises(LabError, match="no"):
        orders.take(fail, urgent=True).result(30)
    assert [str(error) for error in failures] == [str(LabError("no", remedy="none"))]
    assert not waiting.done()


def test_a_wait_ends_by_itself_and_may_be_of_nothing(orders: Orders):
    for seconds in (0.0, 0.01):
        orders.take(lambda seconds=seconds: orders.wait(seconds)).result(30)
    assert not orders.busy


def test_the_end_calls_off_what_waits_and_what_has_not_begun(orders: Orders):
    begun = threading.Event()

    def hold() -> None:
        begun.set()
        orders.wait(600.0)

    waiting = orders.take(hold)
    begun.wait(30)
    later = orders.take(lambda: None)
    orders.close()
    with pytest.raises(Cancelled):
        waiting.result(30)
    with pytest.raises(CancelledError):
        later.result(30)
    with pytest.raises(LabError, match="closed"):
        orders.take(lambda: None, urgent=True).result(30)
