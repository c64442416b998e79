"""Fork servers: a process with the engine imported, from which workers are forked in the time that an import would take again."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from labkit.errors import LaunchError
from labkit.serve import forking, supervisor
from labkit.serve.engines.base import Command
from labkit.serve.engines.failures import explain
from labkit.serve.interrupts import held_back
from labkit.serve.processes import Guard, Order, ProcessTree, execute_alone, execute_alone_apart

#: ``0`` in the lab's environment: workers are never forked.
VARIABLE = "LABKIT_FORK_SERVER"
_POLL_S = 0.05
_READY_S = 600.0  # a first import after an installation compiles for minutes
_ANSWER_S = 30.0  # a fork takes milliseconds
_LINGER_S = 5.0  # a supervisor sees the end of the last one that it spared in milliseconds
_SAID_BYTES = 65536


class NoFork(LaunchError):
    """A fork server cannot be used; workers are started the plain way."""


class Silent(NoFork):
    """A fork server takes requests and does not fork: it is stopped, or hangs."""


class ForkServer:
    """One process that has imported the engine, supervised like a worker. ``start`` forks.

    Attributes:
        load_s: seconds that its imports took.
        tree: its process.
    """

    def __init__(
        self, command: Command, log: Path, keep_waiting: Callable[[], None] = lambda: None, *, apart: bool = False
    ) -> None:
        """Start it, ``apart`` from this process's tree or not, and wait until it has imported the engine.

        Args:
            command, log: of its process.
            keep_waiting: called while that lasts; what it raises ends the process.

        Raises:
            NoFork: it died, or refuses to fork, with the reason.
        """
        self._turn, self._script = threading.Lock(), command.argv[1]
        self._socket: socket.socket | None = None
        start = execute_alone_apart if apart else execute_alone
        with ExitStack() as undo:
            with held_back():
                self.tree = ProcessTree("fork server", command.argv, env=command.env, log=log, start=start)
                undo.callback(self.close)
            self._socket = self._connect(keep_waiting)
            hello = self._greeting(self._socket)
            self.load_s: float = hello["load_s"]
            undo.pop_all()

    @property
    def alive(self) -> bool:
        """Whether it can fork."""
        return self.tree.alive

    def start(self, order: Order) -> Guard:
        """Fork a worker instead of executing ``order.argv``, which names the same script; for ``ProcessTree``.

        Raises:
            NoFork: the fork server is gone.
            Silent: it does not answer in time.
        """
        assert self._socket is not None
        ours_in, theirs_out, theirs_in, ours_out = *os.pipe(), *os.pipe()
        request: dict[str, Any] = {
            "argv": order.argv[order.argv.index(self._script) + 1 :],
            "env": dict(order.env),
            "log": str(order.log.absolute()),
            "grace_s": order.grace_s,
            "tmp": tempfile.gettempdir(),
            "supervisor": [sys.executable, supervisor.__file__],
        }
        try:
            with self._turn:
                socket.send_fds(self._socket, [json.dumps(request).encode()], [theirs_in, theirs_out])
        except OSError as error:
            os.close(ours_in)
            os.close(ours_out)
            raise NoFork(f"the fork server does not take requests: {error.strerror}", remedy=f"read {self.tree.log}") from None
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        answers = select.poll()
        answers.register(ours_in, select.POLLIN)
        if not answers.poll(_ANSWER_S * 1e3):  # what it may fork later finds its pipe closed, and ends
            os.close(ours_in)
            os.close(ours_out)
            raise Silent(f"the fork server has not forked within {_ANSWER_S:g} s", remedy=f"read {self.tree.log}")
        stdout = os.fdopen(ours_in, "rb")
        return Guard(os.fdopen(ours_out, "wb"), stdout, stdout.read)

    def close(self) -> None:
        """End it. Workers that it forked have supervisors of their own and go on."""
        if self._socket is not None:
            self._socket.close()
        self.tree.stop()

    def _connect(self, keep_waiting: Callable[[], None]) -> socket.socket:
        deadline = time.monotonic() + _READY_S
        path = self.tree.scratch / forking.SOCKET
        while True:
            keep_waiting()
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                channel.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                channel.close()
            except OSError as error:
                channel.close()
                raise NoFork(f"the fork server cannot be reached: {error}", remedy="use a shorter TMPDIR") from None
            else:
                return channel
            if not self.tree.wait(_POLL_S) and self.tree.alive and time.monotonic() < deadline:
                continue
            raise self.failure()

    def _greeting(self, channel: socket.socket) -> dict[str, Any]:
        try:
            hello: dict[str, Any] = json.loads(channel.recv(_SAID_BYTES))
        except (OSError, ValueError):
            raise self.failure() from None
        if "refused" in hello:
            raise NoFork(str(hello["refused"]), remedy=f"read {self.tree.log}")
        return hello

    def failure(self) -> NoFork:
        """Why it ended."""
        why = explain(self.tree.log_tail(), self.tree.exit)
        return NoFork(f"the fork server died: {why.cause}", remedy=f"{why.remedy}; its log: {self.tree.log}")


class ForkServers:
    """The fork server of one deployment, replaced by another where workers need another environment to import the engine in.

    Attributes:
        load_s: seconds that the last one took to import the engine; ``None`` before.
    """

    def __init__(
        self, logs: Path, progress: Callable[[str], None], environ: Mapping[str, str] = os.environ, *, apart: bool = False
    ) -> None:
        """Nothing starts before a worker is wanted.

        Args:
            logs: folder for a log of each.
            progress: takes a line for the user.
            environ: the lab's variables; ``LABKIT_FORK_SERVER=0`` among them turns all forking off.
            apart: whether they leave this process's tree (``processes.execute_apart``).
        """
        self.load_s: float | None = None
        self._logs, self._progress, self._environ, self._apart = logs, progress, environ, apart
        self._servers: dict[Hashable, ForkServer | None] = {}  # by command and variables; None: not to be tried again
        self._closed: list[ForkServer] = []  # supervisors of these may wait for workers that go on

    def server(self, command: Command | None, keep_waiting: Callable[[], None] = lambda: None) -> ForkServer | None:
        """The fork server with this command, started where there is none that lives; ``None``: start the plain way.

        Why not is told through ``progress``, once for each command. What ``keep_waiting`` raises while it starts is passed on.
        """
        if command is None or self._environ.get(VARIABLE) == "0":
            return None
        key = (command.argv, frozenset(command.env.items()), frozenset(self._environ.items()))
        found = self._servers.get(key)
        if found is None and key in self._servers:
            return None
        if found is not None and found.alive:
            return found
        if found is not None:
            self._progress(f"fork server: {found.failure().what}; another one is started")
        for other in self._servers.values():  # its workers go on without it
            if other is not None:
                self._close(other)
        self._servers = {known: other for known, other in self._servers.items() if other is None}
        server: ForkServer | None = None
        try:
            server = self._begin(command, keep_waiting)
        except LaunchError as error:
            self._progress(f"fork server: not used, workers import the engine themselves: {error.what}")
        self._servers[key] = server
        return server

    def distrust(self, server: ForkServer, why: str) -> None:
        """Fork no more workers from this one; they are started the plain way from now on."""
        if server in self._servers.values():
            self._progress(f"fork server: not used any more, workers import the engine themselves: {why}")
            self._servers = {key: None if known is server else known for key, known in self._servers.items()}
            self._close(server)

    def close(self) -> None:
        """End all of them, down to the last supervisor; their workers should be gone by then."""
        for server in self._servers.values():
            if server is not None:
                self._close(server)
        for server in self._closed:
            server.tree.join(_LINGER_S)
        self._servers, self._closed = {}, []

    def _close(self, server: ForkServer) -> None:
        server.close()
        self._closed.append(server)

    def _begin(self, command: Command, keep_waiting: Callable[[], None]) -> ForkServer:
        self._progress("fork server: imports the engine, once for all workers")
        began = time.monotonic()
        begun = len(list(self._logs.glob("fork-server*.log")))
        log = self._logs / (f"fork-server-{begun + 1}.log" if begun else "fork-server.log")
        server = ForkServer(command, log, keep_waiting, apart=self._apart)
        self.load_s = time.monotonic() - began
        self._progress(f"fork server: ready after {self.load_s:.1f} s")
        return server
