"""Requests that take too long, cancelled by one timer for all of them: a timer for each would cost as much as ten tokens."""

from __future__ import annotations

import asyncio
from typing import Any


class Deadlines:
    """Cancels each task at its deadline. Make it inside a running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due_s: dict[asyncio.Task[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[Any], timeout_s: float) -> None:
        """Cancel it in ``timeout_s``, unless it has ended."""
        self._due_s[task] = due_s = self._loop.time() + timeout_s
        if self._timer is None or due_s < self._timer.when():
            self._wake(due_s)

    def end(self, task: asyncio.Task[Any]) -> bool:
        """It is over; whether it was cancelled here."""
        return self._due_s.pop(task, None) is None

    def close(self) -> None:
        """Cancel nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, due_s: float) -> None:
        self.close()
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        now_s = self._loop.time()
        for task in [task for task, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[task]
            task.cancel()
        self._timer = None
        if self._due_s:
            self._wake(min(self._due_s.values()))
