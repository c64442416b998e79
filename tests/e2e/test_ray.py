"""A Ray cluster of two nodes on this machine, one core and one real worker each: KV cache moves between them; one may die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from labkit.lab import Lab
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Role, Topology, Workload
from labkit.store.run import open_run
from tests.support.listeners import Watch
from tests.support.ray_nodes import HEAD, OTHER, RayNodes, two_ray_nodes
from tests.support.waiting import until

pytestmark = pytest.mark.engine

WORKLOAD = Workload(isl=256, osl=16, rate=0.8, duration_s=12.0)
#: Without shared memory, as between two machines: the nodes are on one.
OVER_TCP = EngineOptions(extra_env={"UCX_TLS": "tcp,self"})


@pytest.fixture(autouse=True)
def _loopback_only(sockets: Watch) -> Iterator[None]:
    """As everywhere, but for Ray's server in each process that is connected to the cluster: this one, and the lab to kill."""
    yield
    sockets.look()
    sockets.exposed = [one for one in sockets.exposed if one.pid != os.getpid() and "nodes=sys.argv" not in one.command]
    sockets.check()


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with two_ray_nodes(uuid.uuid4().hex) as cluster:
        yield cluster


def test_two_nodes_serve_move_the_kv_cache_and_survive_the_death_of_one(nodes: RayNodes, tmp_path: Path) -> None:
    said: list[str] = []
    with Lab(
        "demo", "1P1D", nodes=nodes.address, workload=WORKLOAD, options=OVER_TCP, results=tmp_path, progress=said.append
    ) as lab:
        there = lab.deployment
        assert [worker.url.rpartition(":")[0] for worker in there.workers] == [f"http://{HEAD}", f"http://{OTHER}"]
        assert (there.verified, there.accelerators) == (True, 2.0)
        before = there.counters()
        load = lab.load()
        until(lambda: load.progress and load.progress.done >= 3, "the first answers", 60.0)
        moved = there.counters()["w1"] - before["w1"]
        assert moved.kv_bytes
        assert moved.kv_transfers
        done = lab.resplit("2A")
        assert done.plan.kind == "swap_router"
        measured = load.wait()
        assert measured.failed == 0, measured.counts
        assert sum(measured.counts.values()) > 5
        lab.resplit("1P1D")

        os.kill(nodes.raylet(OTHER), signal.SIGKILL)
        until(lambda: not nodes.below(OTHER), "the end of all that ran on the node", 60.0)
        until(lambda: there.dead, "the news of the death", 60.0)
        assert there.dead["w1"].what.startswith(f"w1 died while serving: node {OTHER} died, and took w1 along")
        assert any(line.startswith(f"node {OTHER} died, and took w1 along") for line in said)
        assert there.survivors == Topology("1A")
        lab.resplit("1A")
        assert there.roles == {"w0": Role.AGGREGATED}
        assert lab.measure(Workload(isl=128, osl=8, rate=1.0, duration_s=3.0)).failed == 0
        sources = {source for source, _ in lab._telemetry.latest()}
        assert sources >= {f"host@{HEAD}", f"host@{OTHER}", "w0", "w1"}
    assert not nodes.below(HEAD) - set(_agents(nodes)), "the tear-down left processes"
    run = open_run(lab.run.path)
    assert [(node["name"], node["first_device"], node["clock_bound_ns"]) for node in run.manifest["hardware"]["nodes"]] == [
        (HEAD, 0, 0),
        (OTHER, 1000, 0),
    ]
    assert any(kind == "fault" and f"node {OTHER} died" in text for _, kind, text in lab.run.notes)


_LAB = """
import sys
from labkit.lab import Lab
with Lab("demo", "1A", nodes=sys.argv[1], results=sys.argv[2]) as lab:
    print("serves", flush=True)
    sys.stdin.read()
"""


def test_a_lab_that_is_killed_leaves_no_worker_on_any_node(nodes: RayNodes, tmp_path: Path) -> None:
    lab = subprocess.Popen(
        [sys.executable, "-c", _LAB, "ray", str(tmp_path)], env={**os.environ, "RAY_ADDRESS": nodes.address},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert lab.stdout is not None
    assert lab.stdin is not None
    with lab.stdin, lab.stdout:
        assert "serves\n" in iter(lab.stdout.readline, "")
        assert nodes.below(HEAD)
        lab.kill()
        lab.wait()
    until(lambda: not nodes.below(HEAD) - set(_agents(nodes)), "the end of what the lab had started on the node", 60.0)


def _agents(nodes: RayNodes) -> list[int]:
    """Ray's own processes that come and go: its idle workers, which it keeps for the next user."""
    found = []
    for pid in nodes.below(HEAD):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if title.startswith("ray::") or "ray/_private" in title or "default_worker.py" in title:
            found.append(pid)
    return found
