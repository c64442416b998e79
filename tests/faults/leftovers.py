"""What a scene left behind: processes, ports, shared memory, temporary files; seen in /proc and on disk, not asked of the lab."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.faults.setting import Setting
from tests.support.waiting import marked, until

_LISTEN = "0A"
_GONE_S = 20.0
_SHM = Path("/dev/shm")
_SYSTEM_TMP = Path("/tmp")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Around:
    """What there was before the scene; others may use the machine too."""

    ports: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    segments: frozenset[str] = field(default_factory=frozenset)
    temporary: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def now(cls) -> Around:
        """The present state."""
        return cls(frozenset(listening()), frozenset(_names(_SHM)), frozenset(_names(_SYSTEM_TMP)))


def left_behind(setting: Setting, before: Around, *, gone_s: float = _GONE_S) -> list[str]:
    """A sentence for each thing that the scene left, after up to ``gone_s`` seconds for it to go."""
    found = []
    if left := _lasting(lambda: marked(setting.mark) | _with_folder(setting.folder), gone_s):
        found += [f"process {pid} is left: {command(pid)}" for pid in sorted(left)]
    if ports := _lasting(lambda: _own_ports(setting, before), 3.0):
        found += [f"port {port} is still listened on" for port, _ in sorted(ports)]
    if segments := _lasting(
        lambda: {name for name in set(_names(_SHM)) - before.segments if not _is_others(_SHM / name, setting)}, 3.0
    ):
        found += [f"/dev/shm/{name} is left" for name in sorted(segments)]
    found += [f"$TMPDIR/{path.relative_to(setting.tmp)} is left" for path in sorted(setting.tmp.rglob("*"))]
    stray = {name for name in set(_names(_SYSTEM_TMP)) - before.temporary if re.match(r"\.?labkit|torch_|vllm", name)}
    if stray and _others_at_work(setting):  # whose a name is in a folder that all share cannot be told then
        stray = set()
    if stray := {name for name in stray if not _is_others(_SYSTEM_TMP / name, setting)}:
        found += [
            f"/tmp/{name} is left" for name in sorted(_lasting(lambda: {n for n in stray if (_SYSTEM_TMP / n).exists()}, 3.0))
        ]
    return found


def listening() -> set[tuple[int, int]]:
    """Port and socket inode of everything that listens for TCP on this machine."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if words[3] == _LISTEN:
                found.add((int(words[1].rpartition(":")[2], 16), int(words[9])))
    return found


def command(pid: int) -> str:
    """Its command line, shortened."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "(gone)"
    return " ".join(words)[:160]


def _own_ports(setting: Setting, before: Around) -> set[tuple[int, int]]:
    """New sockets that listen, unless a process without the scene's mark holds them: that is somebody else's."""
    new = listening() - before.ports
    if not new:
        return set()
    ours = marked(setting.mark)
    holders: dict[int, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            for inode in _sockets(entry):
                holders.setdefault(inode, set()).add(int(entry.name))
    still = listening()  # whoever ended while /proc was read was found to hold nothing
    return {(port, inode) for port, inode in new & still if not holders.get(inode, set()) - ours}


def _sockets(process: Path) -> set[int]:
    found = set()
    try:
        for descriptor in (process / "fd").iterdir():
            try:
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                    found.add(int(match[1]))
            except OSError:
                continue
    except OSError:
        pass
    return found


def _is_others(path: Path, setting: Setting) -> bool:
    """Whether a living process without the scene's mark uses a file or folder: maps or opens it, or names it.

    A name with the mark of another scene is that scene's.
    """
    if "faults-" in path.name and setting.mark not in path.name:
        return True
    sign, ours = str(path).encode(), marked(setting.mark)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in ours:
            continue
        try:
            if sign in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes() + (entry / "maps").read_bytes():
                return True
            if any(str(descriptor.readlink()).startswith(str(path)) for descriptor in (entry / "fd").iterdir()):
                return True
        except OSError:
            continue
    return False


def _others_at_work(setting: Setting) -> bool:
    """Whether other labs or tests run on this machine, outside of this process and its scene."""
    ours, mine = marked(setting.mark), str(os.getpid())
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and entry.name != mine and int(entry.name) not in ours:
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"labkit" in words or b"pytest" in words or b"tests.faults" in words:
                return True
    return False


def _with_folder(folder: Path) -> set[int]:
    """Processes that name the scene's folder: those that lost its mark."""
    return marked(str(folder))


def _lasting(look: Callable[[], set[T]], gone_s: float) -> set[T]:
    """What ``look`` still finds after waiting for it to find nothing."""
    try:
        until(lambda: not look(), "nothing left", gone_s)
    except AssertionError:
        return look()
    return set()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []
