"""A Ray cluster of two nodes on this machine, one core each, ended by process id."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from tests.support.waiting import until

_NODE = "LABKIT_TEST_RAY_NODE"
_START_S = 240  # on a machine that is busy with other work
_TRIES = 3  # Ray itself gives a node 30 s, which cannot be changed
HEAD, OTHER = "127.0.0.2", "127.0.0.3"
_RAYLET = re.compile(r"/raylet/raylet$")


@dataclass
class RayNodes:
    """The cluster.

    Attributes:
        address: of its head.
        mark: its processes, and what its workers start, carry it.
        started: node → process ids of what its ``ray start`` brought up.
    """

    address: str
    mark: str
    started: dict[str, list[int]] = field(default_factory=dict)

    def raylet(self, node: str) -> int:
        """Process id of a node's raylet. Its agents, which hide their variables, are to be ended with the cluster from now on."""
        raylet = next(pid for pid in self.started[node] if _RAYLET.search((_command(pid) or [""])[0]))
        children = psutil.Process(raylet).children() if _runs(raylet) else []
        self.started[node] += [child.pid for child in children if "Agent" in "".join(_command(child.pid))]
        return raylet

    def below(self, node: str) -> set[int]:
        """Living processes of a node that Ray started for its users, with all that they started."""
        return {pid for pid in _marked(f"{_NODE}={self.mark} {node}") if _runs(pid)} - set(self.started[node])

    def all_of(self, node: str) -> set[int]:
        """Living processes of a node: its own, and those that it started for its users."""
        self.raylet(node)
        return {pid for pid in self.started[node] if _runs(pid)} | self.below(node)

    def end(self, *nodes: str) -> None:
        """Kill what is left of these nodes, of both by default, and wait until it is gone."""
        started = {node: pids for node, pids in self.started.items() if node in nodes or not nodes}
        for node, pids in started.items():
            if any(_RAYLET.search((_command(pid) or [""])[0]) for pid in pids):
                self.raylet(node)
        for pid in [pid for node, pids in started.items() for pid in (*pids, *self.below(node))]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not any(_runs(pid) for pids in started.values() for pid in pids), "the end of these nodes", 30.0)


@contextmanager
def two_ray_nodes(mark: str) -> Iterator[RayNodes]:
    """Start the cluster; its processes, and what its workers start, carry ``mark``, by which they are known."""
    with TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        with socket.socket() as chosen:
            chosen.bind((HEAD, 0))
            port = chosen.getsockname()[1]
        nodes = RayNodes(f"{HEAD}:{port}", mark)
        try:
            cores = sorted(os.sched_getaffinity(0))
            _start(nodes, HEAD, mark, cores[0], "--head", "--include-dashboard=false", f"--port={port}", f"--temp-dir={folder}")
            _start(nodes, OTHER, mark, cores[-1], f"--address={nodes.address}")
            yield nodes
        finally:
            nodes.end()


def _start(nodes: RayNodes, address: str, mark: str, core: int, *options: str) -> None:
    command = [str(Path(sys.executable).with_name("ray")), "start", f"--node-ip-address={address}", *options]
    command += ["--num-cpus=1", "--num-gpus=0", "--disable-usage-stats"]
    env = {**os.environ, _NODE: f"{mark} {address}", "no_proxy": f"127.0.0.1,localhost,{HEAD},{OTHER}"}
    for tries_left in reversed(range(_TRIES)):
        try:
            done = subprocess.run(
                command, env=env, capture_output=True, text=True, timeout=_START_S, check=False,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )  # fmt: skip
        finally:  # also what a start leaves that took too long
            nodes.started[address] = sorted(_marked(f"{_NODE}={mark} {address}"))
        if done.returncode == 0:
            return
        assert tries_left, done.stdout + done.stderr
        assert "timed out during startup" in done.stdout + done.stderr, done.stdout + done.stderr
        nodes.end(address)


def _marked(variable: str) -> set[int]:
    sign = variable.encode()
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and sign in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
