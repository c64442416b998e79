"""A wire whose reads come faster than they are settled: one place in the queue, and a bounded number of reads."""

from __future__ import annotations

import asyncio

from labkit.load.events import ChunkLog
from labkit.load.stream import Stream
from labkit.load.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n"
COMMENTS = b": ping\n" * 100  # no end that a stream of tokens has: each read may be the last


def test_a_flood_waits_once_and_is_settled_before_it_grows():
    async def flood() -> tuple[list[Wire], int, Wire]:
        ripe: list[Wire] = []
        wire = Wire(ripe.append)
        wire.begin(Stream(7, ChunkLog()))
        most = 0
        for data in (HEAD, *[COMMENTS] * 500):
            if wire.take(data, 1):
                wire.taken()
            most = max(most, len(wire.stream._data))
        return ripe, most, wire

    ripe, most, wire = asyncio.run(flood())
    assert ripe[0] is wire
    assert 1 <= len(ripe) <= 10, "once, and once again after each time that it was settled at once"
    assert most <= 66


def test_what_ends_it_is_told_once():
    async def end() -> tuple[list[Wire], bool]:
        ripe: list[Wire] = []
        wire = Wire(ripe.append)
        wire.begin(Stream(7, ChunkLog()))
        for data in (HEAD, COMMENTS):
            assert wire.take(data, 1)
            wire.taken()
        wire.lost(ConnectionResetError("gone"), 2)
        assert ripe == [wire]
        wire.settle()
        return ripe, wire.ended.done() and wire.stream.end_ns == 2

    assert asyncio.run(end())[1]
