"""The processes of a scene by the part they play, found in /proc without asking the lab.

What labkit has of them: the supervisor of each tree, workers with what is below them, router or frontend, load shards (which
also write requests and chunks), the telemetry sampler (which also writes samples and spans), the fork server, and the kernel
(which writes events, manifest and, at the end, Parquet): there is no writer process of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.waiting import marked

Role = Literal[
    "worker", "engine core", "router", "supervisor", "load shard", "telemetry sampler", "fork server", "kernel", "papermill"
]
_SESSION, _THREADS = 3, 17  # of /proc/PID/stat, counted from behind the command's name
_LOG = re.compile(r"/logs/(?P<stem>[\w.-]+?)\.log$")


@dataclass(frozen=True, slots=True)
class Process:
    """A living process: ``name`` is that of its log (``w0``, ``router0``), or of its part."""

    pid: int
    name: str


def find(mark: str, role: Role) -> list[Process]:
    """Living processes of this part, in the order of names."""
    found = []
    for pid in marked(mark):
        part = part_of(pid)
        if part is not None and part[0] == role:
            found.append(Process(pid, part[1]))
    return sorted(found, key=lambda one: (one.name, one.pid))


def part_of(pid: int) -> tuple[Role, str] | None:
    """Role and name of a process of the lab; ``None`` for others, and for the dead."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        log = _LOG.search(str(Path(f"/proc/{pid}/fd/1").readlink()))
    except (OSError, ValueError):
        return None
    state, session, threads = fields[0], fields[_SESSION], int(fields[_THREADS])
    if state in "ZX":
        return None
    stem = log["stem"] if log else ""
    if any(word.endswith("/supervisor.py") for word in words[:6]):
        logs = [match["stem"] for word in words if (match := _LOG.search(word))]
        return ("supervisor", logs[0] if logs else "forked")
    if "labkit.lab.load_agent" in words:
        return ("load shard", f"load{words[words.index('labkit.lab.load_agent') + 2]}")
    if "labkit.lab.telemetry_process" in words:
        return ("telemetry sampler", "telemetry")
    if stem.startswith("fork-server"):
        return ("fork server", "fork server") if int(session) == pid else None
    if stem.startswith(("router", "frontend")):
        return ("router", stem) if int(session) == pid else None
    if re.fullmatch(r"w\d+", stem):
        if int(session) == pid:
            return ("worker", stem)
        # forked ones keep the command of the fork server; what only waits (for a fork, for segments to remove) has one thread
        return ("engine core", stem) if threads > 1 or any("EngineCore" in word for word in words) else None
    return None


def descendants(root: int) -> set[int]:
    """Everything below a process, by the kernel's table of parents."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, todo = set[int](), [root]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo += below
    return found
