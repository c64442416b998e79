"""CPU and memory of the node and of watched process trees, read from ``/proc``.

A worker is a tree: its root, every descendant, and every session that one of them leads, because an engine's core that outlives
its parent (``kill -9``) belongs to init but still burns the worker's cores. Membership is looked up about once a second and
takes at most 1 % of a core; CPU time is read at every tick. A process that vanishes between two looks is no error; one that
is born counts from the next look on (until then as foreign).

*Foreign* CPU is what the node burned beyond the watched trees and the lab itself: the mark of a spoiled measurement, since
``nice`` does not help between sessions. Memory is RSS: pages that two processes share count twice (PSS would not, but reading it
takes the worker's memory-map lock, which it needs for its work).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LAB: Final = "lab"
HOST: Final = "host"
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_LOOK_S: Final = 1.0
_LOOK_SHARE: Final = 100  # a look at all processes is repeated after 100 times what it took, at the earliest


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    session: int
    started: int  # with the pid it names a process for good: pids are used again


@dataclass(frozen=True, slots=True)
class HostReading:
    """The node and the watched trees at one instant.

    Attributes:
        t_ns: when.
        values: source (``host``, ``lab``, a worker) → metric → value. Of a tree: ``cpu_cores`` (cores used since the previous
            reading), ``rss_bytes``, ``processes``, ``threads``. Of the host: ``cpu_busy_fraction``, ``cpu_steal_fraction``,
            ``cpu_iowait_fraction`` (of all cores), ``foreign_cpu_cores``, ``core<n>_busy_fraction``, ``load_1m``,
            ``memory_used_bytes``, ``memory_available_bytes``, ``memory_total_bytes``.
        missing: ``source`` or ``source/metric`` → why it is absent.
    """

    t_ns: int
    values: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str]


class HostSampler:
    """Reads the node tick by tick; rates are over the time since the previous ``read``.

    Args:
        lab_pids: roots of the lab's own trees (the kernel and what it started); by default this process.
        proc: where ``/proc`` is.
    """

    def __init__(
        self,
        lab_pids: Collection[int] = (),
        *,
        proc: Path = Path("/proc"),
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._lab = tuple(lab_pids) or (os.getpid(),)
        self._proc = proc
        self._clock = clock
        self._roots: dict[str, int] = {}
        self._wanted = self._roots
        self._sessions: dict[str, set[int]] = {}  # led by a member once seen
        self._members: dict[str, dict[int, int]] = {}  # source → pid → start time
        self._cpu: dict[tuple[int, int], float] = {}  # (pid, start time) → CPU seconds
        self._cores: dict[str, tuple[float, ...]] = {}
        self._read_ns: int | None = None
        self._look_ns = 0

    def watch(self, roots: Mapping[str, int]) -> None:
        """Follow these trees from the next reading on: name → pid of the root. May be called while another thread reads."""
        self._wanted = dict(roots)

    def members(self, names: Collection[str]) -> frozenset[int]:
        """Process ids of these trees as of the last look. May be called while another thread reads."""
        members = self._members
        return frozenset(pid for name in names for pid in members.get(name, ()))

    def read(self) -> HostReading:
        """One reading; the first has no rates yet."""
        now_ns, wanted = self._clock(), self._wanted
        if wanted is not self._roots:
            self._sessions = {name: led for name, led in self._sessions.items() if self._roots.get(name) == wanted.get(name)}
            self._roots, self._look_ns = wanted, 0
        if now_ns >= self._look_ns:
            self._look()
            self._look_ns = self._clock() + int(max(_LOOK_S * 1e9, _LOOK_SHARE * (self._clock() - now_ns)))
            now_ns = self._clock()
        elapsed_s = None if self._read_ns is None else (now_ns - self._read_ns) / 1e9
        self._read_ns = now_ns
        missing: dict[str, str] = {}
        values: dict[str, Mapping[str, float]] = {}
        used: dict[str, float] = {}
        cpu_now: dict[tuple[int, int], float] = {}
        for name, members in self._members.items():
            values[name], used[name] = self._tree(members, cpu_now, elapsed_s)
            if not values[name]["processes"] and name != LAB:
                missing[name] = f"no process left of the tree of pid {self._roots[name]}"
        self._cpu = cpu_now
        values[HOST] = self._host(None if elapsed_s is None else sum(used.values()), elapsed_s, missing)
        return HostReading(now_ns, values, missing)

    def _look(self) -> None:
        """Who belongs to which tree, from one pass over all processes."""
        processes = self._processes()
        children: dict[int, list[int]] = {}
        for pid, process in processes.items():
            children.setdefault(process.parent, []).append(pid)
        own_session = os.getsid(0)
        taken: set[int] = set()
        found: dict[str, dict[int, int]] = {}
        for name, root in self._roots.items():
            sessions = self._sessions.setdefault(name, set())
            tree = _tree_of([root, *(pid for pid, p in processes.items() if p.session in sessions)], children)
            sessions |= {pid for pid in tree & processes.keys() if processes[pid].session == pid} - {own_session}
            tree &= processes.keys() - taken
            taken |= tree
            found[name] = {pid: processes[pid].started for pid in tree}
        lab = _tree_of(self._lab, children) & processes.keys() - taken
        found[LAB] = {pid: processes[pid].started for pid in lab}
        self._members = found

    def _processes(self) -> dict[int, _Process]:
        found = {}
        for entry in os.scandir(self._proc):
            if entry.name.isdigit() and (stat := self._stat(int(entry.name))) is not None:
                found[int(entry.name)] = _Process(int(stat[1]), int(stat[3]), int(stat[19]))
        return found

    def _stat(self, pid: int) -> list[bytes] | None:
        """Fields of ``/proc/<pid>/stat`` after the command's name (which may hold anything): state is 0."""
        text = _read(f"{self._proc}/{pid}/stat")
        return text[text.rindex(b")") + 2 :].split() if text and b")" in text else None

    def _tree(
        self, members: Mapping[int, int], cpu_now: dict[tuple[int, int], float], elapsed_s: float | None
    ) -> tuple[dict[str, float], float]:
        used_s = rss = 0.0
        alive = threads = 0
        for pid, started in members.items():
            stat = self._stat(pid)
            if stat is None or int(stat[19]) != started or stat[0] in b"ZX":
                continue
            alive, threads, rss = alive + 1, threads + int(stat[17]), rss + int(stat[21]) * _PAGE
            cpu_s = (int(stat[11]) + int(stat[12])) * _TICK_S
            cpu_now[pid, started] = cpu_s
            used_s += max(0.0, cpu_s - self._cpu.get((pid, started), cpu_s))
        values: dict[str, float] = {"processes": alive}
        if alive:
            values |= {"rss_bytes": rss, "threads": threads}
            if elapsed_s:
                values["cpu_cores"] = used_s / elapsed_s
        return values, used_s

    def _host(self, watched_s: float | None, elapsed_s: float | None, missing: dict[str, str]) -> dict[str, float]:
        values: dict[str, float] = {}
        cores = {}
        for line in _read(f"{self._proc}/stat").decode(errors="replace").splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and len(ticks) >= 8:
                cores[name] = tuple(int(tick) * _TICK_S for tick in ticks[:8])
        for name, now in cores.items():
            spent = [max(0.0, b - a) for a, b in zip(self._cores.get(name, now), now, strict=True)]
            total = sum(spent)
            if not total:
                continue
            busy = (total - spent[3] - spent[4] - spent[7]) / total
            if name == "cpu":
                values |= {"cpu_busy_fraction": busy, "cpu_iowait_fraction": spent[4] / total}
                values["cpu_steal_fraction"] = spent[7] / total
                if watched_s is not None and elapsed_s:
                    values["foreign_cpu_cores"] = max(0.0, (busy * total - watched_s) / elapsed_s)
            else:
                values[f"core{name[3:]}_busy_fraction"] = busy
        if not cores:
            missing[f"{HOST}/cpu_busy_fraction"] = f"{self._proc}/stat cannot be read"
        elif elapsed_s and "cpu" in self._cores and not sum(cores["cpu"]):
            missing[f"{HOST}/cpu_busy_fraction"] = f"{self._proc}/stat counts no CPU time (a sandbox?)"
        self._cores = cores
        return values | self._memory_and_load(missing)

    def _memory_and_load(self, missing: dict[str, str]) -> dict[str, float]:
        values: dict[str, float] = {}
        memory = {}
        for line in _read(f"{self._proc}/meminfo").splitlines():
            name, _, rest = line.partition(b":")
            if rest and rest.split()[0].isdigit():
                memory[name] = int(rest.split()[0]) * 1024
        total, available = memory.get(b"MemTotal"), memory.get(b"MemAvailable")
        if total is None or available is None:
            missing[f"{HOST}/memory_used_bytes"] = f"{self._proc}/meminfo cannot be read"
        else:
            values |= {"memory_total_bytes": total, "memory_available_bytes": available, "memory_used_bytes": total - available}
        load = _read(f"{self._proc}/loadavg").split()
        if load:
            values["load_1m"] = float(load[0])
        return values


def _tree_of(roots: Iterable[int], children: Mapping[int, list[int]]) -> set[int]:
    tree: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid not in tree:
            tree.add(pid)
            todo += children.get(pid, ())
    return tree


def _read(path: str) -> bytes:
    """A small file of ``/proc`` in one piece; empty where the process is gone or the file is not for us."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = []
        while part := os.read(fd, 65536):
            parts.append(part)
            if len(part) < 4096 and len(parts) == 1:
                break
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)
