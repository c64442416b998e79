"""The lab's hands on another machine: starts supervised processes there, keeps ports, and tells what became of them.

It knows nothing of how it is reached (``remote.py`` calls its methods through a ``Link``). When its process ends, in whatever
way, every supervisor that it started sees the end of its pipe and ends its tree: they have left the agent's own tree before
(``processes.execute_apart``), since who starts an agent may kill its children first.
"""

from __future__ import annotations

import os
import platform
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil

import labkit
from labkit.serve.engines.base import Command
from labkit.serve.fork_server import ForkServers
from labkit.serve.hardware import Node, inspect_node
from labkit.serve.hosts import Lease, LocalHost
from labkit.serve.interpreter import engine_python, versions
from labkit.serve.net import Net
from labkit.serve.own_folders import own_folder
from labkit.serve.processes import Tree, execute_apart, stop_all

_PREFIX: Final = "labkit-node-"
_LOOK_S: Final = 0.1
_MOST_BYTES: Final = 2**18  # of a log in one answer


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a machine says of itself.

    Attributes:
        host: its name.
        boot_id: of its kernel: two agents with the same one are on one machine, and read one clock.
        processes: names the table of its process ids: two agents with the same one and ``boot_id`` know each other's.
        node: its devices.
        net: how its workers are reached.
        labkit, python, engines: versions of the lab and of Python, and of the packages of the engine's interpreter.
        package: folder that holds the lab's package.
        engine_python: interpreter that holds the engines.
        nice: scheduling priority that its workers keep because it cannot be taken back; 0 is the normal one.
    """

    host: str
    boot_id: str
    processes: str
    node: Node
    net: Net
    labkit: str
    python: str
    engines: Mapping[str, str]
    package: str
    engine_python: str
    nice: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A tree that was started there."""

    number: int
    pid: int
    forked: bool


@dataclass(frozen=True, slots=True)
class TreeNews:
    """What is new of a tree: output, and its state."""

    number: int
    output: bytes
    alive: bool
    exit: int | None
    gone: bool


@dataclass(frozen=True, slots=True)
class News:
    """What an agent has to tell."""

    said: tuple[str, ...]
    trees: tuple[TreeNews, ...]


