"""Supervised process trees: started in a session of their own, ended completely, also when the lab is killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from labkit.errors import OPEN_FILES_REMEDY, LaunchError
from labkit.serve import supervisor

_GRACE_S = 5.0
_TAIL_BYTES = 2**20  # a worker that logs each request writes hundreds of times as much in an afternoon
#: vLLM and its router change their titles, over what /proc shows of their variables; by these a tree is recognised.
_KEPT_ENVIRON = {"SPT_NOENV": "1"}


@dataclass(frozen=True, slots=True)
class Guard:
    """A supervisor that runs: its pipes, and how to wait for its end."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    wait: Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a supervisor is to start: ``argv`` with variables ``env`` on top of the lab's own, its output in ``log``."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    grace_s: float


def execute(order: Order) -> Guard:
    """Start a supervisor that executes the command."""
    return _supervise(order)


def execute_alone(order: Order) -> Guard:
    """As ``execute``, for a fork server: its supervisor spares what has a supervisor of its own."""
    return _supervise(order, "--spare")


def execute_apart(order: Order) -> Guard:
    """As ``execute``, for a process whose own parent may end its children: the supervisor is nobody's child.

    It still ends when this process does, since that holds the other end of its pipe.
    """
    return _apart(_supervise(order, "--apart"))


def execute_alone_apart(order: Order) -> Guard:
    """Both."""
    return _apart(_supervise(order, "--apart", "--spare"))


def _apart(guard: Guard) -> Guard:
    guard.wait()  # what was started here has left
    return Guard(guard.stdin, guard.stdout, guard.stdout.read)


def _supervise(order: Order, *options: str) -> Guard:
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__, *options, str(order.grace_s), str(order.log), *order.argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **_KEPT_ENVIRON, **order.env},
        start_new_session=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    return Guard(guard.stdin, guard.stdout, guard.wait)


def _remedy(error: OSError | None = None) -> str:
    if error is not None and error.errno in (errno.EMFILE, errno.ENFILE):
        return OPEN_FILES_REMEDY
    return "run `labkit doctor`; it names what is missing and the command that brings it"


class Tree(Protocol):
    """A supervised tree of processes, here (``ProcessTree``) or on another machine.

    Attributes:
        name: what messages call it.
        argv: the command, without secrets.
        log: file of this machine that holds the output of the whole tree.
        pid: process id of the root, on the machine that it runs on.
        here: whether that is this machine.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    pid: int
    here: bool

    @property
    def alive(self) -> bool:
        """Whether the root of the tree still runs."""
        ...

    @property
    def exit(self) -> int | None:
        """Exit code of the root (negative: the signal that killed it); ``None`` while it runs or where it is unknown."""
        ...

    @property
    def lost(self) -> LaunchError | None:
        """Why it ended, where that was not its own doing: the machine that it ran on is gone."""
        ...

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing of the tree is left; ``False`` if something still runs after ``timeout_s``."""
        ...

    def terminate(self) -> None:
        """Send TERM to the root alone; nothing where it has ended."""
        ...

    def stop(self) -> None:
        """End the whole tree: TERM, KILL after the grace. Returns when nothing of it is left; calling it again is harmless."""
        ...

    def stop_soon(self) -> None:
        """Ask for the end without waiting, so that several trees end at the same time."""
        ...

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        ...


