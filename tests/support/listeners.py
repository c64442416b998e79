"""Who listens where, from the kernel's own tables: nothing of labkit or of another library is asked.

``/proc/net/tcp`` and its kin name each socket's address and inode; the descriptors of a process name the inodes that it holds.
Sockets of the file system, and the kernel's own abstract ones, are no network: nobody outside of this machine reaches them.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

#: In the environment of every process that a watched test starts.
WATCHED = "LABKIT_TEST_WATCHED"
_LISTEN, _UNCONNECTED = "0A", "07"
_TABLES = {"tcp": _LISTEN, "tcp6": _LISTEN, "udp": _UNCONNECTED, "udp6": _UNCONNECTED}


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes what comes from elsewhere."""

    protocol: str
    address: str
    port: int
    inode: int

    @property
    def local(self) -> bool:
        """Whether nobody outside of this machine reaches it."""
        address = ip_address(self.address)
        return address.is_loopback or bool(
            isinstance(address, IPv6Address) and address.ipv4_mapped and address.ipv4_mapped.is_loopback
        )


@dataclass(frozen=True, slots=True)
class Exposed:
    """A socket that others reach, and the process that holds it."""

    listener: Listener
    pid: int
    command: str

    def __str__(self) -> str:
        one = self.listener
        return f"process {self.pid} ({self.command[:200]}) listens on {one.address} port {one.port} ({one.protocol})"


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody else's program that listens on all addresses and cannot be told not to.

    Attributes:
        command: pattern of its command line.
        who: what it is called in the documentation.
        reason: why it is so, and what follows; stands in docs/security.md word for word.
    """

    command: re.Pattern[str]
    who: str
    reason: str


def listeners() -> list[Listener]:
    """All of this network namespace: TCP that listens, UDP that is bound and not connected."""
    found = []
    for protocol, state in _TABLES.items():
        try:
            rows = Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == state:
                address, port = fields[1].split(":")
                found.append(Listener(protocol, _address(address), int(port, 16), int(fields[9])))
    return found


def inodes(pid: int) -> set[int]:
    """Of the sockets that a process holds."""
    found: set[int] = set()
    try:
        held = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it ended
        return found
    for entry in held:
        with suppress(OSError):  # closed meanwhile
            name = str(entry.readlink())
            if name.startswith("socket:["):
                found.add(int(name[8:-1]))
    return found


def holding(variable: str) -> Iterator[int]:
    """Living processes with this variable, ``NAME=value``, in their environment."""
    sign = variable.encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if sign in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)
            except OSError:
                continue


class Watch:
    """Looks at the tables every quarter of a second, in a thread; costs nothing to speak of while there is nothing new.

    Attributes:
        local: how many loopback listeners of the watched processes were seen at once, at most.
        exposed: what was found, in order; ``known`` programs apart.
    """

    def __init__(self, word: str, known: Sequence[Known] = (), *, every_s: float = 0.25) -> None:
        self.exposed: list[Exposed] = []
        self.tolerated: dict[str, Exposed] = {}
        self._variable, self._known, self._every_s = f"{WATCHED}={word}", known, every_s
        self._judged: set[tuple[int, int]] = set()
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look_forever, name="listeners", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def check(self) -> None:
        """Look once more; AssertionError with what was found since the last check."""
        self.look()
        if self._error is not None:
            raise self._error
        found, self.exposed = self.exposed, []
        assert not found, "reached from other machines: " + "; ".join(map(str, found))

    def own(self) -> list[Listener]:
        """All listeners of the watched processes, now."""
        held = set().union(*(inodes(pid) for pid in self._pids()))
        return [one for one in listeners() if one.inode in held]

    def look(self) -> None:
        """Take in what listens now."""
        wide = {one.inode: one for one in listeners() if not one.local}
        if not {(one.inode, one.port) for one in wide.values()} - self._judged:
            return
        for pid in self._pids():
            for inode in inodes(pid) & wide.keys():
                key = (inode, wide[inode].port)
                if key not in self._judged:
                    self._judged.add(key)
                    self._judge(Exposed(wide[inode], pid, _command(pid)))

    def _judge(self, one: Exposed) -> None:
        known = next((known for known in self._known if known.command.search(one.command)), None)
        if known is None:
            self.exposed.append(one)
        else:
            self.tolerated[known.who] = one

    def _pids(self) -> list[int]:
        return [os.getpid(), *holding(self._variable)]

    def _look_forever(self) -> None:
        try:
            while not self._done.wait(self._every_s):
                self.look()
        except BaseException as error:
            self._error = error


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _address(text: str) -> str:
    """``0100007F`` and ``00000000000000000000000001000000``: words of 32 bits in the machine's own order (little-endian here)."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    return str(IPv4Address(words[0]) if len(words) == 1 else IPv6Address(b"".join(words)))
