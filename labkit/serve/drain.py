"""The drain of an old router: how long it is waited for, and what for.

Requests under way end where they are. Those on workers that go on need nobody's wait: the old router lives until its last client
has left. They may need very long, where such a worker takes the next split's requests meanwhile (one that came to prefill alone
under an endless load gave those that it still decoded a token every three seconds). So a change waits for the workers that end;
where none does, only the proof of the new roles, which is better alone, keeps it for a while.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from labkit.serve.patience import DRAIN_S, CalledOff, Draining, Patience
from labkit.serve.pool import Worker

#: Requests take so many times as long as their mean, before a drain is given up; workers that end are waited for longer, because
#: what is left on them is cut.
_MEANS: Final = 3.0
_LEAST_S, _MOST_S = 30.0, 120.0
_LEAST_OF_ENDING_S, _MOST_OF_ENDING_S = 60.0, DRAIN_S
_LOOK_S: Final = 1.0


def sensible_limit_s(mean_s: float | None, *, ends: bool) -> float:
    """How long to wait for requests that take ``mean_s`` on average; ``ends``: whether workers end behind them."""
    least_s, most_s = (_LEAST_OF_ENDING_S, _MOST_OF_ENDING_S) if ends else (_LEAST_S, _MOST_S)
    return most_s if mean_s is None else min(max(_MEANS * mean_s, least_s), most_s)


class Look:
    """Called with the number of clients that are left while a router drains; says whether it need not be waited for any more.

    Args:
        router: its name.
        patience: see there.
        ending: workers that end behind it, where requests end on the worker that began them; else every client is waited for.
        alone: whether each request stays on one worker.

    Raises:
        CalledOff: it is.
    """

    def __init__(self, router: str, patience: Patience, ending: Sequence[Worker], *, alone: bool) -> None:
        self._router, self._patience, self._ending, self._alone = router, patience, tuple(ending), alone
        self._began_s = time.monotonic()
        self._next_s = 0.0
        self._idle = 0

    def __call__(self, left: int) -> bool:
        """See above."""
        if self._patience.call_off.is_set():
            raise CalledOff("the change was called off while the old router drained", remedy="what served before serves on")
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + _LOOK_S
        names = tuple(worker.name for worker in self._ending)
        self._patience.tell(Draining(self._router, left, now_s - self._began_s, self._patience.limit_s, names))
        self._idle = self._idle + 1 if self._ending and self._alone and not any(one.requests_left for one in self._ending) else 0
        return self._idle > 1  # a request on its way to the worker is seen by the second look