class ProcessTree:
    """One supervised tree of processes, such as a vLLM worker with its engine core.

    Attributes:
        name: what messages call it.
        argv: the command, without secrets.
        log: file that holds standard output and error of the whole tree.
        pid: process id of the root of the tree.
        scratch: the tree's own temporary folder; it goes with it.
    """

    here = True
    lost: LaunchError | None = None

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        grace_s: float = _GRACE_S,
        start: Callable[[Order], Guard] = execute,
    ) -> None:
        """Start ``argv`` under a supervisor.

        Args:
            name: what messages call it.
            argv: the command; no shell is involved.
            env: variables on top of the lab's own environment.
            log: created with its folder; appended to.
            grace_s: seconds between TERM and KILL when it is stopped.
            start: how: executed, or forked by a fork server.

        Raises:
            LaunchError: the command cannot be executed.
        """
        self.name, self.argv, self.log = name, tuple(argv), log
        self._grace_s = grace_s
        self._ended, self._gone = threading.Event(), threading.Event()
        self._exit: int | None = None
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            self._guard = start(Order(argv=self.argv, env=env, log=log, grace_s=grace_s))
        except OSError as error:
            raise LaunchError(f"{name} cannot be started: {error.strerror or error}", remedy=_remedy(error)) from error
        first = self._read()
        if "pid" not in first:
            self._guard.wait()
            self._close_pipes()
            raise LaunchError(f"{name} cannot be started: {first.get('error', 'its supervisor ended')}", remedy=_remedy())
        self.pid: int = first["pid"]
        self.scratch = Path(first["scratch"])
        self._waiter = threading.Thread(target=self._wait_for_end, name=f"labkit-{name}", daemon=True)
        self._waiter.start()

    @property
    def alive(self) -> bool:
        """Whether the root of the tree still runs."""
        return not self._ended.is_set()

    @property
    def exit(self) -> int | None:
        """Exit code of the root (negative: the signal that killed it); ``None`` while it runs or where it is unknown."""
        return self._exit

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing of the tree is left; ``False`` if something still runs after ``timeout_s``."""
        return self._gone.wait(timeout_s)

    def terminate(self) -> None:
        """Send TERM to the root alone; nothing where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                os.kill(self.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End the whole tree: TERM, KILL after the grace. Returns when nothing of it is left; calling it again is harmless."""
        self.stop_soon()
        if not self._gone.wait(self._grace_s + 15):
            self._kill_tree()

    def join(self, timeout_s: float) -> None:
        """Wait until the supervisor has ended too: behind ``stop``, one that spares others lives on as long as those do."""
        self._waiter.join(timeout_s)

    def stop_soon(self) -> None:
        """Ask for the end without waiting, so that several trees end at the same time."""
        stdin = self._guard.stdin
        if not self._gone.is_set() and not stdin.closed:
            try:
                stdin.write(b"stop\n")
                stdin.flush()
            except (OSError, ValueError):  # the supervisor is gone, or its pipe was closed in this moment
                self._gone.wait(_GRACE_S)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        return tail_of(self.log, lines)

    def __repr__(self) -> str:
        state = "running" if self.alive else f"ended ({self._exit})"
        return f"<{self.name} pid {self.pid} {state}>"

    def _read(self) -> dict[str, Any]:
        line = self._guard.stdout.readline()
        try:
            message = json.loads(line)
        except ValueError:
            return {}
        return message if isinstance(message, dict) else {}

    def _wait_for_end(self) -> None:
        message: dict[str, Any] = {"pid": self.pid}
        while message and "gone" not in message:
            message = self._read()
            if "exit" in message:
                self._exit = message["exit"]
                self._ended.set()
        if message.get("lingers"):
            self._gone.set()
        self._guard.wait()
        if not message:  # the supervisor itself was killed: its child died with it, grandchildren did not
            self._kill_tree()
        self._close_pipes()
        self._ended.set()
        self._gone.set()

    def _kill_tree(self) -> None:
        """Kill what a dead supervisor left: everything in the root's session or with the tree's own TMPDIR."""
        deadline = time.monotonic() + _GRACE_S
        while (left := self._left_over()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _left_over(self) -> list[int]:
        sign = f"TMPDIR={self.scratch}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError, IndexError):
                    state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                    if state != "Z" and (int(session) == self.pid or sign in (entry / "environ").read_bytes().split(b"\0")):
                        found.append(int(entry.name))
        return found

    def _close_pipes(self) -> None:
        for pipe in (self._guard.stdin, self._guard.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def tail_of(log: Path, lines: int) -> str:
    """The last lines of a log, of its last mebibyte at most; nothing where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def new_lines(log: Path, read: int) -> tuple[list[str], int]:
    """Whole lines of a log after ``read`` bytes, and how many bytes are read then."""
    try:
        with log.open("rb") as file:
            file.seek(read)
            fresh = file.read()
    except OSError:
        return [], read
    whole = fresh.rfind(b"\n") + 1
    return fresh[:whole].decode(errors="replace").splitlines(), read + whole


def stop_all(trees: Sequence[Tree]) -> None:
    """End several trees at the same time; returns when nothing of any is left."""
    for tree in trees:
        tree.stop_soon()
    for tree in trees:
        tree.stop()
