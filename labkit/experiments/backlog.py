"""Requests that are still under way when something is to be measured or changed: they are followed to their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from labkit.errors import LoadError
from labkit.lab.watch import Watch

#: Rows and spans of a request are on disk so long after its end.
ON_DISK_S: Final = 2.5
_LOOK_S: Final = 0.25
_DRAIN_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of one exploration.

    Attributes:
        watch: the lab's watch, which knows the requests under way; another one where that has ended meanwhile.
        loading: whether any request may be under way.
        wait: waits so many seconds; raises where that is called off.
    """

    watch: Callable[[], Watch]
    loading: Callable[[], bool]
    wait: Callable[[float], None]

    def follow(self, stop_ns: int, *, on_disk: bool = True) -> None:
        """Wait until no request sent before ``stop_ns`` is under way, and until all of it is on disk.

        Raises:
            LoadError: they do not end.
        """
        self.until(lambda: self._none_before(stop_ns), stop_ns)
        if on_disk:
            self.wait(ON_DISK_S)

    def until(self, ended: Callable[[], bool], stop_ns: int) -> None:
        """Wait until something has ended that began before ``stop_ns``.

        Raises:
            LoadError: it takes too long.
        """
        while not ended():
            if time.perf_counter_ns() > stop_ns + int(_DRAIN_S * 1e9):
                raise LoadError(
                    f"some requests are still under way after {_DRAIN_S:.0f} s, and a result would be too good without them",
                    remedy="send less, or wait for the backlog to go, and try again",
                )
            self.wait(_LOOK_S)

    def _none_before(self, stop_ns: int) -> bool:
        """Whether it is known that none is under way that was sent before. A watch that has just begun knows of none at first."""
        watch = self.watch()
        if not watch.heard and self.loading():
            return False
        oldest = watch.window.oldest_sent_ns
        known = watch.window.horizon_ns(time.perf_counter_ns()) >= stop_ns  # those of the last instant, too
        return known and (oldest is None or oldest >= stop_ns)
