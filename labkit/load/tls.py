"""Encrypted connections, which are kept, with every read acknowledged at once.

A server without TCP_NODELAY sends the first token only when the head of its answer is acknowledged. Linux delays that by 40 ms on
a connection that has gone back and forth, and a TLS handshake is enough of that: even a fresh one is late. ``TCP_QUICKACK`` sends
what waits and ends the delay until the kernel falls back to it, which every sent segment may bring about. So it is set after each
write and each read (0.5 µs).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

from labkit.load.wire import Wire

_HANDSHAKE_S: Final = 10.0  # a server that speaks no TLS would be waited for in vain
_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux alone has it


class TlsReads:
    """Gathers the reads of encrypted connections that one round of the event loop brings, and hands them on together.

    Args:
        take: takes wires, reads and instants.
    """

    def __init__(self, take: Callable[[list[Wire], list[bytes], list[int]], None]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._wires: list[Wire] = []
        self._reads: list[bytes] = []
        self._t_ns: list[int] = []

    def add(self, wire: Wire, data: bytes, t_ns: int) -> None:
        """Keep a read until the round is over."""
        if not self._wires:
            self._loop.call_soon(self.flush)
        self._wires.append(wire)
        self._reads.append(data)
        self._t_ns.append(t_ns)

    def flush(self) -> None:
        """Hand on what there is."""
        gathered = self._wires, self._reads, self._t_ns
        self._wires, self._reads, self._t_ns = [], [], []
        if gathered[0]:
            self._take(*gathered)


async def connect_tls(wire: Wire, reads: TlsReads, address: str, port: int, context: ssl.SSLContext, host: str) -> TlsConnection:
    """Open a connection whose reads are ``wire``'s; raises OSError where that fails, also for a certificate not ``host``'s."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, (address, port))
        transport, _ = await loop.create_connection(
            lambda: TlsFeed(wire, reads, sock), sock=sock, ssl=context, server_hostname=host, ssl_handshake_timeout=_HANDSHAKE_S
        )
    except BaseException:
        sock.close()
        raise
    return TlsConnection(transport, sock)


def acknowledge(sock: socket.socket) -> None:
    """Send the acknowledgement that waits, and delay none until the kernel decides to again."""
    if _QUICKACK is not None:
        with contextlib.suppress(OSError):  # closed meanwhile
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


class TlsConnection:
    """What a wire writes to."""

    __slots__ = ("_sock", "_transport")

    def __init__(self, transport: asyncio.Transport, sock: socket.socket) -> None:
        self._transport, self._sock = transport, sock

    def write(self, data: bytes) -> None:
        """Send, now or as soon as there is room."""
        self._transport.write(data)
        acknowledge(self._sock)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()


class TlsFeed(asyncio.Protocol):
    """Tells whose reads these are: the instants are those of the reads, after decryption."""

    def __init__(self, wire: Wire, reads: TlsReads, sock: socket.socket) -> None:
        self._wire, self._reads, self._sock = wire, reads, sock

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with each read."""
        t_ns = perf_counter_ns()
        acknowledge(self._sock)
        self._reads.add(self._wire, data, t_ns)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop once."""
        lost_ns = perf_counter_ns()
        self._reads.flush()
        self._wire.lost(exc, lost_ns)