class NodeAgent:
    """Trees and ports of one lab on one machine, until ``close`` or the end of its process."""

    def __init__(self, address: str, *, cores: int | None = None, gpus: int | None = None) -> None:
        """Reachable at ``address``; of the machine's cores and GPUs no more than these are the lab's."""
        self._folder = own_folder(_PREFIX)
        self._said: list[str] = []
        node = inspect_node()
        self._host = LocalHost(
            replace(node, cores=node.cores[:cores], gpus=node.gpus[:gpus]),
            ForkServers(self._folder, self._said.append, apart=True),
            self._said.append,
            net=Net(address, _interface(address)),
            execute=execute_apart,
        )
        self._starting, self._counting = threading.Lock(), threading.Lock()
        self._numbers = 0
        self._trees: dict[int, Tree] = {}
        self._leases: dict[int, Lease] = {}

    def facts(self) -> NodeFacts:
        """What this machine is and has."""
        python = engine_python()
        return NodeFacts(
            host=platform.node(),
            boot_id=boot_id(),
            processes=process_table(),
            node=self._host.node,
            net=self._host.net,
            labkit=labkit.__version__,
            python=platform.python_version(),
            engines=versions(Path(python)),
            package=str(Path(labkit.__file__).parents[1]),
            engine_python=str(python),
            nice=_nice_kept(),
        )

    @property
    def gpus(self) -> tuple[int, ...]:
        """NVML indices of the GPUs that are the lab's."""
        return tuple(gpu.index for gpu in self._host.node.gpus)

    def clock_ns(self) -> int:
        """What this machine's monotonic clock says."""
        return time.perf_counter_ns()

    def lacking(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """Those that do not exist here."""
        return tuple(path for path in paths if not Path(path).exists())

    def receive(self, name: str, files: Mapping[str, bytes]) -> str:
        """Keep a folder of files here until the end, and say where."""
        folder = self._folder / name
        for file, content in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        return str(folder)

    def lease(self, count: int, consecutive: bool, highest: int) -> tuple[int, tuple[int, ...]]:
        """Keep ports; raises HardwareError as ``free_ports``."""
        lease, number = self._host.free_ports(count, consecutive=consecutive, highest=highest), self._next()
        self._leases[number] = lease
        return number, lease.ports

    def give_back(self, number: int) -> None:
        """Give ports back."""
        if (lease := self._leases.pop(number, None)) is not None:
            lease.close()

    def start(self, name: str, command: Command, fork: Command | None) -> Begun:
        """Start a tree; raises LaunchError as ``ProcessTree``."""
        with self._starting:  # two would start two fork servers
            number = self._next()
            begun = self._host.start(name, command, log=self._folder / f"{number}.log", fork=fork)
            self._trees[number] = begun.tree
            return Begun(number, begun.tree.pid, begun.forked)

    def stop_soon(self, number: int) -> None:
        """Ask a tree to end."""
        if (tree := self._trees.get(number)) is not None:
            tree.stop_soon()

    def terminate(self, number: int) -> None:
        """Send TERM to a tree's root."""
        if (tree := self._trees.get(number)) is not None:
            tree.terminate()

    def distrust(self, worker: str, why: str) -> None:
        """Fork no more from what brought up this worker."""
        self._host.distrust(worker, why)

    def forget(self, number: int) -> None:
        """A tree that is gone and whose output has been read."""
        if (tree := self._trees.pop(number, None)) is not None:
            tree.log.unlink(missing_ok=True)

    def follow(self, known: Mapping[int, tuple[int, bool]], wait_s: float) -> News:
        """What is new, as soon as something is, or nothing after ``wait_s``.

        Args:
            known: tree → bytes of its output that were read, and whether it was known to have ended.
            wait_s: longest wait.
        """
        deadline = time.monotonic() + wait_s
        while True:
            said = tuple(self._said)
            news = [new for number in list(self._trees) if (new := self._news(number, *known.get(number, (0, False))))]
            if said or news or time.monotonic() > deadline:
                del self._said[: len(said)]
                return News(said, tuple(news))
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """End everything. Harmless when done twice."""
        stop_all(list(self._trees.values()))
        self._host.close()
        for number in list(self._leases):
            self.give_back(number)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _next(self) -> int:
        with self._counting:
            self._numbers += 1
            return self._numbers

    def _news(self, number: int, read: int, ended: bool) -> TreeNews | None:
        tree = self._trees[number]
        gone, alive = tree.wait(0), tree.alive  # before the log is read: nothing is written to it afterwards
        with suppress(OSError):
            if tree.log.stat().st_size > read:
                with tree.log.open("rb") as log:
                    log.seek(read)
                    return TreeNews(number, log.read(_MOST_BYTES), alive, tree.exit, gone=False)
        return TreeNews(number, b"", alive, tree.exit, gone) if gone or (not alive and not ended) else None


def boot_id() -> str:
    """Names this machine's kernel since it was started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_table() -> str:
    """Names the namespace of the process ids that are known here."""
    return os.readlink("/proc/self/ns/pid")  # noqa: PTH115


def restore(environ: Mapping[str, str], parent: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str | None]:
    """Variables that the parent has otherwise, as it has them; ``None`` for those that it does not have.

    Ray hides GPUs from processes that reserve none, and counts their OpenMP threads by the cores that they reserve.
    """
    return {name: parent.get(name) for name in names if environ.get(name) != parent.get(name)}


def environ_of(pid: int) -> dict[str, str]:
    """Variables that a process was started with; none where they cannot be read."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _interface(address: str) -> str | None:
    if address.startswith("127."):
        return "lo"
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return str(name)
    return None


def _nice_kept() -> int:
    """This process's nice value, where what it starts cannot have the normal one back."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    return 0 if nice <= 0 or os.geteuid() == 0 else nice
