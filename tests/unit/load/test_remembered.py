"""A method's results are kept for as long as its object, and no longer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from weakref import ref

import pytest

from labkit.load.remembered import remembered


class Counter:
    def __init__(self) -> None:
        self.calls = 0
        self.square = remembered(self._square, 2)

    def _square(self, n: int) -> int:
        self.calls += 1
        return n * n


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_the_last_results_are_kept() -> None:
    counter = Counter()
    assert [counter.square(n) for n in (2, 3, 2, 3)] == [4, 9, 4, 9]
    assert counter.calls == 2
    counter.square(4)
    counter.square(2)
    assert counter.calls == 4, "two at most"


@pytest.mark.usefixtures("no_collector")
def test_the_object_goes_without_the_collectors_help() -> None:
    counter = Counter()
    counter.square(2)
    square, gone = counter.square, ref(counter)
    del counter
    assert gone() is None
    assert square(2) == 4
    with pytest.raises(ReferenceError, match="has gone"):
        square(3)
