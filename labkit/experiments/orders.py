"""Orders, carried out one after the other on a thread of their own: whoever asks never waits, and two wishes never cross."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from labkit.errors import LabError
from labkit.measure.memory import give_back

_T = TypeVar("_T")


class Cancelled(LabError):
    """The person called it off."""


class Orders:
    """A queue of one thread.

    Args:
        on_failure: told why an order failed or was called off, before its future is.
        on_change: called when an order was taken, and when it has ended.

    Attributes:
        calling_off: set while what is being waited for is called off; a long step of an order may look at it.
    """

    def __init__(self, on_failure: Callable[[Exception], None], on_change: Callable[[], None]) -> None:
        self._on_failure, self._on_change = on_failure, on_change
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="labkit exploration")
        self._state = threading.Condition()
        self._waiting = 0
        self._closed = False
        self._open: set[Future[Any]] = set()
        self._urgent: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self.calling_off = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether one is being carried out, or waits for that."""
        return self._waiting > 0 and not self._closed

    def take(self, work: Callable[[], _T], *, urgent: bool = False) -> Future[_T]:
        """Carry out ``work`` after those before it. After ``close`` the future holds a LabError at once.

        Args:
            work: what to do, on the orders' thread.
            urgent: do it before orders that have not begun, and while one that has begun only waits: still one at a time, so
                that it never crosses a step that does something.
        """
        future: Future[_T] = Future()
        with self._state:
            if taken := not self._closed:
                self._waiting += 1
                self._open.add(future)
                if urgent:
                    self._urgent.append((future, work))
                    self._state.notify_all()
                    self._thread.submit(self._see_to_urgent)
                else:
                    self._thread.submit(self._begin, future, work)
        if not taken:
            return self._refuse(future)
        self._on_change()
        return future

    def cancel(self) -> None:
        """Let ``wait`` end, now or in an order that is still to come, until none is left."""
        with self._state:
            if self._waiting:
                self.calling_off.set()
                self._state.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait within an order, and see to urgent ones meanwhile; raises Cancelled where it is called off."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0 or self._urgent or self.calling_off.is_set():
            with self._state:
                self._state.wait_for(lambda: self.calling_off.is_set() or bool(self._urgent), max(left_s, 0.0))
            if self.calling_off.is_set():
                raise Cancelled("called off", remedy="what was done up to here is kept")
            self._see_to_urgent()

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._closed

    def close(self, call_off: Callable[[], None] = lambda: None) -> None:
        """Call off what is waited for, and come back when nothing is carried out any more.

        Args:
            call_off: ends what an order waits for by other means than ``wait``.
        """
        with self._state:
            self._closed = True
            self.calling_off.set()
            self._state.notify_all()
            for future in self._open:
                future.cancel()  # those that have begun go on
        call_off()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _see_to_urgent(self) -> None:
        """Carry out those that are urgent, in their order; on the orders' thread."""
        while self._urgent:
            self._carry_out(*self._urgent.popleft())

    def _begin(self, future: Future[_T], work: Callable[[], _T]) -> None:
        self._see_to_urgent()
        self._carry_out(future, work)

    def _carry_out(self, future: Future[_T], work: Callable[[], _T]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        result: _T
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
            if isinstance(error, Exception):
                self._on_failure(error)
        give_back()  # what the order worked with is free by now, and a kernel carries orders out all afternoon
        with self._state:
            self._open.discard(future)
            self._waiting -= 1
            if not self._waiting and not self._closed:
                self.calling_off.clear()
        self._on_change()
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result)

    def _refuse(self, future: Future[_T]) -> Future[_T]:
        error = LabError("this exploration is closed", remedy="run the notebook's cells again: they launch another")
        future.set_exception(error)
        self._on_failure(error)
        return future
