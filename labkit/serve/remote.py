"""Machines that the lab reaches through a link to an agent on each (``node_agent.py``), and what runs on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import labkit
from labkit.errors import LabError, LaunchError
from labkit.serve.cluster import Cluster, Member, Placement, join
from labkit.serve.engines.base import Command
from labkit.serve.hardware import Devices
from labkit.serve.hosts import Lease, Started
from labkit.serve.interpreter import engine_python
from labkit.serve.link import Link, NodeLost, clock_of
from labkit.serve.net import Net
from labkit.serve.node_agent import NodeFacts, TreeNews, boot_id, process_table
from labkit.serve.processes import tail_of

_POLL_S: Final = 2.0
#: An answer that comes so much later than it should is told of.
SILENT_S: Final = 10.0
_STOP_S: Final = 30.0
_MOST_SENT: Final = 64 * 2**20


class RemoteTree:
    """A tree on another machine; attributes and methods are those of ``processes.Tree``."""

    def __init__(
        self, host: RemoteHost, number: int, name: str, argv: tuple[str, ...], log: Path, pid: int, held: frozenset[int]
    ) -> None:
        self.name, self.argv, self.log, self.pid, self.here = name, argv, log, pid, host.here
        self.exit: int | None = None
        self.lost: LaunchError | None = None
        self.read, self.held = 0, held
        self._host, self._number = host, number
        self._ended, self._gone = threading.Event(), threading.Event()
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()

    @property
    def alive(self) -> bool:
        """Whether the root of the tree still runs, as far as is known."""
        return not self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing of the tree is left."""
        return self._gone.wait(timeout_s)

    def terminate(self) -> None:
        """Send TERM to the root alone."""
        with suppress(NodeLost):
            if self.alive:
                self._host.link.call("terminate", self._number)

    def stop(self) -> None:
        """End the whole tree, and wait until nothing of it is left."""
        self.stop_soon()
        self._gone.wait(_STOP_S)

    def stop_soon(self) -> None:
        """Ask for the end without waiting."""
        with suppress(NodeLost):
            if not self._gone.is_set():
                self._host.link.call("stop_soon", self._number)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of its output that came here."""
        return tail_of(self.log, lines)

    def hear(self, news: TreeNews) -> None:
        """Take in what the agent tells."""
        if news.output:
            with self.log.open("ab") as log:
                log.write(news.output)
            self.read += len(news.output)
            return
        if not news.alive:
            self.exit = news.exit
            self._ended.set()
        if news.gone:
            self._gone.set()

    def lose(self, why: LaunchError) -> None:
        """Its machine is gone."""
        if not self._gone.is_set():
            self.lost = why
            self._ended.set()
            self._gone.set()

    def __repr__(self) -> str:
        state = "running" if self.alive else f"ended ({self.exit})"
        return f"<{self.name} pid {self.pid} on {self._host.name} {state}>"


class RemoteLease:
    """Ports of another machine."""

    def __init__(self, link: Link, number: int, ports: tuple[int, ...]) -> None:
        self.ports = ports
        self._link, self._number = link, number

    def close(self) -> None:
        """Give them back; nothing where the machine is lost."""
        with suppress(NodeLost):
            self._link.call("give_back", self._number)


class RemoteHost:
    """Another machine; attributes and methods are those of ``hosts.Host``.

    Attributes:
        member: it, among the others.
        facts: what it says of itself.
        here: whether it is the lab's own machine.
        otlp_endpoint: where workers on it send their request spans; ``None``: where those of this machine do.
        clock: its monotonic clock, beside the lab's.
        lost: why it is gone; ``None`` while it answers.
    """

    def __init__(
        self,
        member: Member,
        link: Link,
        facts: NodeFacts,
        *,
        others: Sequence[str],
        progress: Callable[[str], None],
        on_loss: Callable[[LabError], None],
    ) -> None:
        """Begin to follow its trees.

        Args:
            member, link, facts: the machine.
            others: addresses of the other machines.
            progress: takes a line for the user.
            on_loss: takes why it is lost, once.
        """
        self.member, self.link, self.facts, self.name = member, link, facts, member.name
        self.net = Net(facts.net.address, facts.net.interface, tuple(others))
        self.clock, self.here = clock_of(link, facts), (facts.boot_id, facts.processes) == (boot_id(), process_table())
        self.otlp_endpoint: str | None = None
        self.lost: LaunchError | None = None
        self._progress, self._on_loss = progress, on_loss
        self._trees: dict[int, RemoteTree] = {}
        self._sent: dict[str, str] = {}
        self._starting: list[frozenset[int]] = []  # devices of trees whose start has not been answered yet
        self._turn, self._holding, self._closing = threading.Lock(), threading.Lock(), threading.Event()
        self._follower = threading.Thread(target=self._follow, name=f"labkit node {self.name}", daemon=True)
        self._follower.start()

    @property
    def running(self) -> dict[str, int]:
        """Name → process id of each tree's root."""
        with self._turn:
            return {tree.name: tree.pid for tree in self._trees.values() if tree.alive}

    def local(self, devices: Devices) -> Devices:
        """By its own numbers."""
        return self.member.local(devices)

    def free_ports(self, count: int, *, consecutive: bool, highest: int) -> Lease:
        """Ports of its address."""
        number, ports = self.link.call("lease", count, consecutive, highest)
        return RemoteLease(self.link, number, ports)

    def start(
        self,
        name: str,
        command: Command,
        *,
        devices: Devices | None,
        log: Path,
        fork: Command | None,
        keep_waiting: Callable[[], None] = lambda: None,
    ) -> Started:
        """Start a worker there, by the paths that the lab's package, its interpreter and the model have there.

        ``keep_waiting`` is asked before; the import of a fork server there is not broken off.
        """
        keep_waiting()
        argv = self._sendable(command.argv)
        there = Command(argv, command.env)
        held = frozenset((devices.gpus or devices.cores) if devices else ())
        with self._turn:
            self._starting.append(held)
        try:
            self._hold()
            return self._begin(name, there, Command(self._translated(fork.argv), fork.env) if fork else None, log, held)
        except BaseException:
            with self._turn:
                self._starting.remove(held)
            self._hold()
            raise

    def _begin(self, name: str, command: Command, fork: Command | None, log: Path, held: frozenset[int]) -> Started:
        begun = self.link.call("start", name, command, fork)
        tree = RemoteTree(self, begun.number, name, command.argv, log, begun.pid, held)
        with self._turn:
            self._starting.remove(held)
            self._trees[begun.number] = tree
            if self.lost is not None:
                tree.lose(self.lost)
        return Started(tree, begun.forked)

    def distrust(self, worker: str, why: str) -> None:
        """Fork no more from what brought up this worker."""
        with suppress(NodeLost):
            self.link.call("distrust", worker, why)

    def close(self) -> None:
        """End its agent, and with it whatever may be left."""
        if self._closing.is_set():
            return
        self._closing.set()
        with suppress(NodeLost), self._late(0.0, f"needs more than {SILENT_S:g} s to end what runs on it", "has ended it"):
            self.link.call("close")
        self.link.close()
        self._follower.join(timeout=_POLL_S + 5.0)

    def _translated(self, argv: Sequence[str]) -> tuple[str, ...]:
        ours = str(Path(labkit.__file__).parents[1])
        moved = (self.facts.package + word.removeprefix(ours) if word.startswith(f"{ours}/labkit/") else word for word in argv)
        return tuple(self.facts.engine_python if word == str(engine_python()) else word for word in moved)

    def _sendable(self, argv: Sequence[str]) -> tuple[str, ...]:
        """The command with paths of that machine; folders that it lacks are sent, where they are small.

        Raises:
            LaunchError: it lacks one that is not.
        """
        words = self._translated(argv)
        paths = [word for word in words if word.startswith("/") and Path(word).exists()]
        for path in self.link.call("lacking", tuple(paths)):
            self._sent.setdefault(path, self._send(Path(path)))
        return tuple(self._sent.get(word, word) for word in words)

    def _send(self, path: Path) -> str:
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else []
        if not files or sum(file.stat().st_size for file in files) > _MOST_SENT:
            raise LaunchError(
                f"node {self.name} has no {path}",
                remedy="put the model where every node finds it under the same path, such as a shared folder",
            )
        contents = {str(file.relative_to(path)): file.read_bytes() for file in files}
        return str(self.link.call("receive", f"model-{len(self._sent)}", contents))

    def _follow(self) -> None:
        while not self._closing.is_set():
            with self._turn:
                known = {number: (tree.read, not tree.alive) for number, tree in self._trees.items()}
            try:
                with self._late(_POLL_S, f"has not answered for {SILENT_S:g} s", "answers again"):
                    news = self.link.call("follow", known, _POLL_S)
            except LabError as error:
                if not self._closing.is_set():
                    self._lose(error)
                return
            for line in news.said:
                self._progress(f"{self.name}: {line}")
            for new in news.trees:
                self._hear(new)

    @contextmanager
    def _late(self, usual_s: float, late: str, done: str) -> Iterator[None]:
        """Tell where this takes much longer than usual. A machine that hangs may be back, or is lost once it is given up."""
        asked, told = time.monotonic(), threading.Event()

        def tell() -> None:
            told.set()
            self._progress(f"node {self.name} {late}: waiting until it does, or its cluster gives it up")

        timer = threading.Timer(usual_s + SILENT_S, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if told.is_set():
            self._progress(f"node {self.name} {done}, after {time.monotonic() - asked:.0f} s")

    def _hear(self, news: TreeNews) -> None:
        with self._turn:
            tree = self._trees.get(news.number)
            if tree is None:
                return  # it is told again once its start has been answered
            tree.hear(news)
            if news.gone:
                del self._trees[news.number]
        if news.gone:
            self._hold()
            with suppress(NodeLost):
                self.link.call("forget", news.number)

    def _hold(self) -> None:
        """Keep other users of the cluster from what the trees use, those that start included."""
        with self._holding:
            with self._turn:
                used = frozenset[int]().union(*self._starting, *(tree.held for tree in self._trees.values()))
            self.link.hold(used, self.member.node.accelerator_noun)

    def _lose(self, error: LabError) -> None:
        with self._turn:
            living = sorted(tree.name for tree in self._trees.values() if tree.alive)
            along = f", and took {' and '.join(living)} along" if living else ""
            self.lost = LaunchError(f"node {self.name} died{along}: {error.what}", remedy="re-split without it, or launch again")
            for tree in self._trees.values():
                tree.lose(self.lost)
        self._on_loss(self.lost)


class RemoteHosts:
    """The machines of a cluster; methods are those of ``hosts.Hosts``.

    Attributes:
        hosts: all of them, the lost among them.
    """

    def __init__(self, hosts: Sequence[RemoteHost], placement: Placement, end: Callable[[], None] = lambda: None) -> None:
        """``end`` is called when all are closed."""
        self.hosts, self._placement, self._end = tuple(hosts), placement, end
        self._closed = False

    @property
    def node(self) -> Cluster:
        """What those have that are not lost."""
        return join((host.member for host in self.hosts if host.lost is None), self._placement)

    def of(self, devices: Devices) -> RemoteHost:
        """The machine that has these devices."""
        return next(host for host in self.hosts if host.member.has(devices))

    def close(self) -> None:
        """End every agent."""
        if not self._closed:
            self._closed = True
            for host in self.hosts:
                host.close()
            self._end()
