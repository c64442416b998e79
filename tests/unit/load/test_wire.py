"""However a response ends, whoever waits for its end is told once."""

from __future__ import annotations

import asyncio

from labkit.load.events import ChunkLog
from labkit.load.stream import Stream
from labkit.load.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_connection_that_breaks_ends_the_stream_at_that_instant():
    async def end() -> tuple[bool, int | None, str | None]:
        wire = Wire()
        wire.lost(None, 1)
        assert not wire.used
        wire.begin(Stream(7, ChunkLog()))
        wire.feed(HEAD, 1)
        wire.lost(ConnectionResetError("gone"), 2)
        return wire.ended.done(), wire.stream.end_ns, wire.reset

    assert asyncio.run(end()) == (True, 2, "ConnectionResetError: gone")


def test_what_comes_unasked_or_afterwards_changes_nothing():
    async def late() -> tuple[object, ...]:
        wire = Wire()
        wire.feed(HEAD, 1)
        log = ChunkLog()
        wire.begin(Stream(7, log))
        wire.feed(HEAD + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", 2)
        assert wire.ended.done()
        wire.feed(b"data: {}\n\n", 3)
        wire.lost(None, 4)
        return wire.stream.done, wire.stream.end_ns, wire.stream.http.status

    assert asyncio.run(late()) == (True, 2, 200)
