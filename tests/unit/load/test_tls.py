"""Reads of encrypted connections are gathered, and none is lost at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from labkit.load.tls import TlsFeed, TlsReads
from labkit.load.wire import Wire


def test_encrypted_reads_of_a_round_are_taken_together_and_before_the_end():
    async def reads() -> tuple[list[list[bytes]], bool]:
        rounds: list[list[bytes]] = []
        taken = TlsReads(lambda wires, datas, instants: rounds.append(datas))
        wires = [Wire(), Wire()]
        with contextlib.ExitStack() as ends:
            socks = [ends.enter_context(sock) for sock in socket.socketpair()]
            feeds = [TlsFeed(wire, taken, sock) for wire, sock in zip(wires, socks, strict=True)]
            feeds[0].data_received(b"a")
            feeds[1].data_received(b"b")
            await asyncio.sleep(0)
            feeds[0].data_received(b"c")
            feeds[0].connection_lost(None)
        return rounds, wires[0].closed

    assert asyncio.run(reads()) == ([[b"a", b"b"], [b"c"]], True)
