"""Deployments over several machines, by stand-in workers under real agents: same plans, and a lost machine is survived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import labkit.serve.remote as remote
from labkit.errors import HardwareError, LaunchError, SpecError
from labkit.serve.deployment import Deployment
from labkit.serve.engines.base import Command
from labkit.serve.link import Clock, clock_of, facts_of
from labkit.serve.node_agent import restore
from labkit.serve.processes import ProcessTree
from labkit.serve.remote import RemoteHosts
from labkit.spec import Role, Topology
from tests.support.fake_engine import MODEL, FakeEngine, fake_command
from tests.support.stand_in_nodes import StandInLink, stand_in_nodes
from tests.support.waiting import MARK, marked, until

Begin = Callable[..., tuple[Deployment, RemoteHosts]]


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def begin(engine: FakeEngine, tmp_path: Path, said: list[str], lost: list[str]) -> Iterator[Begin]:
    made: list[Deployment | RemoteHosts] = []

    def launch(topology: str = "1P1D", cores: tuple[int, ...] = (1, 1), **options: object) -> tuple[Deployment, RemoteHosts]:
        hosts = stand_in_nodes(cores, progress=said.append, on_loss=lambda error: lost.append(str(error)))
        made.append(hosts)
        deployment = Deployment(
            MODEL, Topology(topology), engine, hosts.node, hosts=hosts,
            logs=tmp_path / "logs", progress=said.append, ready_timeout_s=20.0, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        made.append(deployment)
        return deployment, hosts

    yield launch
    for one in reversed(made):
        one.close()


def test_each_worker_runs_on_a_node_of_its_own_and_answers_at_its_address(begin: Begin, engine: FakeEngine):
    deployment, hosts = begin("1P1D")
    urls = [worker.url.rpartition(":")[0] for worker in deployment.workers]
    assert urls == ["http://127.0.0.2", "http://127.0.0.3"]
    assert deployment.verified
    assert deployment.accelerators == 2.0
    assert [links.held for links in _links(hosts)] == [{0}, {0}]
    assert [pid for _, pid, _ in deployment.watched] == [worker.tree.pid for worker in deployment.workers], (
        "all nodes are this machine"
    )
    assert "Starting fake server" in deployment.workers[1].tree.log_tail(), "the log came here"
    done = deployment.resplit("2A")
    assert done.plan.kind == "swap_router"
    assert deployment.verified
    deployment.close()
    assert not marked(engine.mark)
    assert [links.held for links in _links(hosts)] == [set(), set()]


def test_a_node_that_dies_takes_its_workers_along_and_the_rest_goes_on(begin: Begin, lost: list[str]):
    deployment, hosts = begin("1P1D")
    _links(hosts)[1].die()
    until(lambda: lost, "the news of the death")
    assert lost == ["node 127.0.0.3 died, and took w1 along: it does not answer\n  → re-split without it, or launch again"]
    why = deployment.dead["w1"].what
    assert why == "w1 died while serving: node 127.0.0.3 died, and took w1 along: it does not answer"
    assert [member.name for member in deployment.node.members] == ["127.0.0.2"]
    assert deployment.survivors == Topology("1A")
    done = deployment.resplit("1A")
    assert done.plan.kind == "swap_router"
    assert deployment.roles == {"w0": Role.AGGREGATED}
    assert deployment.verified


def test_a_node_that_hangs_is_told_of_while_it_does_and_when_it_is_back(
    begin: Begin, said: list[str], lost: list[str], monkeypatch: pytest.MonkeyPatch
):
    deployment, hosts = begin("1P1D")
    agent, awake = _links(hosts)[1].agent, threading.Event()
    follow = agent.follow
    monkeypatch.setattr(remote, "SILENT_S", 0.2)
    monkeypatch.setattr(agent, "follow", lambda *args: (awake.wait(60), follow(*args))[1])
    words = "node 127.0.0.3 has not answered for 0.2 s: waiting until it does, or its cluster gives it up"
    until(lambda: words in said, "the word of its silence")
    awake.set()
    until(lambda: any(line.startswith("node 127.0.0.3 answers again, after ") for line in said), "the word of its return")
    assert deployment.dead == {}
    assert lost == []


def test_a_worker_of_a_lost_node_starts_again_elsewhere(begin: Begin, lost: list[str]):
    deployment, hosts = begin("2A", cores=(2, 1))
    _links(hosts)[1].die()
    until(lambda: lost, "the news of the death")
    assert deployment.plan_restart("w1").kind == "restart"
    deployment.restart("w1")
    assert [worker.url.rpartition(":")[0] for worker in deployment.workers] == ["http://127.0.0.2"] * 2
    assert deployment.verified


def test_a_worker_that_dies_alone_is_told_with_its_own_cause(begin: Begin, lost: list[str]):
    deployment, _ = begin("2A")
    os.kill(deployment.workers[1].tree.pid, signal.SIGKILL)
    until(lambda: deployment.dead, "the death")
    assert "it was killed by SIGKILL" in deployment.dead["w1"].what
    assert not lost
    deployment.restart("w1")
    assert not deployment.dead


def test_a_worker_that_cannot_start_leaves_nothing_on_any_node(begin: Begin, engine: FakeEngine):
    engine.faults["w1"] = ("--exit", "3")
    with pytest.raises(LaunchError, match="w1 died while"):
        begin("2A")
    assert not marked(engine.mark)


def test_workers_are_forked_on_each_node_where_the_engine_can(begin: Begin, engine: FakeEngine, said: list[str]):
    engine.forks = ()
    deployment, _ = begin("2A")
    assert [worker.forked for worker in deployment.workers] == [True, True]
    assert "127.0.0.3: fork server: imports the engine, once for all workers" in said


def test_devices_that_others_of_the_cluster_hold_are_refused(begin: Begin, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: StandInLink, devices: frozenset[int], noun: str) -> None:
        if devices:
            raise HardwareError("taken", remedy="wait")

    monkeypatch.setattr(StandInLink, "hold", refuse)
    with pytest.raises(HardwareError, match="taken"):
        begin("2A")
    assert not marked(engine.mark)


def test_small_folders_that_a_node_lacks_are_sent_and_large_ones_named(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, hosts = begin("1A")
    host, folder = hosts.hosts[0], tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "config.json").write_text("{}")
    monkeypatch.setattr(_links(hosts)[0].agent, "lacking", lambda paths: tuple(p for p in paths if p == str(folder)))
    command = Command((*fake_command("idle"), "--say", str(folder / "deep" / "config.json"), str(folder)))
    with monkeypatch.context() as small:
        small.setattr("labkit.serve.remote._MOST_SENT", 1)
        with pytest.raises(LaunchError, match=f"node 127.0.0.2 has no {folder}"):
            host.start("x", command, devices=None, log=tmp_path / "x.log", fork=None)
    tree = host.start("x", command, devices=None, log=tmp_path / "x.log", fork=None).tree
    assert Path(tree.argv[-1]) != folder
    assert (Path(tree.argv[-1]) / "deep" / "config.json").read_text() == "{}"
    tree.stop()
    assert not tree.alive


def test_a_split_that_has_no_room_is_refused_with_the_nearest_and_what_each_node_has(begin: Begin, engine: FakeEngine):
    with pytest.raises(SpecError, match=r"1P\+1D@tp3: a TP group of 3 cores .* 127\.0\.0\.2 has 1, 127\.0\.0\.3 has 2") as raised:
        begin("1P+1D@tp3", cores=(1, 2))
    assert raised.value.remedy.startswith("the nearest that is possible is 1P+1D@tp2; or ")
    assert not marked(engine.mark)


def test_another_version_of_the_lab_is_refused(monkeypatch: pytest.MonkeyPatch):
    link = StandInLink("127.0.0.2", 1)
    try:
        facts = link.call("facts")
        monkeypatch.setattr(link.agent, "facts", lambda: replace(facts, labkit="0.0.1"))
        with pytest.raises(LaunchError, match=r"node x has labkit 0\.0\.1"):
            facts_of({"x": link})
    finally:
        link.close()


def test_clocks_of_one_machine_are_one_and_others_are_compared_with_a_bound(monkeypatch: pytest.MonkeyPatch):
    link = StandInLink("127.0.0.2", 1)
    try:
        facts = link.call("facts")
        assert clock_of(link, facts) == Clock(0, 0)
        ahead_ns, real = 5_000_000_000, link.agent.clock_ns
        monkeypatch.setattr(link.agent, "clock_ns", lambda: real() + ahead_ns)
        clock = clock_of(link, replace(facts, boot_id="another"))
        assert abs(clock.offset_ns + ahead_ns) <= clock.bound_ns
        assert clock.bound_ns > 0
    finally:
        link.close()


_AGENT = """
import sys
from labkit.serve.engines.base import Command
from labkit.serve.node_agent import NodeAgent
agent = NodeAgent("127.0.0.2")
begun = agent.start("w0", Command(tuple(sys.argv[1:])), None)
print(begun.pid, flush=True)
sys.stdin.read()
"""


def test_nothing_outlives_an_agent_that_is_killed_with_its_children(mark: str):
    command = fake_command("idle", "--grandchild", "--ignore-term")
    agent = subprocess.Popen(
        [sys.executable, "-c", _AGENT, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, MARK: mark}
    )
    assert agent.stdout is not None
    assert agent.stdin is not None
    with agent.stdin, agent.stdout:
        assert int(agent.stdout.readline())
        until(lambda: len(marked(mark)) >= 4, "agent, supervisor, worker and its grandchild")
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        assert not children, "Ray kills an actor's children before they can act"
        agent.kill()
        agent.wait()
    until(lambda: not marked(mark), "the end of everything below the agent")


def test_variables_that_ray_changed_are_as_the_node_had_them():
    now = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OTHER": "x"}
    parent = {"OMP_NUM_THREADS": "1"}
    assert restore(now, parent, ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")) == {"CUDA_VISIBLE_DEVICES": None}


def test_a_tree_of_this_machine_is_here():
    assert ProcessTree.here


def _links(hosts: RemoteHosts) -> list[StandInLink]:
    links = [host.link for host in hosts.hosts]
    assert all(isinstance(link, StandInLink) for link in links)
    return links  # type: ignore[return-value]
