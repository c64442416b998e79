"""One connection and the response that it carries: between the bytes that come in and whoever waits for their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Final, Protocol

from labkit.load.stream import Stream

_AFTER_DONE_S: Final = 1.0


class Transport(Protocol):
    """What a wire asks of its connection: ``reader.Connection`` has it, and asyncio's transports."""

    def write(self, data: bytes, /) -> Any:
        """Send, now or as soon as there is room."""

    def abort(self) -> None:
        """Close at once."""


class Wire:
    """Keeps the reads of one response at a time and resolves ``ended`` when it is over, however it ends.

    Args:
        ripe: called when there is something to settle.

    Attributes:
        take: takes a read and its instant, which is that of every chunk in it; whether ``taken`` is to be called.
        transport: the connection, from its opening on.
        closed: it has ended.
        reset: how it broke, if it did.
        used: responses that it has carried or begun to.
    """

    __slots__ = ("_loop", "_lost_ns", "_ripe", "_waits", "closed", "ended", "reset", "stream", "take", "transport", "used")

    take: Callable[[bytes, int], bool]
    transport: Transport
    stream: Stream
    ended: asyncio.Future[None]

    def __init__(self, ripe: Callable[[Wire], None]) -> None:
        self.closed = False
        self.used = 0
        self.reset: str | None = None
        self.take = _unasked
        self._loop, self._ripe = asyncio.get_running_loop(), ripe
        self._lost_ns = 0

    def begin(self, stream: Stream) -> None:
        """Make ready for the response that ``stream`` takes."""
        self.stream = stream
        self.ended = self._loop.create_future()
        self.used += 1
        self.take, self._waits = stream.take, True

    def taken(self) -> None:
        """``take`` said that there is something to settle."""
        self._ripe(self)

    def lost(self, error: Exception | None, t_ns: int) -> None:
        """The connection has ended, or broke; called once."""
        self._lost_ns = t_ns
        self.closed = True
        if self.used:
            if error is not None:
                self.reset = f"{type(error).__name__}: {error}"
            self._ripe(self)

    def settle(self) -> None:
        """Parse what was read up to now."""
        stream = self.stream
        stream.settle()
        if self.closed and not stream.over:
            stream.eof(self._lost_ns)
        if stream.over:
            self._resolve()
        elif stream.done and self._waits:
            self._waits = False
            self._loop.call_later(_AFTER_DONE_S, self._give_up, stream)

    def abort(self) -> None:
        """Close at once; rows of later reads are not recorded."""
        if self.used:
            self.stream.over = True
            if not self.ended.done():
                self.ended.cancel()
        self.transport.abort()

    def _resolve(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _give_up(self, stream: Stream) -> None:
        """[DONE] came, but the HTTP body never ended: what was asked for is there."""
        if stream is self.stream and not self.ended.done():
            stream.finish(perf_counter_ns())
            self._resolve()


class TlsFeed(asyncio.Protocol):
    """Feeds a wire from one of asyncio's transports: the instants are those of the reads, after decryption."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with each read."""
        if self._wire.take(data, perf_counter_ns()):
            self._wire.taken()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop once."""
        self._wire.lost(exc, perf_counter_ns())


def _unasked(_data: bytes, _t_ns: int) -> bool:
    return False
