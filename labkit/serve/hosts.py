"""The machines that workers run on: this one alone, or the nodes of a cluster (``remote.py``).

What the lab needs of each: ports that nobody else takes, processes that are supervised, and the devices there are. Everything
else (plans, splits, routers, proofs) is the same wherever a worker runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labkit.errors import LaunchError
from labkit.serve.engines.base import Command
from labkit.serve.fork_server import ForkServer, ForkServers, Silent
from labkit.serve.hardware import Devices, Node
from labkit.serve.net import LOOPBACK, Net
from labkit.serve.ports import free_ports
from labkit.serve.processes import Guard, Order, ProcessTree, Tree, execute


class Lease(Protocol):
    """Ports that are kept until ``close``."""

    ports: tuple[int, ...]

    def close(self) -> None:
        """Give them back. Harmless when done twice."""
        ...


@dataclass(frozen=True, slots=True)
class Started:
    """A worker's processes, and whether a fork server brought them up."""

    tree: Tree
    forked: bool


class Host(Protocol):
    """A machine that workers run on.

    Attributes:
        name: what messages call it; empty for this machine.
        net: how its workers are reached.
        otlp_endpoint: where its workers send their request spans; ``None``: where all do.
    """

    name: str
    net: Net
    otlp_endpoint: str | None

    def free_ports(self, count: int, *, consecutive: bool, highest: int) -> Lease:
        """Ports of its address, as ``ports.free_ports``; LaunchError where the machine is lost."""
        ...

    def start(
        self,
        name: str,
        command: Command,
        *,
        devices: Devices | None,
        log: Path,
        fork: Command | None,
        keep_waiting: Callable[[], None],
    ) -> Started:
        """Start a supervised worker on its own devices; ``fork`` is a fork server's command that may bring it up. Its output
        comes to ``log``, here. What ``keep_waiting`` raises meanwhile is passed on.

        Raises:
            LaunchError: the command cannot be executed, or the machine is lost.
        """
        ...

    def local(self, devices: Devices) -> Devices:
        """The same devices by the numbers that the machine itself knows them by."""
        ...

    def distrust(self, worker: str, why: str) -> None:
        """Fork no more from what brought up this worker."""
        ...


class Hosts(Protocol):
    """All machines of a deployment."""

    @property
    def node(self) -> Node:
        """What they have now, less what was lost."""
        ...

    def of(self, devices: Devices) -> Host:
        """The machine that has these devices."""
        ...

    def close(self) -> None:
        """Give back what was taken of them, when the workers are gone. Harmless when done twice."""
        ...


class LocalHost:
    """This machine, as the only one. Attributes and methods are those of ``Host`` and ``Hosts``."""

    name = ""
    otlp_endpoint: str | None = None

    def __init__(
        self,
        node: Node,
        forks: ForkServers | None = None,
        progress: Callable[[str], None] = lambda _: None,
        *,
        net: Net = LOOPBACK,
        execute: Callable[[Order], Guard] = execute,
    ) -> None:
        """The machine that this process runs on.

        Args:
            node: what workers may use.
            forks: bring workers up without their import of the engine; ``None`` for the plain way.
            progress: takes a line for the user.
            net: whose address their servers bind.
            execute: starts a supervisor.
        """
        self.node, self.net, self._execute = node, net, execute
        self._forks, self._progress = forks, progress
        self._forked_by: dict[str, ForkServer] = {}

    def of(self, _devices: Devices) -> LocalHost:
        """There is no other."""
        return self

    def local(self, devices: Devices) -> Devices:
        """The numbers are the machine's own."""
        return devices

    def free_ports(self, count: int, *, consecutive: bool, highest: int) -> Lease:
        """Ports of the machine's address."""
        return free_ports(count, consecutive=consecutive, highest=highest, address=self.net.address)

    def start(
        self,
        name: str,
        command: Command,
        *,
        devices: Devices | None = None,
        log: Path,
        fork: Command | None,
        keep_waiting: Callable[[], None] = lambda: None,
    ) -> Started:
        """Forked where that works, executed otherwise."""
        server = self._forks.server(fork, keep_waiting) if self._forks else None
        if self._forks is not None and server is not None:
            try:
                tree = ProcessTree(name, command.argv, env=command.env, log=log, start=server.start)
            except Silent as error:  # the next worker would wait as long
                self._forks.distrust(server, error.what)
            except LaunchError as error:
                self._progress(f"{name}: not forked, it imports the engine itself: {error.what}")
            else:
                self._forked_by[name] = server
                return Started(tree, forked=True)
        tree = ProcessTree(name, command.argv, env=command.env, log=log, start=self._execute)
        return Started(tree, forked=False)

    def distrust(self, worker: str, why: str) -> None:
        """Execute workers from now on."""
        if self._forks is not None and (server := self._forked_by.get(worker)) is not None:
            self._forks.distrust(server, why)

    def close(self) -> None:
        """End the fork servers."""
        if self._forks is not None:
            self._forks.close()
