"""Reads plain connections, every one of a client, with the instant at which the kernel received each read.

``SO_TIMESTAMPNS`` has the kernel stamp a segment when it comes in. So a chunk's instant does not depend on when this process
gets to read it: not on the other streams, not on parsing, not on a busy core. And since nothing is lost by reading a little
later, a busy reader pauses between two rounds and takes what has come in one go; a wake-up for each token would cost more than
the token. Only chunks of one stream that come within such a pause share one instant, so it lasts a tenth of the time in which a
stream brings its next chunk: a reader of 250 streams with 20 ms between tokens pauses 2 ms, one of 20 streams with 2 ms not at
all. Where the kernel does not stamp, the instant is that of the read, and there are no pauses.

The kernel stamps only while some socket asks for it, and begins a moment after the first one does. So a reader has a socket ask
from its start to its end, and waits for that moment: the first read of all is stamped like every other.

The stamps are of the wall clock and are moved to the monotonic one by the difference of the two at the time of reading. That
difference changes only when somebody sets the clock; what is read just then gets the instant of its reading.

Every read of a fresh connection also sends an acknowledgement, a fifth of what a token takes. A server with TCP_NODELAY
waits for none: where it is known to be one, acknowledgements may come late, as on most clients' connections, one for two reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from collections.abc import Callable
from time import perf_counter_ns, time_ns
from typing import Final, Generic, Protocol, TypeVar

_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux alone has it
_SO_TIMESTAMPNS: Final = 35  # linux, asm-generic/socket.h; not in Python's socket module
_TIMESPEC: Final = struct.Struct("@ll")
_SPACE: Final = socket.CMSG_SPACE(_TIMESPEC.size)
_READ: Final = 16 * 1024
_MOST_READY: Final = 1024
_PAUSE_OF_GAP: Final = 0.1
_LEAST_PAUSE_S: Final = 0.001  # the event loop's timers have a resolution of 1 ms
_MOST_PAUSE_S: Final = 0.005
_BUSY_HZ: Final = 2000  # below that many reads a second there is nothing to save
_JUDGE_NS: Final = 20_000_000  # over so long the rate is counted
_STEP_NS: Final = 1_000_000  # the wall clock was set, not disciplined
_LOOKS: Final = 10  # at the clocks before the first read; the best of them counts
_SWITCHED_ON_S: Final = 0.5  # seen: 5 ms at most; a kernel that has not stamped after that does not


class Receiver(Protocol):
    """Whose a connection is."""

    def lost(self, error: OSError | None, t_ns: int) -> None:
        """The connection has ended, or broke; called once."""


_Owner = TypeVar("_Owner", bound=Receiver)


class Connection(Generic[_Owner]):
    """A plain connection. What ``write`` cannot hand over at once follows by itself."""

    __slots__ = ("_reader", "_rest", "owner", "recvmsg", "sock")

    def __init__(self, reader: Reader[_Owner], sock: socket.socket, owner: _Owner) -> None:
        self.sock, self.recvmsg = sock, sock.recvmsg
        self.owner: _Owner | None = owner
        self._reader = reader
        self._rest: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
        """Send; an error ends the connection."""
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._reader.end(self, error)
            return
        if sent < len(data):
            self._rest = asyncio.ensure_future(self._send_rest(data[sent:]))

    def abort(self) -> None:
        """Close at once; the owner is not told."""
        if self._rest is not None:
            self._rest.cancel()
        self._reader.forget(self)

    async def _send_rest(self, data: bytes) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self.sock, data)
        except OSError as error:
            self._reader.end(self, error)


class Reader(Generic[_Owner]):
    """Every plain connection of a client, read in one place. Make it inside a running event loop.

    Args:
        take: takes what a round of reads brought: owners, reads and instants, one for each read.
        stamped: ask the kernel for instants; otherwise, and where it has none to give, they are those of the reads.
        late_acks: acknowledgements may come late: nobody waits for them.
    """

    def __init__(
        self,
        take: Callable[[list[_Owner], list[bytes], list[int]], None],
        *,
        stamped: bool = True,
        late_acks: bool = False,
    ) -> None:
        self._take, self._late_acks = take, late_acks
        self._loop = asyncio.get_running_loop()
        self._stamps = _switch_on_stamps() if stamped else None
        self._stamped = self._stamps is not None
        self._epoll = select.epoll()
        self._open: dict[int, Connection[_Owner]] = {}
        self._offset_ns: int | None = None
        self._offset_width_ns = 0
        self._since_ns, self._reads, self._pause_s = perf_counter_ns(), 0, 0.0
        self._pause: asyncio.TimerHandle | None = None
        for _ in range(_LOOKS):
            self._to_monotonic()
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    async def connect(self, address: str, port: int, owner: _Owner) -> Connection[_Owner]:
        """Open a connection; raises OSError where that fails."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._stamped:
                sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            # The first call begins; where the other end is near, the second finds it done.
            if sock.connect_ex((address, port)) and sock.connect_ex((address, port)):
                await self._loop.sock_connect(sock, (address, port))
            if self._late_acks and _QUICKACK is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)  # the handshake would undo it
        except BaseException:
            sock.close()
            raise
        connection = Connection(self, sock, owner)
        self._open[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return connection

    def read(self) -> None:
        """One read of every connection that has something; nothing is done about it before all are read."""
        offset_ns = self._to_monotonic()
        ready = self._epoll.poll(0, _MOST_READY)
        self._reads += len(ready)
        connections, unpack = self._open, _TIMESPEC.unpack
        owners: list[_Owner] = []
        reads: list[bytes] = []
        t_ns: list[int] = []
        ended: list[tuple[Connection[_Owner], OSError | None]] = []
        for number, _ in ready:
            connection = connections[number]
            try:
                data, ancillary, _, _ = connection.recvmsg(_READ, _SPACE)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                ended.append((connection, error))
                continue
            if not data:
                ended.append((connection, None))
                continue
            if ancillary and offset_ns is not None:
                seconds, nanoseconds = unpack(ancillary[0][2])
                t_ns.append(seconds * 1_000_000_000 + nanoseconds + offset_ns)
            else:
                t_ns.append(perf_counter_ns())
            owners.append(connection.owner)  # type: ignore[arg-type]  # it is open
            reads.append(data)
        if reads:
            self._take(owners, reads, t_ns)
        for connection, why in ended:
            self.end(connection, why)

    def end(self, connection: Connection[_Owner], error: OSError | None) -> None:
        """Close a connection that ended by itself, and tell its owner."""
        owner = connection.owner
        if self.forget(connection) and owner is not None:
            owner.lost(error, perf_counter_ns())

    def forget(self, connection: Connection[_Owner]) -> bool:
        """Close a connection; whether it was open."""
        number = connection.sock.fileno()
        if self._open.get(number) is not connection:
            return False
        del self._open[number]
        connection.owner = None  # which knows its connection: a circle would wait for the garbage collector
        connection.sock.close()  # which takes it out of the epoll too
        return True

    def close(self) -> None:
        """Close everything."""
        for connection in list(self._open.values()):
            connection.abort()
        if self._pause is not None:
            self._pause.cancel()
        elif not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._stamps is not None:
            self._stamps.close()

    def _ready(self) -> None:
        self.read()
        if self._stamped and (pause_s := self._judge()):
            self._loop.remove_reader(self._epoll.fileno())
            self._pause = self._loop.call_later(pause_s, self._paused)

    def _paused(self) -> None:
        self.read()
        if pause_s := self._judge():
            self._pause = self._loop.call_later(pause_s, self._paused)
        else:
            self._pause = None
            self._loop.add_reader(self._epoll.fileno(), self._ready)

    def _judge(self) -> float:
        """How long to pause, in seconds, 0 for not at all; decided anew every 20 ms."""
        now_ns = perf_counter_ns()
        if now_ns - self._since_ns >= _JUDGE_NS:
            rate_hz = self._reads * 1e9 / (now_ns - self._since_ns)
            self._since_ns, self._reads = now_ns, 0
            wanted_s = _PAUSE_OF_GAP * len(self._open) / rate_hz if rate_hz >= _BUSY_HZ else 0.0
            self._pause_s = min(wanted_s, _MOST_PAUSE_S) if wanted_s >= _LEAST_PAUSE_S else 0.0
        return self._pause_s

    def _to_monotonic(self) -> int | None:
        """What to add to a wall-clock instant; ``None`` where the clock was set since the last look.

        Of all looks since then the one that took least is the most exact.
        """
        before = perf_counter_ns()
        wall = time_ns()
        width = perf_counter_ns() - before
        offset, last = before + width // 2 - wall, self._offset_ns
        moved = 0 if last is None else abs(offset - last)
        if last is None or width <= self._offset_width_ns or moved > width + self._offset_width_ns:
            self._offset_ns, self._offset_width_ns = offset, width
        return self._offset_ns if moved < _STEP_NS + width else None


def _switch_on_stamps() -> socket.socket | None:
    """A socket for which the kernel stamps by now, and for all others until it is closed; ``None`` where it does not."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as on_failure:
        near = on_failure.enter_context(socket.create_connection(listener.getsockname()))
        near.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        with listener.accept()[0] as far:
            give_up_ns = perf_counter_ns() + int(_SWITCHED_ON_S * 1e9)
            while perf_counter_ns() < give_up_ns:
                far.send(b"?")
                if near.recvmsg(1, _SPACE)[1]:
                    on_failure.pop_all()
                    return near
    return None
