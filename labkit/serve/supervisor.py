"""The guardian of one process tree: ends all of it when the lab says so, or when the lab is gone.

Run as a script with the standard library alone (``python -I -S supervisor.py GRACE_S LOG ARGV…``), one for each tree. With
``--adopt PID SCRATCH GRACE_S`` it guards a child that it has already: a fork server (``forking.py``) forks it and executes this
script in the parent. ``--spare GRACE_S LOG ARGV…`` is for the fork server itself: what has a supervisor of its own below it is
not ended, only waited for. ``--apart`` before either: this script leaves its parent first, for a parent that may end its
children, and takes back what the parent did to its priority.

* standard input is a pipe from the lab. A line ``stop``, or its end (the lab exited, or was killed), ends the tree.
* standard output carries one JSON object a line: ``{"pid": …, "scratch": …}``, ``{"exit": …}`` when the root of the tree
  has ended, and ``{"gone": true}`` when nothing of the tree is left (``"lingers": true`` with it: it waits for what it spares).

Being a child subreaper it inherits what its descendants leave behind, so a worker that is killed cannot hide its own children,
whatever sessions and groups they moved to. The tree's root dies with the supervisor (``PR_SET_PDEATHSIG``). POSIX
shared-memory segments that the tree had mapped are unlinked with it when nobody else maps them. The tree gets a temporary
folder of its own (``TMPDIR``), which goes with it. A folder that the trees of a deployment share (``LABKIT_MEETING``) is for the
lab to remove; where the lab is gone, each supervisor does it as its last act.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MEETING = "LABKIT_MEETING"
_MEETING_PREFIX = "labkit-meeting-"
_SHM = "/dev/shm/"
_SHM_SCAN_S = 5.0
_MOMENT_S = 1.0  # for supervisors that are about to end


def main(grace_s: float, log: str, argv: list[str], *, spare: bool = False) -> int:
    """Start ``argv``, guard it, and return 0 when nothing of it is left."""
    libc, asked = _begin()

    def die_with_me() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    try:
        out = Path(log).open("ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        _say(exit=127, error=f"{log}: {error.strerror}")
        return 0
    scratch = tempfile.mkdtemp(prefix="labkit-")
    with out:
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "TMPDIR": scratch},
                start_new_session=True,
                preexec_fn=die_with_me,
            )
        except OSError as error:
            shutil.rmtree(scratch, ignore_errors=True)
            _say(exit=127, error=f"{argv[0]}: {error.strerror}")
            return 0
    return _until_nothing_is_left(child, grace_s, scratch, asked, spare=spare)


def adopt(pid: int, scratch: str, grace_s: float) -> int:
    """Guard a child that this process has already; ``scratch`` is its temporary folder."""
    _, asked = _begin()
    return _until_nothing_is_left(_Adopted(pid), grace_s, scratch, asked)


def leave() -> None:
    """Go on as a process that is nobody's child, in a session of its own; who started it sees it end."""
    if os.fork():
        os._exit(0)
    os.setsid()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("0")


def _begin() -> tuple[ctypes.CDLL, _Stop]:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    asked = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, asked)
    return libc, asked


def _until_nothing_is_left(child: _Child, grace_s: float, scratch: str, asked: _Stop, *, spare: bool = False) -> int:
    _say(pid=child.pid, scratch=scratch)
    spared = child.pid if spare else None
    segments = _guard(child, asked, spared)
    if child.poll() is not None:
        _say(exit=child.returncode)
    segments |= _mapped_segments(_below(os.getpid(), spared))
    _end_tree(child, grace_s, spared)
    for name in segments:
        _unlink_unused(name)
    shutil.rmtree(scratch, ignore_errors=True)
    meeting = Path(os.environ.get(_MEETING, ""))
    if meeting.name.startswith(_MEETING_PREFIX) and _lab_is_gone():
        shutil.rmtree(meeting, ignore_errors=True)
    if spare and _wait_for_children(_MOMENT_S):
        _say(exit=child.returncode, gone=True, lingers=True)
        _wait_for_children(None)
    else:
        _say(exit=child.returncode, gone=True)
    return 0


