"""One connection and the response that it carries: between the bytes that come in and whoever waits for their end."""

from __future__ import annotations

import asyncio
from time import perf_counter_ns
from typing import Any, Final, Protocol

from labkit.load.events import ChunkLog
from labkit.load.stream import Stream

_AFTER_DONE_S: Final = 1.0
_UNASKED: Final = Stream(-1, ChunkLog())  # takes what comes before a request was sent: nothing of it counts
_UNASKED.finish(0)


class Transport(Protocol):
    """What a wire asks of its connection: ``reader.Connection`` has it, and asyncio's transports."""

    def write(self, data: bytes, /) -> Any:
        """Send, now or as soon as there is room."""

    def abort(self) -> None:
        """Close at once."""


class Wire:
    """Carries one response at a time and resolves ``ended`` when it is over, however it ends.

    Attributes:
        transport: the connection, from its opening on.
        stream: takes the response that is under way, or was last.
        closed: it has ended.
        reset: how it broke, if it did.
        used: responses that it has carried or begun to.
    """

    __slots__ = ("_loop", "_waits", "closed", "ended", "reset", "stream", "transport", "used")

    transport: Transport
    ended: asyncio.Future[None]

    def __init__(self) -> None:
        self.closed = False
        self.used = 0
        self.reset: str | None = None
        self.stream = _UNASKED
        self._waits = False
        self._loop = asyncio.get_running_loop()

    def begin(self, stream: Stream) -> None:
        """Make ready for the response that ``stream`` takes."""
        self.stream = stream
        self.ended = self._loop.create_future()
        self.used += 1
        self._waits = True

    def feed(self, data: bytes, t_ns: int) -> None:
        """Take a read; ``t_ns`` is the instant of every chunk in it."""
        self.stream.feed(data, t_ns)
        self.look()

    def look(self) -> None:
        """Resolve ``ended`` where the stream is over, soon after ``[DONE]`` at the latest."""
        stream = self.stream
        if stream.over:
            self._resolve()
        elif stream.done and self._waits:
            self._waits = False
            self._loop.call_later(_AFTER_DONE_S, self._give_up, stream)

    def lost(self, error: Exception | None, t_ns: int) -> None:
        """The connection has ended, or broke; called once."""
        self.closed = True
        if self.used:
            if error is not None:
                self.reset = f"{type(error).__name__}: {error}"
            if not self.stream.over:
                self.stream.eof(t_ns)
            self._resolve()

    def abort(self) -> None:
        """Close at once; rows of later reads are not recorded."""
        if self.used:
            self.stream.over, self.stream.usual = True, False
            if not self.ended.done():
                self.ended.cancel()
        self.transport.abort()

    def _resolve(self) -> None:
        if self.used and not self.ended.done():
            self.ended.set_result(None)

    def _give_up(self, stream: Stream) -> None:
        """[DONE] came, but the HTTP body never ended: what was asked for is there."""
        if stream is self.stream and not self.ended.done():
            stream.finish(perf_counter_ns())
            self._resolve()
