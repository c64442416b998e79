"""The launch of a lab, which somebody may close before it is up: a cell is interrupted, or all labs of a kernel are closed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from labkit.serve.patience import CalledOff, Closed, Patience

#: Longest wait for a launch to come to its end, once it is called off.
_LATE_S: Final = 30.0


class Opening:
    """Launches, one at a time, and their end.

    Attributes:
        up: whether one has succeeded.
    """

    def __init__(self) -> None:
        self.up = False
        self._patience, self._closing = Patience(), False
        self._under_way = threading.RLock()

    @contextmanager
    def under_way(self, fail: Callable[[BaseException], None], patience: Patience | None = None) -> Iterator[Patience]:
        """A launch, with what it is to wait by.

        Args:
            fail: ends what was started, where the launch fails or the lab was closed meanwhile.
            patience: how workers are waited for; calls it off, too.
        """
        with self._under_way:
            self._patience = patience or Patience()
            try:
                self._must_go_on()
                yield self._patience
                self._must_go_on()
                self.up = True
            except BaseException as error:
                fail(error)
                if self._closing and isinstance(error, CalledOff):
                    raise self._closed from error
                raise
            finally:
                self._patience = Patience()  # the one that was lent may be lent again

    def close(self) -> bool:
        """Call a launch that is under way off, and wait for its end: whether it left anything for the caller to end.

        One that takes too long, or that this is called from, ends all that it has started when it comes to its end.
        """
        self._closing = True
        self._patience.call_off.set()
        if self._under_way.acquire(timeout=_LATE_S):
            self._under_way.release()
        return self.up

    def _must_go_on(self) -> None:
        if self._closing:
            raise self._closed

    @property
    def _closed(self) -> Closed:
        return Closed("the lab was closed while it was launched", remedy="launch it again")
