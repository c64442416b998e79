"""How long requests are under way: what a drain is given time by."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from labkit.load.progress import Progress

_WINDOW_NS: Final = 30_000_000_000


class Residence:
    """Takes the progress of a load, several times a second, and knows the mean time that its requests are under way."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int, int]] = deque()
        self._lock = threading.Lock()

    def add(self, now: Progress) -> None:
        """Take in where the load stands."""
        with self._lock:
            self._seen.append((now.t_ns, now.done, now.in_flight))
            while self._seen[-1][0] - self._seen[0][0] > _WINDOW_NS:
                self._seen.popleft()

    @property
    def mean_s(self) -> float | None:
        """Over the last half minute, by Little's law: those under way / those that ended a second; ``None`` where none did."""
        with self._lock:
            seen = list(self._seen)
        if len(seen) < 2 or (ended := seen[-1][1] - seen[0][1]) <= 0:
            return None
        return sum(in_flight for *_, in_flight in seen) / len(seen) * (seen[-1][0] - seen[0][0]) / 1e9 / ended
