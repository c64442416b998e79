"""How a change is waited for: while its workers start, while the old router drains; who is told, and who may call it off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from labkit.errors import ResplitError

#: Longest drain where nobody knows how long requests take.
DRAIN_S: Final = 600.0


class CalledOff(ResplitError):
    """The person called the change off while it waited: what serves then serves on."""


class Closed(CalledOff):
    """What was to change or to come up was closed meanwhile: nothing is to serve in its place."""


def closed_meanwhile() -> Closed:
    """What ends a change whose deployment is closed under it."""
    return Closed("the deployment was closed while it changed", remedy="launch a new one")


@dataclass(frozen=True, slots=True)
class Starting:
    """Where the start of workers stands.

    Attributes:
        workers: names of those that are not ready yet.
        elapsed_s: since it began.
    """

    workers: tuple[str, ...]
    elapsed_s: float

    @property
    def past(self) -> str:
        """What went on, once it has ended."""
        return f"{', '.join(self.workers)} started"

    def __str__(self) -> str:
        return f"starting: {', '.join(self.workers)}, {self.elapsed_s:.0f} s up to now"


@dataclass(frozen=True, slots=True)
class Draining:
    """Where a drain stands.

    Attributes:
        router: the old one.
        left: requests that are still on it.
        elapsed_s, limit_s: since it began, and when it is given up.
        ending: workers that wait for it to end; nothing is cut where there are none.
    """

    router: str
    left: int
    elapsed_s: float
    limit_s: float
    ending: tuple[str, ...] = ()

    @property
    def past(self) -> str:
        """What went on, once it has ended."""
        return "the old router drained"

    def __str__(self) -> str:
        left = f"{self.left} request{'s' * (self.left != 1)} left on {self.router}"
        then = f"; then {', '.join(self.ending)} end{'s' * (len(self.ending) == 1)}" if self.ending else ""
        return f"draining: {left}, {self.elapsed_s:.0f} s of at most {self.limit_s:.0f} s{then}"


@dataclass(slots=True)
class Patience:
    """How a change is waited for.

    Attributes:
        limit_s: how long a drain at most. Clients keep the old router for as long as they need even then, but workers that end
            do so.
        tell: called about once a second with where it stands.
        call_off: ends the wait, and the change with it, where what served before still can.
    """

    limit_s: float = DRAIN_S
    tell: Callable[[Starting | Draining], None] = lambda _: None
    call_off: threading.Event = field(default_factory=threading.Event)

    def keep_waiting(self, names: Sequence[str]) -> None:
        """Raises CalledOff where it is, while workers of these names start."""
        if self.call_off.is_set():
            raise CalledOff(
                f"the change was called off while {', '.join(names)} started", remedy="ask for it again, or for another one"
            )
