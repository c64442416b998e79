"""How a lab tells what it does: lines; and where a notebook is watched, a state that is written over by the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

from labkit.harmless import harmless
from labkit.load.progress import Progress

#: Nanoseconds between two states: seldom enough that drawing them costs the measured workers nothing.
OVER_NS: Final = 2_000_000_000
LINE_NS: Final = 5_000_000_000


class Lines:
    """Tells what it is called with, a line a call. Hours of states would bury the rest of a cell's output: there, they replace
    each other; a terminal, a log, an executed notebook and a function of the user's get a line for each.

    Args:
        tell: takes a line; they are printed by default.
        over: whether states replace each other; so they do in a cell by default.
    """

    def __init__(self, tell: Callable[[str], None] | None = None, *, over: bool | None = None) -> None:
        self._tell = tell or print
        self._over = tell is None and (is_watched() if over is None else over)
        self._told_ns = 0
        self._width = 0

    def __call__(self, line: str) -> None:
        """Tell a line that stays."""
        self.settle()
        self._tell(harmless(line))

    def state(self, line: str, t_ns: int) -> None:
        """Tell where something stands at an instant, unless that was just told."""
        if t_ns - self._told_ns <= (OVER_NS if self._over else LINE_NS):
            return
        self._told_ns = t_ns
        line = harmless(line)
        if self._over:
            print(f"\r{line:<{self._width}}", end="", flush=True)
            self._width = len(line)
        else:
            self._tell(line)

    def load(self, now: Progress) -> None:
        """Tell where a load stands."""
        self.state(f"  {now.sent} sent, {now.done} done, {now.failed} failed, {now.in_flight} in flight", now.t_ns)

    def settle(self) -> None:
        """Let the last state stand; what anybody prints next is on a line of its own."""
        if self._width:
            print()
        self._width = 0


def is_watched() -> bool:
    """Whether standard output is a cell of a notebook that is not executed in batch."""
    return type(sys.stdout).__module__.startswith("ipykernel") and os.environ.get("LABKIT_MODE") != "batch"
