"""Ctrl-C at a bad moment: what has begun must be noted by whoever ends it before an interrupt can cut the two apart.

An interrupt that falls between the start of a process and the statement that keeps it leaves a process that nobody knows of, and
a notebook keeps the failed call's pipes open in its last traceback.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Held:
    """An interrupt that waits.

    Attributes:
        came: whether there is one.
    """

    def __init__(self) -> None:
        self.came = False

    def check(self) -> None:
        """For waits inside of the block: raises KeyboardInterrupt where one has come. From any thread."""
        if self.came:
            raise KeyboardInterrupt


@contextmanager
def held_back() -> Iterator[Held]:
    """A block that an interrupt does not end: it is raised behind it, also in place of an error of the block.

    Where interrupts are not raised, it changes nothing: on any other thread than the main one, and where SIGINT is ignored or
    handled outside of Python.
    """
    held = Held()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield held
        return

    def note(*_: object) -> None:
        held.came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield held
    except KeyboardInterrupt:  # of a check: it need not be raised again
        held.came = False
        raise
    finally:
        signal.signal(signal.SIGINT, usual)
        if held.came:
            usual(signal.SIGINT, None)