def _lab_is_gone() -> bool:
    """Whether nobody holds the other end of the pipe."""
    os.set_blocking(0, False)
    try:
        while os.read(0, 64):  # what it had said before
            pass
    except OSError:
        return False
    return True


def _wait_for_children(timeout_s: float | None) -> bool:
    """Wait for children that have supervisors of their own, which outlive a fork server; whether some are left in the end."""
    deadline = time.monotonic() + (timeout_s or 0.0)
    with contextlib.suppress(ChildProcessError):
        while timeout_s is None or time.monotonic() < deadline:
            if os.waitpid(-1, 0 if timeout_s is None else os.WNOHANG)[0] == 0:
                time.sleep(0.02)
        return True
    return False


class _Adopted:
    """A child that was not started with ``subprocess.Popen``, with the part of its face that is used here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode


_Child = subprocess.Popen[bytes] | _Adopted


class _Stop:
    """A signal handler that remembers that it was called, and wakes the poll through a pipe."""

    def __init__(self) -> None:
        self.wake, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"x")


def _guard(child: _Child, asked: _Stop, spared: int | None) -> set[str]:
    """Wait until the child ends, the lab asks for the end, or the lab is gone. Returns the segments seen meanwhile."""
    ended = os.pidfd_open(child.pid)
    poll = select.poll()
    for descriptor in (0, ended, asked.wake):
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    segments: set[str] = set()
    while not poll.poll(_SHM_SCAN_S * 1000):
        segments |= _mapped_segments(_below(os.getpid(), spared))
        _reap(child)
    os.close(ended)
    return segments


def _end_tree(child: _Child, grace_s: float, spared: int | None) -> None:
    """TERM, then KILL what is left after the grace, until this process has no descendant (of session ``spared``, where given)."""
    me = os.getpid()
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + patience_s
        told: set[int] = set()
        while left := _living(me, child, spared):
            for pid in left:
                if number == signal.SIGKILL or pid not in told:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                told.add(pid)
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
    child.poll()
    _reap(child)


def _living(me: int, child: _Child, spared: int | None) -> list[int]:
    """Descendants that still run, after the dead ones among the adopted have been reaped."""
    child.poll()
    _reap(child)
    return [pid for pid in _below(me, spared) if _state(pid) not in ("Z", "")]


def _reap(child: _Child) -> None:
    """Take note of every adopted process that has died, but leave the root's own end to ``child``."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == child.pid and child.returncode is None:
                return
            os.waitpid(ended.si_pid, 0)


def _below(me: int, session: int | None) -> list[int]:
    """All descendants, or only those of one session."""
    return [pid for pid in _descendants(me) if session is None or _stat(pid)[3:4] == [str(session)]]


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""


def _descendants(root: int) -> list[int]:
    """All processes below ``root``, by the kernel's table of parents."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        if fields := _stat(pid):
            children.setdefault(int(fields[1]), []).append(pid)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _mapped_segments(pids: list[int]) -> set[str]:
    """Paths below /dev/shm that these processes map. By inode: a semaphore is mapped under a name that it has no more."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError), Path(f"/proc/{pid}/maps").open() as lines:
            inodes |= {int(line.split(maxsplit=5)[4]) for line in lines if _SHM in line}
    found = set()
    if inodes:
        for entry in Path(_SHM).iterdir():
            with contextlib.suppress(OSError):
                if entry.stat().st_ino in inodes:
                    found.add(str(entry))
    return found


def _unlink_unused(name: str) -> None:
    """Remove a segment that the tree left, unless another process maps it."""
    if not Path(name).exists():
        return
    if name not in _mapped_segments(_all_pids()):
        with contextlib.suppress(OSError):
            Path(name).unlink()


def _say(**message: object) -> None:
    with contextlib.suppress(OSError):  # the lab may be gone
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--apart"]:
        del sys.argv[1]
        leave()
    match sys.argv[1:]:
        case ["--adopt", pid, scratch, grace]:
            sys.exit(adopt(int(pid), scratch, float(grace)))
        case ["--spare", grace, log, *command]:
            sys.exit(main(float(grace), log, command, spare=True))
        case [grace, log, *command]:
            sys.exit(main(float(grace), log, command))
