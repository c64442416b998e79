"""The fork server's side in the engine's own process: it has imported what a worker needs and becomes one on request.

Loaded by path with the standard library alone, by an entry script that the engine's interpreter runs. The lab connects to
``$TMPDIR/fork.sock`` and is greeted with one JSON object: ``{"threads": 1, "load_s": …}``, or ``{"refused": why}``. Each request
is one message with two descriptors, the standard input and output of a supervisor (``supervisor.py``). The fork server forks the
supervisor's process, that one forks the worker and then *executes* the supervisor, which so is the worker's parent, small, and
told over the same pipes as one that the lab had started itself. When the lab goes, the connection ends, and the fork server too.

A fork is safe only while the process has one thread and has not touched CUDA; where it has, the fork server refuses and says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SOCKET = "fork.sock"
_MOST_BYTES = 2**20
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ENV_START, _ENV_END = 47, 48  # of /proc/self/stat, counted from behind the command's name
_CUDA_DEVICE = "/dev/nvidia-uvm"


def serve(load: Callable[[], None]) -> list[str]:
    """Load, then fork workers until the lab is gone. Returns only in a worker: its arguments. The fork server itself exits."""
    began = time.monotonic()
    load()
    hello: dict[str, Any] = {"threads": len(thread_names()), "load_s": round(time.monotonic() - began, 3)}
    refused = why_no_fork()
    if refused:
        hello = {"refused": refused}
    gc.collect()
    gc.freeze()  # what was imported stays shared: no collector writes to it
    with contextlib.closing(_accept()) as lab:
        lab.send(json.dumps(hello).encode())
        if refused:
            sys.exit(3)
        return _serve(lab)


def why_no_fork() -> str | None:
    """Why this process must not be forked; ``None`` where it may."""
    names = thread_names()
    if len(names) > 1:
        return f"{len(names)} threads run ({', '.join(names)}), and a fork keeps only one"
    if touched_cuda():
        return "CUDA is initialised, and does not survive a fork"
    return None


def thread_names() -> list[str]:
    """Name of every thread of this process, those of native libraries too."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            names.append((task / "comm").read_text().strip())
    return names


def touched_cuda() -> bool:
    """Whether the CUDA driver holds its device open in this process: seen in its descriptors, without asking CUDA."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(entry) == _CUDA_DEVICE:  # noqa: PTH115
                return True
    return False


def _accept() -> socket.socket:
    path = Path(tempfile.gettempdir()) / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen(1)
        lab, _ = listening.accept()
    path.unlink()
    return lab


def _serve(lab: socket.socket) -> list[str]:
    poll = select.poll()
    poll.register(lab, select.POLLIN | select.POLLHUP)
    supervisors: dict[int, int] = {}  # descriptor → process id
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in supervisors:
                os.waitpid(supervisors.pop(descriptor), 0)
                poll.unregister(descriptor)
                os.close(descriptor)
                continue
            message, pipes, _, _ = socket.recv_fds(lab, _MOST_BYTES, 2)
            if not message:
                sys.exit(0)
            request = json.loads(message)
            try:
                pid = os.fork()
                if pid == 0:
                    for other in supervisors:
                        os.close(other)
                    return _divide(request, pipes, lab)
                ended = os.pidfd_open(pid)
                supervisors[ended] = pid
                poll.register(ended, select.POLLIN)
            except OSError as error:
                os.write(pipes[1], json.dumps({"exit": 127, "error": f"no fork: {error.strerror}"}).encode() + b"\n")
            for pipe in pipes:
                os.close(pipe)


def _divide(request: dict[str, Any], pipes: Sequence[int], lab: socket.socket) -> list[str]:
    """In the forked process: fork the worker, which returns its arguments, and become its supervisor."""
    libc = ctypes.CDLL(None, use_errno=True)
    supervisor, scratch = os.getpid(), ""
    try:
        lab.close()
        os.setsid()
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        scratch = tempfile.mkdtemp(prefix="labkit-", dir=request["tmp"])
        worker = os.fork()
        if worker == 0:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != supervisor:
                os._exit(1)
            for pipe in pipes:
                os.close(pipe)
            _settle(request, scratch)
            argv: list[str] = request["argv"]
            return argv
        for number, pipe in enumerate(pipes):
            os.dup2(pipe, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        python, script = request["supervisor"]
        argv = [python, "-I", "-S", script, "--adopt", str(worker), scratch, str(request["grace_s"])]
        os.execve(python, argv, {**os.environ, **request["env"], "TMPDIR": request["tmp"]})
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(pipes[1], json.dumps({"exit": 127, "error": f"no fork: {error}"}).encode() + b"\n")
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        os._exit(1)  # the worker dies with it


def _settle(request: dict[str, Any], scratch: str) -> None:
    """Session, streams, variables and temporary folder of its own, as a worker has that the lab starts itself."""
    os.setsid()
    for target, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, target)
        os.close(opened)
    before = os.environ.get("TMPDIR", "")
    os.environ.update(request["env"])
    os.environ["TMPDIR"] = scratch
    tempfile.tempdir = None
    _show("TMPDIR", before, scratch)


def _show(name: str, before: str, now: str) -> None:
    """Change a variable where /proc shows it: by its TMPDIR a tree is recognised when its supervisor was killed."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ENV_START]), int(fields[_ENV_END])
    old, new = f"{name}={before}\0".encode(), f"{name}={now}\0".encode()
    place = ctypes.string_at(start, end - start).find(old)
    if place >= 0 and len(old) == len(new):
        ctypes.memmove(start + place, new, len(new))
