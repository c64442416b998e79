"""One timer cancels each task at its own deadline, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from labkit.load.deadlines import Deadlines

LONG_S = 3600.0


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60.0))


async def waits(deadlines: Deadlines, timeout_s: float) -> bool:
    """A task that never ends by itself; whether its deadline ended it."""
    task = asyncio.current_task()
    assert task is not None
    deadlines.begin(task, timeout_s)
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        task.uncancel()
    return deadlines.end(task)


def test_the_earliest_comes_first_whatever_the_order_of_the_calls() -> None:
    async def test() -> None:
        deadlines, order = Deadlines(), list[str]()
        tasks = {
            name: asyncio.ensure_future(waits(deadlines, s)) for name, s in {"late": 0.02, "soon": 0.001, "last": 0.03}.items()
        }
        for name, task in tasks.items():
            task.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
        assert await asyncio.gather(*tasks.values()) == [True, True, True]
        assert order == ["soon", "late", "last"]

    run(test())


def test_what_ended_before_is_left_alone_and_what_is_cancelled_by_others_is_not_over_time() -> None:
    async def test() -> None:
        deadlines = Deadlines()
        ended = asyncio.current_task()
        assert ended is not None
        deadlines.begin(ended, 0.0)
        assert not deadlines.end(ended)
        patient = asyncio.ensure_future(waits(deadlines, LONG_S))
        assert await asyncio.ensure_future(waits(deadlines, 0.001)), "the timer rang for another, and then for this one"
        patient.cancel()
        assert not await patient
        assert not ended.cancelling()

    run(test())


def test_a_closed_one_cancels_nothing_until_it_is_used_again() -> None:
    async def test() -> None:
        deadlines = Deadlines()
        first = asyncio.ensure_future(waits(deadlines, 0.001))
        await asyncio.sleep(0)
        deadlines.close()
        assert await asyncio.ensure_future(waits(deadlines, 0.002))
        assert await first, "the timer that a later one set serves all"

    run(test())
