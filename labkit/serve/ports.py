"""Ports that nobody else takes between choosing them and listening on them.

A chosen port stays *bound* by the lab, with ``SO_REUSEADDR`` and without listening. Linux then gives it to no other
process that asks for any port, nor as the source of an outgoing connection, but lets a server that sets
``SO_REUSEADDR`` (asyncio, ZeroMQ, Rust's standard library: all servers of the lab's engines) bind and listen on it. So
there is no gap, and a worker that is restarted finds its port still kept. For a server that does not set it,
``release`` gives up the sockets right before it starts; a name for each port keeps other labs away even then. It is that of a
Unix socket in the kernel's own name space, like the ports: no file, so nothing is left of it however the lab ends.
"""

from __future__ import annotations

import errno
import random
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

import psutil

from labkit.errors import OPEN_FILES_REMEDY, HardwareError, LaunchError

_HOST = "127.0.0.1"
_ATTEMPTS = 200
_LOWEST, HIGHEST = 10_000, 65_535


class PortLease:
    """Ports of one address that are kept until ``close``. A context manager.

    Attributes:
        ports: the port numbers, in the order asked for.
    """

    def __init__(self, address: str = _HOST) -> None:
        self._address = address
        self.ports: tuple[int, ...] = ()
        self._sockets: list[socket.socket] = []
        self._locks: list[socket.socket] = []

    def release(self) -> None:
        """Give up the sockets for a server without ``SO_REUSEADDR``; other labs still keep away."""
        while self._sockets:
            self._sockets.pop().close()

    def close(self) -> None:
        """Give the ports back. Harmless when done twice."""
        self.release()
        while self._locks:
            self._locks.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"PortLease({', '.join(map(str, self.ports))})"

    def _take(self, port: int) -> int:
        """Bind and lock one port (0: any); raises OSError when it is taken."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self._address, port))
            taken: int = sock.getsockname()[1]
            self._locks.append(_lock(taken))
        except OSError:
            sock.close()
            raise
        self._sockets.append(sock)
        self.ports += (taken,)
        return taken


def free_ports(count: int, *, consecutive: bool = False, highest: int = HIGHEST, address: str = _HOST) -> PortLease:
    """Keep ``count`` free ports of an address of this machine.

    They are next to each other if ``consecutive`` (a NIXL side channel takes base + TP rank).
    Where none shall be above ``highest``, they are not those that the kernel would give.

    Raises:
        HardwareError: this node has no such ports left.
        LaunchError: this process has no file descriptors left.
    """
    for _ in range(_ATTEMPTS):
        lease = PortLease(address)
        try:
            for _ in range(count):
                first = 0 if highest >= HIGHEST else random.randint(_LOWEST, highest - count)
                lease._take(lease.ports[-1] + 1 if consecutive and lease.ports else first)
        except (OSError, OverflowError) as error:
            lease.close()
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise LaunchError(f"no port can be opened: {error.strerror}", remedy=OPEN_FILES_REMEDY) from error
        else:
            return lease
    raise HardwareError(
        f"no {count} free {'consecutive ' * consecutive}ports on {address}",
        remedy="end what holds them (ss -ltnp lists it), or widen /proc/sys/net/ipv4/ip_local_port_range",
    )


def claim_port(port: int) -> PortLease:
    """Keep the one port that the user asked for.

    Raises:
        HardwareError: not a port number, not ours to open, or busy; names the holder where it can be seen.
    """
    if not 1 <= port <= 65535:
        raise HardwareError(f"{port} is not a port number", remedy="use 1024 to 65535, or leave the port out for a free one")
    lease = PortLease()
    try:
        lease._take(port)
    except OSError as error:
        lease.close()
        if error.errno in (errno.EACCES, errno.EPERM):
            raise HardwareError(
                f"port {port} needs the rights of root", remedy="use 1024 to 65535, or leave the port out for a free one"
            ) from None
        raise HardwareError(
            f"port {port} is busy: {_holder(port)}", remedy="end that process, or leave the port out for a free one"
        ) from None
    return lease


def _lock(port: int) -> socket.socket:
    """A socket whose name stands for the port; the name vanishes with this process. Raises OSError when another lab has it."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0labkit-port-{port}")
    except OSError:
        lock.close()
        raise
    return lock


def _holder(port: int) -> str:
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                command = " ".join(" ".join(process.cmdline()).split())
                return f"process {connection.pid} ({command[:120] or process.name()}) listens on it"
    return "a process that this user cannot see, or another lab, keeps it"
