"""A deployment of stand-ins loses, restarts and changes workers while requests run, and says before what it will do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from labkit.errors import HardwareError, LaunchError, ResplitError, SpecError
from labkit.serve.deployment import CalledOff, Deployment, Draining, Patience, Starting
from labkit.serve.engines.base import Command, EngineOptions, StepLimits, WorkerSpec
from labkit.serve.models import ServedModel
from labkit.serve.ports import claim_port
from labkit.spec import Role, Topology
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import marked, until

Deploy = Callable[..., Deployment]


def kill(deployment: Deployment, name: str) -> None:
    (victim,) = (worker for worker in deployment.workers if worker.name == name)
    os.kill(victim.tree.pid, signal.SIGKILL)
    until(lambda: name in deployment.dead, f"the death of {name}")


class Load:
    """Requests one after the other to wherever the deployment serves, until it is left."""

    def __init__(self, deployment: Deployment) -> None:
        self.url, self.failed, self.ok = deployment.url, 0, 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def follow(self, deployment: Deployment) -> None:
        self.url = deployment.url

    def _run(self) -> None:
        body = {"model": "fake", "prompt": [1, 2, 3], "max_tokens": 2}
        while not self._end.is_set():
            try:
                code = httpx.post(f"{self.url}/v1/completions", json=body, timeout=10, trust_env=False, verify=False).status_code
            except httpx.HTTPError:
                code = 0
            self.ok, self.failed = self.ok + (code == 200), self.failed + (code != 200)

    def __enter__(self) -> Load:
        self._thread.start()
        until(lambda: self.ok > 2, "the first answers")
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def test_a_dead_worker_is_restarted_while_the_others_serve(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("3A")
    before = {worker.name: worker for worker in deployment.workers}
    with Load(deployment) as load:
        kill(deployment, "w1")
        assert "w1 died while serving: it was killed by SIGKILL" in deployment.failures[0].what
        assert repr(deployment).count("dead") == 1
        failed_at: list[int] = []

        def follow(now: Deployment) -> None:
            load.follow(now)
            failed_at.append(load.failed)

        plan = deployment.plan_restart("w1")
        assert "restarts w1 (dead)" in plan.text
        assert "2A serves meanwhile" in plan.text
        assert (plan.meanwhile, plan.ends, plan.reloads_weights) == (Topology("2A"), (), True)
        done = deployment.restart("w1", on_switch=follow)
        served = load.ok
        until(lambda: load.ok > served + 3, "answers")
        assert len(failed_at) == 2, "first the others alone, then all"
        assert load.failed <= failed_at[0] + 1, "the others serve without failure meanwhile"
    assert done.plan == plan
    assert [row.worker for row in done.proof] == ["w0", "w1", "w2"]
    assert (deployment.verified, deployment.failures, deployment.dead, str(deployment.topology)) == (True, (), {}, "3A")
    after = {worker.name: worker for worker in deployment.workers}
    assert (after["w1"].url, after["w1"].spec.devices) == (before["w1"].url, before["w1"].spec.devices)
    assert [after[name].tree.pid == before[name].tree.pid for name in after] == [True, False, True]
    assert deployment.epoch == 2
    assert len(marked(engine.mark)) == 2 * 4


def test_without_a_split_of_the_same_roles_the_old_router_stays_until_the_worker_is_back(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("1P1D")
    kill(deployment, "w1")
    plan = deployment.plan_restart("w1")
    assert plan.meanwhile is None
    assert "no worker serves meanwhile, and requests fail" in plan.text
    engine.faults = {"w1": ["--exit", "7"]}
    with pytest.raises(LaunchError, match=r"w1 died while .*: it exited with code 7"):
        deployment.restart("w1")
    assert (deployment.epoch, list(deployment.dead)) == (0, ["w1"])
    assert deployment.workers[0].tree.alive
    engine.faults = {}
    deployment.restart("w1")
    assert (deployment.verified, deployment.roles) == (True, {"w0": Role.PREFILL, "w1": Role.DECODE})


@pytest.mark.parametrize(
    ("topology", "dead", "left", "roles"),
    [
        ("2A", "w0", "1A", {"w1": "A"}),
        ("1P2D", "w2", "1P1D", {"w0": "P", "w1": "D"}),
        ("1P2D", "w0", "1P1D", {"w1": "P", "w2": "D"}),
        ("1P1D", "w0", "1A", {"w1": "A"}),
        ("2P1D", "w2", "1P1D", {"w0": "P", "w1": "D"}),
    ],
)
def test_the_survivors_serve_on_and_the_dead_one_comes_back(
    deploy: Deploy, topology: str, dead: str, left: str, roles: dict[str, str]
):
    deployment = deploy(topology)
    whole = deployment.roles
    kill(deployment, dead)
    assert deployment.survivors == Topology(left)
    plan = deployment.plan(left)
    assert (plan.kind, plan.starts, plan.ends) == ("swap_router", (), ())
    assert f"leaves out {dead} (dead)" in plan.text
    deployment.resplit(left)
    assert {name: str(role) for name, role in deployment.roles.items()} == roles
    assert (deployment.verified, deployment.failures, list(deployment.dead)) == (True, (), [dead])
    assert deployment.accelerators == len(roles)
    with Load(deployment) as load:
        deployment.restart(dead, on_switch=load.follow)
        assert load.failed == 0
    assert (deployment.roles, str(deployment.topology), deployment.verified) == (whole, topology, True)


def test_two_dead_come_back_one_by_one_or_together(deploy: Deploy):
    deployment = deploy("4A")
    kill(deployment, "w1")
    kill(deployment, "w3")
    assert str(deployment.survivors) == "2A"
    deployment.restart("w3")
    assert (list(deployment.roles), list(deployment.dead), str(deployment.topology)) == (["w0", "w2", "w3"], ["w1"], "3A")
    kill(deployment, "w0")
    assert "restarts w0, w1 (dead)" in deployment.plan("1P3D").text
    deployment.resplit("1P3D")
    assert (len(deployment.roles), deployment.dead, deployment.verified) == (4, {}, True)


def test_a_restart_that_fails_leaves_the_survivors_serving(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A")
    kill(deployment, "w1")
    engine.faults = {"w1": ["--exit", "7"]}
    with Load(deployment) as load:
        with pytest.raises(LaunchError, match=r"w1 died while .*: it exited with code 7"):
            deployment.restart("w1", on_switch=load.follow)
        served, failed = load.ok, load.failed
        until(lambda: load.ok > served + 3, "answers")
        assert load.failed == failed
    assert (str(deployment.topology), deployment.failures, list(deployment.dead)) == ("1A", (), ["w1"])
    engine.faults = {}
    deployment.restart("w1")
    assert (str(deployment.topology), deployment.verified) == ("2A", True)


def call_off_at(stage: type, told: list[Starting | Draining]) -> Patience:
    """Calls off when it is first told of a stage."""

    def tell(now: Starting | Draining) -> None:
        told.append(now)
        if isinstance(now, stage):
            patience.call_off.set()

    patience = Patience(60.0, tell)
    return patience


def test_a_start_that_is_called_off_leaves_what_serves(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A")
    engine.faults = {"w2": ["--never-ready"]}
    told: list[Starting | Draining] = []
    with Load(deployment) as load:
        with pytest.raises(CalledOff, match="called off while w2 started"):
            deployment.change("3A", on_switch=load.follow, patience=call_off_at(Starting, told))
        served = load.ok
        until(lambda: load.ok > served + 3, "answers")
        assert load.failed == 0
    assert "w2" in str(told[0])
    assert [worker.name for worker in deployment.workers] == ["w0", "w1"]
    assert (str(deployment.topology), deployment.epoch, deployment.dead, deployment.failures) == ("2A", 0, {}, ())
    assert len(marked(engine.mark)) == 2 * 3, "two workers and a router, each with its supervisor"
    engine.faults = {}
    assert deployment.change("3A").after == Topology("3A")


def test_a_restart_that_is_called_off_leaves_the_survivors_and_the_cause_of_death(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A")
    kill(deployment, "w1")
    engine.faults = {"w1": ["--never-ready"]}
    with pytest.raises(CalledOff):
        deployment.restart("w1", patience=call_off_at(Starting, []))
    assert (str(deployment.topology), list(deployment.dead)) == ("1A", ["w1"])
    assert "SIGKILL" in deployment.dead["w1"].what, "it died of what it died of"
    engine.faults = {}
    before = deployment.workers[1].url
    deployment.restart("w1")
    assert deployment.workers[1].url == before, "it has its ports again"
    assert (str(deployment.topology), deployment.verified) == ("2A", True)


def test_where_nothing_serves_meanwhile_calling_off_says_so(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A", cores=2)
    engine.faults = {"w2": ["--never-ready"], "w0": ["--never-ready"]}
    assert deployment.plan("1A@tp2").meanwhile is None
    with pytest.raises(CalledOff):
        deployment.change("1A@tp2", patience=call_off_at(Starting, []))
    assert (deployment.roles, deployment.workers) == ({}, ())
    engine.faults = {}
    assert deployment.change("2A").after == Topology("2A")
    assert deployment.verified


def test_a_worker_that_runs_can_be_restarted_too(deploy: Deploy):
    deployment = deploy("2A")
    pids = {worker.name: worker.tree.pid for worker in deployment.workers}
    with Load(deployment) as load:
        deployment.restart("w0", on_switch=load.follow)
        assert load.failed == 0
    after = {worker.name: worker.tree.pid for worker in deployment.workers}
    assert (after["w0"] == pids["w0"], after["w1"] == pids["w1"], deployment.verified) == (False, True, True)


def test_one_that_comes_back_and_refuses_is_ended_and_told(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A")
    kill(deployment, "w1")
    engine.faults = {"w1": ["--refuse"]}
    with pytest.raises(LaunchError, match="the fake refuses"):
        deployment.restart("w1")
    assert (str(deployment.topology), list(deployment.dead), deployment.failures) == ("1A", ["w1"], ())
    engine.faults = {}
    deployment.restart("w1")
    assert deployment.verified


def test_ports_of_ended_workers_are_given_back(deploy: Deploy):
    deployment = deploy("3A", cores=3)
    held = {worker.name: worker.spec.port for worker in deployment.workers}
    deployment.resplit("1P+1D@tp2")
    for name in held.keys() - {worker.name for worker in deployment.workers}:
        claim_port(held[name]).close()
    with pytest.raises(HardwareError, match="is busy"):
        claim_port(held["w0"])


def test_an_unknown_worker_is_named(deploy: Deploy):
    with pytest.raises(ResplitError, match="unknown worker 'w7'") as raised:
        deploy("2A").restart("w7")
    assert "w0, w1" in raised.value.remedy


def test_other_options_replace_every_worker_beside_the_old_ones(deploy: Deploy):
    deployment = deploy("2A")
    options = EngineOptions(extra_env={"SEEN": "1"})
    plan = deployment.plan(options=options)
    assert (plan.ends, [place.name for place in plan.starts], plan.meanwhile) == (("w0", "w1"), ["w2", "w3"], Topology("2A"))
    with Load(deployment) as load:
        done = deployment.change(options=options, on_switch=load.follow)
        assert load.failed == 0
    assert done.plan == plan
    for worker in deployment.workers:
        assert b"SEEN=1" in Path(f"/proc/{worker.tree.pid}/environ").read_bytes().split(b"\0")
    assert deployment.options == options
    assert deployment.plan("2A", options).kind == "nothing"
    assert [worker.name for worker in deployment.workers] == ["w2", "w3"]


def test_limits_of_prefill_workers_restart_those_alone_and_follow_the_role(deploy: Deploy):
    deployment = deploy("1P1D", cores=2)
    limits = StepLimits(max_num_batched_tokens=64, max_num_seqs=2)
    options = EngineOptions(max_num_seqs=9, prefill=limits)
    assert [place.name for place in deployment.plan(options=EngineOptions(prefill=limits)).starts] == ["w0"]
    deployment.change(options=options)
    given = {worker.name: (worker.options.max_num_batched_tokens, worker.options.max_num_seqs) for worker in deployment.workers}
    assert given == {"w0": (64, 2), "w1": (None, 9)}
    assert deployment.plan("1P1D", options).kind == "nothing"
    assert [place.name for place in deployment.plan("2A").starts] == ["w0"]  # it was started for another role
    deployment.resplit("2A")
    assert [worker.options for worker in deployment.workers] == [EngineOptions(max_num_seqs=9)] * 2
    assert deployment.options == options  # and the next split with a prefill worker has them again
    with pytest.raises(SpecError, match="max_num_seqs = 0"):
        StepLimits(max_num_seqs=0)


def test_in_place_a_worker_comes_back_on_its_devices_though_others_are_free(deploy: Deploy):
    deployment = deploy("1A")
    options, before = EngineOptions(max_num_seqs=9), deployment.devices_by_worker
    assert [place.name for place in deployment.plan(options=options).starts] == ["w1"]
    deployment.change(options=options, in_place=True)
    assert (deployment.devices_by_worker, [worker.name for worker in deployment.workers]) == (before, ["w0"])
    assert deployment.plan(options=options, in_place=True).kind == "nothing"


def test_other_options_on_a_full_node_interrupt_the_service_and_say_so(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A", cores=2)
    options = EngineOptions(extra_env={"SEEN": "1"})
    plan = deployment.plan(options=options)
    assert (plan.ends, [place.name for place in plan.starts], plan.meanwhile) == (("w0", "w1"), ["w0", "w1"], None)
    assert "restarts w0, w1" in plan.text
    assert plan.requests.startswith("requests under way are cut")
    deployment.change(options=options)
    assert (deployment.verified, deployment.options) == (True, options)
    assert len(marked(engine.mark)) == 2 * 3


def test_some_serve_on_while_the_devices_of_others_are_given_to_a_wider_worker(deploy: Deploy):
    deployment = deploy("3A", cores=3)
    plan = deployment.plan("1P+1D@tp2")
    assert (plan.meanwhile, len(plan.keeps), len(plan.ends), [place.tp for place in plan.starts]) == (Topology("1A"), 1, 2, [2])
    assert "1A serves meanwhile" in plan.text
    with Load(deployment) as load:
        deployment.resplit("1P+1D@tp2", on_switch=load.follow)
        assert load.failed == 0
    assert deployment.verified
    assert deployment.accelerators == 3.0
    held = [core for worker in deployment.workers for core in worker.spec.devices.cores]
    assert sorted(held) == [0, 1, 2]


def test_a_smaller_pool_ends_what_it_does_not_need_after_the_swap(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("3A")
    plan = deployment.plan("2A")
    assert (plan.starts, plan.ends, plan.reloads_weights) == ((), ("w2",), False)
    assert "ends w2" in plan.text
    with Load(deployment) as load:
        deployment.resplit("2A", on_switch=load.follow)
        assert load.failed == 0
    assert [worker.name for worker in deployment.workers] == ["w0", "w1"]
    assert len(marked(engine.mark)) == 2 * 3


def test_cores_that_are_shared_keep_those_workers_whose_share_stays(deploy: Deploy):
    deployment = deploy("2A", cores=2)
    pids = {worker.name: worker.tree.pid for worker in deployment.workers}
    said = deployment.plan("3A").text
    assert "w0 and w2 share core 0, and slow each other down" in said
    assert "at least" in said, "it starts on a core that serves meanwhile"
    assert "share core" not in deployment.plan("1P1D").text
    deployment.resplit("3A")
    assert {name: pid for name, pid in ((w.name, w.tree.pid) for w in deployment.workers) if name in pids} == pids
    assert deployment.accelerators == 2.0
    assert sum(worker.spec.devices.shared for worker in deployment.workers) == 2


def test_a_split_of_fewer_workers_leaves_the_others_warm_and_unused(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("1P3D")
    pids = {worker.name: worker.tree.pid for worker in deployment.workers}
    plan = deployment.plan("1P1D", keep_unused=True)
    assert (plan.kind, plan.starts, plan.ends) == ("swap_router", (), ())
    assert plan.text.endswith("leaves out w1 (unused), w2 (unused)")
    with Load(deployment) as load:
        for topology, used in (("1P1D", "w0 w3"), ("2P1D", "w0 w1 w3"), ("1P2D", "w0 w2 w3"), ("3P1D", "w0 w1 w2 w3")):
            assert deployment.change(topology, keep_unused=True, on_switch=load.follow).ready_s is None
            assert (" ".join(deployment.roles), deployment.verified) == (used, True)
            assert deployment.roles["w0"] is Role.PREFILL
            assert deployment.roles["w3"] is Role.DECODE, "no worker's role is taken by one that comes into use"
            assert deployment.accelerators == len(deployment.roles)
        assert load.failed == 0
    assert {worker.name: worker.tree.pid for worker in deployment.workers} == pids
    deployment.change("1P1D", keep_unused=True)
    assert deployment.plan("1P3D").text.endswith("no weights reloaded"), "none is left out"
    deployment.resplit("1P1D")
    assert len(marked(engine.mark)) == 2 * 3, "by default what is not needed ends"


def test_a_worker_that_died_comes_back_beside_unused_ones(deploy: Deploy):
    deployment = deploy("1P3D")
    deployment.change("1P1D", keep_unused=True)
    assert "unused" in repr(deployment)
    kill(deployment, "w0")
    pids = {worker.name: worker.tree.pid for worker in deployment.workers[1:]}
    deployment.restart("w0")
    assert (str(deployment.topology), deployment.roles) == ("1P1D", {"w0": Role.PREFILL, "w3": Role.DECODE})
    assert {worker.name: worker.tree.pid for worker in deployment.workers[1:]} == pids


def test_unused_workers_of_shared_cores_hold_nothing(deploy: Deploy):
    deployment = deploy("1P3D", cores=2)
    deployment.change("1P1D", keep_unused=True)
    assert [worker.computes_on for worker in deployment.serving] == [(0,), (1,)]
    assert deployment.accelerators == 2.0
    deployment.change("2P1D", keep_unused=True)
    assert deployment.accelerators == 2.0


def test_unused_workers_make_room_for_one_that_needs_their_devices(
    deploy: Deploy, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
):
    deployment = deploy("4A", cores=4)
    deployment.change("2A", keep_unused=True)
    before, living = {worker.name: worker for worker in deployment.workers}, []
    command = engine.worker

    def worker(spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> Command:
        living.append({name for name, worker in before.items() if worker.tree.alive})
        return command(spec, model, options)

    monkeypatch.setattr(engine, "worker", worker)
    with Load(deployment) as load:
        deployment.change("2A+1A@tp2", on_switch=load.follow)
        assert load.failed == 0
    assert living == [{"w0", "w1"}], "the unused ones held what it was to hold"
    assert (deployment.topology, deployment.verified) == (Topology("2A+1A@tp2"), True)


def test_workers_that_other_options_replace_are_not_kept(deploy: Deploy):
    deployment = deploy("3A")
    plan = deployment.plan("2A", EngineOptions(max_num_seqs=9), keep_unused=True)
    assert (plan.kind, plan.ends, len(plan.starts)) == ("restart", ("w0", "w1", "w2"), 2)
    limited = EngineOptions(prefill=StepLimits(max_num_seqs=2))
    deployment.change("2P1D", limited)
    plan = deployment.plan("1P1D", limited, keep_unused=True)
    assert (plan.kind, plan.starts) == ("swap_router", ())


def test_a_dead_router_is_replaced(deploy: Deploy):
    deployment = deploy("2A")
    os.kill(deployment.front.tree.pid, signal.SIGKILL)
    until(lambda: deployment.failures, "the death")
    assert deployment.plan().kind == "swap_router"
    assert "another router" in deployment.plan("2A").text
    deployment.resplit("2A")
    assert (deployment.failures, deployment.verified, deployment.epoch) == ((), True, 1)
