"""Redraws on the kernel's main loop, however many threads ask for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable


class Soon:
    """Calls ``work`` on the event loop that runs where this is made, once for all requests that come before it gets there.

    Widget callbacks and orders run on threads of their own, and widgets are best changed by one. Where no loop runs (a script, a
    test) ``work`` is called at once.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._asked = threading.Event()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def __call__(self) -> None:
        """Ask for it; from any thread."""
        if self._loop is None or self._loop.is_closed():
            self._work()
        elif not self._asked.is_set():
            self._asked.set()
            self._loop.call_soon_threadsafe(self._go)

    def _go(self) -> None:
        self._asked.clear()
        self._work()
