"""A deployment of stand-ins: launched, proven, re-split under streams, and gone at its end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from labkit.errors import HardwareError, LaunchError, ResplitError, SpecError
from labkit.serve.deployment import CalledOff, Deployment, Draining, Patience
from labkit.serve.engines.base import EngineOptions
from labkit.serve.models import prepare
from labkit.spec import Model, Role, Topology
from tests.support.fake_engine import FakeEngine, fake_node
from tests.support.waiting import marked, open_files, until

Deploy = Callable[..., Deployment]


class Stream:
    """A streamed completion in a thread, with what came of it."""

    def __init__(self, url: str, tokens: int) -> None:
        self.lines: list[str] = []
        self.failure: str | None = None
        self.end_s = 0.0
        self._url, self._tokens = url, tokens
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(lambda: self.lines or self.failure, "the first token")

    def _run(self) -> None:
        body = {"model": "fake", "prompt": [1, 2, 3], "max_tokens": self._tokens, "stream": True}
        try:
            with (
                httpx.Client(trust_env=False, verify=False, timeout=30) as client,
                client.stream("POST", f"{self._url}/v1/completions", json=body) as answer,
            ):
                answer.raise_for_status()
                self.lines += [line for line in self._told(answer) if line]
        except httpx.HTTPError as error:
            self.failure = repr(error)
        self.end_s = time.monotonic()

    def _told(self, answer: httpx.Response) -> Iterator[str]:
        for line in answer.iter_lines():
            if not self.lines and line:
                self.lines.append(line)
            else:
                yield line

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def whole(self) -> bool:
        """Every token and ``[DONE]``."""
        return self.failure is None and len(self.lines) == self._tokens + 1 and self.lines[-1] == "data: [DONE]"


def test_from_launch_through_resplits_to_the_end(deploy: Deploy, engine: FakeEngine, said: list[str]):
    files = open_files()
    deployment = deploy("2A")
    assert (deployment.epoch, deployment.verified, deployment.failures) == (0, True, ())
    assert (deployment.accelerators, deployment.accelerator) == (2.0, "core")
    assert deployment.roles == {"w0": Role.AGGREGATED, "w1": Role.AGGREGATED}
    assert "2 pairs of workers warmed" in said[-1]
    urls, pids = {deployment.url}, [worker.tree.pid for worker in deployment.workers]
    assert [(name, pid) for name, pid, _ in deployment.watched] == list(zip(["w0", "w1"], pids, strict=True))

    switched: list[tuple[str, int, bool]] = []
    before = deployment.counters()
    done = deployment.resplit("1P1D", on_switch=lambda d: switched.append((d.url, d.epoch, d.verified)))
    assert switched == [(deployment.url, 1, False)]
    assert deployment.url not in urls
    urls.add(deployment.url)
    assert (done.plan.kind, deployment.epoch, deployment.verified) == ("swap_router", 1, True)
    assert deployment.roles == {"w0": Role.PREFILL, "w1": Role.DECODE}
    assert done.plan.text in said
    assert done.drained_s is not None
    assert 0 < done.switched_s < done.drained_s < done.proven_s
    work = {name: now - before[name] for name, now in deployment.counters().items()}
    assert (work["w0"].kv_bytes, work["w1"].prompt_computed) == (0, 0)
    assert work["w0"].generated == work["w0"].requests
    assert work["w1"].kv_bytes
    assert "2A → 1P1D" in str(done)
    assert "✗" not in str(done)

    back = deployment.resplit("2A")
    assert (deployment.epoch, deployment.verified, str(back.after)) == (2, True, "2A")
    assert deployment.url not in urls
    assert [worker.tree.pid for worker in deployment.workers] == pids
    assert len(marked(engine.mark)) == 2 * 3  # two workers and one router, each with its supervisor

    assert "w1 aggregated core" in repr(deployment)
    deployment.close()
    deployment.close()
    assert not marked(engine.mark)
    assert repr(deployment) == "<Deployment 2A of fake: closed>"
    assert deployment.failures == ()
    with pytest.raises(LaunchError, match="closed"):
        _ = deployment.url
    until(lambda: open_files() <= files, "the closing of pipes and ports")


def test_the_split_that_serves_already_changes_nothing(deploy: Deploy):
    deployment = deploy("1P1D")
    url = deployment.url
    done = deployment.resplit("1P+1D")
    assert (done.plan.kind, deployment.url, deployment.epoch, done.proof) == ("nothing", url, 0, deployment.proof)


def test_every_worker_of_a_larger_split_is_proven(deploy: Deploy):
    deployment = deploy("1P3D")
    assert [row.role.value for row in deployment.proof] == ["P", "D", "D", "D"]
    assert deployment.resplit("3P1D").proof[2].role is Role.PREFILL
    assert deployment.verified


def test_a_router_that_lies_about_the_split_is_found_out(deploy: Deploy, engine: FakeEngine):
    engine.faults = {"router1": ["--lie"]}
    deployment = deploy("2A")
    with pytest.raises(ResplitError, match="the split 1P1D did not take effect") as raised:
        deployment.resplit("1P1D")
    assert "w1 decode" in raised.value.what
    assert "it served no request" in raised.value.what
    assert not deployment.verified
    assert str(deployment.topology) == "1P1D"
    assert deployment.resplit("2A").after == Topology("2A")
    assert deployment.verified


def test_a_launch_whose_roles_are_not_taken_ends(deploy: Deploy, engine: FakeEngine):
    engine.faults = {"router0": ["--lie"]}
    with pytest.raises(ResplitError, match="the split 1P1D did not take effect"):
        deploy("1P1D")
    assert not marked(engine.mark)


def test_a_stream_on_the_old_router_is_not_cut_while_the_new_one_serves(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A", options=EngineOptions(extra_args=("--token-s", "0.1")))
    stream = Stream(deployment.url, 16)
    beside: list[bool] = []

    def on_switch(now: Deployment) -> None:
        other = Stream(now.url, 2)
        other.join()
        beside.append(other.whole and stream.running)

    called = time.monotonic()
    done = deployment.resplit("1P1D", on_switch=on_switch)
    stream.join()
    assert stream.whole, stream.failure
    assert beside == [True]
    assert deployment.verified
    assert done.drained_s is not None
    assert done.drained_s > done.switched_s
    assert abs(called + done.drained_s - stream.end_s) < 1.0
    assert len(marked(engine.mark)) == 2 * 3


def test_a_stream_longer_than_the_limit_keeps_its_router_and_proves_nothing(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A", options=EngineOptions(extra_args=("--token-s", "0.1")))
    engine.faults = {"router1": ["--lie"]}  # what contradicts the split may come from the old router's streams
    streams = [Stream(deployment.url, 20) for _ in range(2)]
    old = deployment.front
    done = deployment.resplit("1P1D", patience=Patience(0.1))
    assert done.drained_s is None
    assert "not drained" in str(done)
    assert "✗" in str(done)
    assert not deployment.verified
    assert all(stream.running for stream in streams)
    assert old.tree.alive
    for stream in streams:
        stream.join()
    assert all(stream.whole for stream in streams)
    assert old.tree.wait(10)
    assert len(marked(engine.mark)) == 2 * 3


def test_closing_ends_a_router_that_is_still_draining(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A", options=EngineOptions(extra_args=("--token-s", "0.1")))
    stream = Stream(deployment.url, 300)
    deployment.resplit("1P1D", patience=Patience(0.1))
    deployment.close()
    assert not marked(engine.mark)
    stream.join()
    assert not stream.whole


@pytest.mark.parametrize("interrupt", [True, False])
def test_a_drain_that_is_called_off_leaves_what_served_before_serving(deploy: Deploy, engine: FakeEngine, interrupt: bool):
    deployment = deploy("2A", options=EngineOptions(extra_args=("--token-s", "0.1")))
    stream, old, proof = Stream(deployment.url, 30), deployment.front, deployment.proof
    switched: list[tuple[int, str]] = []
    beside: list[Stream] = []
    told: list[Draining] = []

    def follow(now: Deployment) -> None:
        switched.append((now.epoch, now.url))
        if not beside:
            beside.append(Stream(now.url, 20))

    def tell(now: Draining) -> None:
        told.append(now)
        if interrupt:
            raise KeyboardInterrupt
        patience.call_off.set()

    patience = Patience(60.0, tell)
    with pytest.raises(KeyboardInterrupt if interrupt else CalledOff):
        deployment.resplit("1P1D", on_switch=follow, patience=patience)
    assert str(told[0]) == "draining: 1 request left on router0, 0 s of at most 60 s"
    assert (str(deployment.topology), deployment.front, deployment.proof, deployment.verified) == ("2A", old, proof, True)
    assert [epoch for epoch, _ in switched] == [1, 2], "each stretch of serving has a number of its own"
    assert switched[1][1] == deployment.url == old.url
    assert stream.running
    for one in (stream, *beside):
        one.join()
        assert one.whole, "neither router was cut"
    until(lambda: len(marked(engine.mark)) == 2 * 3, "the end of the router that came in vain")
    assert deployment.resplit("1P1D").after == Topology("1P1D")
    assert (deployment.epoch, deployment.verified) == (3, True)


def test_a_pool_that_grew_in_vain_is_what_it_was(deploy: Deploy, engine: FakeEngine, said: list[str]):
    deployment = deploy("2A", options=EngineOptions(extra_args=("--token-s", "0.1")))
    stream, pids = Stream(deployment.url, 30), [worker.tree.pid for worker in deployment.workers]
    patience = Patience(60.0, lambda _: patience.call_off.set())
    with pytest.raises(CalledOff):
        deployment.change("3A", EngineOptions(extra_args=("--token-s", "0.2")), patience=patience)
    assert [worker.tree.pid for worker in deployment.workers] == pids
    assert deployment.options == EngineOptions(extra_args=("--token-s", "0.1"))
    assert deployment.plan("2A").kind == "nothing"
    stream.join()
    assert stream.whole


def test_a_drain_waits_for_the_workers_that_end_and_not_for_those_that_go_on(deploy: Deploy, engine: FakeEngine, said: list[str]):
    deployment = deploy("2A", options=EngineOptions(extra_args=("--token-s", "0.1")))
    streams = [Stream(deployment.url, 70), Stream(deployment.url, 12)]  # in turn: the second is on the worker that ends
    told: list[Draining] = []
    done = deployment.resplit("1A", patience=Patience(60.0, told.append))
    assert {now.ending for now in told} == {("w1",)}
    assert "then w1 ends" in str(told[0])
    assert done.drained_s is None, "one is still on the old router"
    assert [stream.running for stream in streams] == [True, False]
    assert not any("cut" in line for line in said)
    for stream in streams:
        stream.join()
        assert stream.whole


def test_what_is_left_on_a_worker_that_ends_at_the_limit_is_cut_and_that_is_said(deploy: Deploy, said: list[str]):
    deployment = deploy("2A", options=EngineOptions(extra_args=("--token-s", "0.1")))
    streams = [Stream(deployment.url, 100) for _ in range(2)]
    deployment.resplit("1A", patience=Patience(0.3))
    assert "1 request on w1 is cut" in said
    deployment.close()
    for stream in streams:
        stream.join()
        assert not stream.whole


def test_a_larger_pool_starts_only_what_is_missing(deploy: Deploy, engine: FakeEngine, said: list[str]):
    deployment = deploy("2A")
    pids = {worker.name: worker.tree.pid for worker in deployment.workers}
    plan = deployment.plan("1P2D")
    assert (plan.kind, plan.ends, [place.name for place in plan.starts]) == ("restart", (), ["w2"])
    done = deployment.resplit("1P2D")
    assert (done.plan, deployment.verified, deployment.epoch) == (plan, True, 1)
    assert "starts w2" in plan.text
    assert "the present split serves until then" in plan.text
    assert plan.text in said
    assert {worker.name: worker.tree.pid for worker in deployment.workers[:2]} == pids
    assert deployment.roles == {"w0": Role.PREFILL, "w1": Role.DECODE, "w2": Role.DECODE}
    assert deployment.accelerators == 3.0
    assert done.ready_s is not None
    assert done.ready_s < done.switched_s
    assert len(marked(engine.mark)) == 2 * 4


def test_a_router_that_does_not_start_leaves_the_old_split_serving(deploy: Deploy, engine: FakeEngine):
    engine.faults = {"router1": ["--exit", "1"]}
    deployment = deploy("2A")
    with pytest.raises(LaunchError, match="router1 died"):
        deployment.resplit("1P1D")
    assert (str(deployment.topology), deployment.epoch, deployment.verified) == ("2A", 0, True)
    stream = Stream(deployment.url, 3)
    stream.join()
    assert stream.whole
    assert deployment.resplit("1P1D").after == Topology("1P1D")
    assert deployment.epoch == 1


def test_a_new_worker_that_does_not_start_leaves_the_split_serving(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A")
    engine.faults = {"w2": ["--exit", "1"]}
    with pytest.raises(LaunchError, match="w2 died"):
        deployment.resplit("3A")
    assert (str(deployment.topology), deployment.epoch, deployment.verified, deployment.failures) == ("2A", 0, True, ())
    assert list(deployment.dead) == ["w2"]
    stream = Stream(deployment.url, 3)
    stream.join()
    assert stream.whole
    engine.faults = {}
    assert "restarts w2 (dead)" in deployment.plan("3A").text
    deployment.resplit("3A")
    assert (deployment.verified, deployment.dead) == (True, {})


def test_a_pool_on_the_same_devices_is_replaced_and_a_failure_leaves_nothing_running(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A", cores=2)
    plan = deployment.plan("1A@tp2")
    assert (plan.ends, plan.meanwhile) == (("w0", "w1"), None)
    assert "no worker serves meanwhile, and requests fail" in plan.text
    engine.everywhere = ["--exit", "1"]
    with pytest.raises(LaunchError, match="w2 died"):
        deployment.resplit("1A@tp2")
    assert not marked(engine.mark)
    assert "w2 died" in deployment.failures[0].what
    with pytest.raises(LaunchError, match="w2 died"):
        _ = deployment.url
    engine.everywhere = []
    deployment.resplit("1A@tp2")
    assert (deployment.verified, deployment.failures, deployment.accelerators) == (True, (), 2.0)


def test_deaths_while_serving_are_told(deploy: Deploy):
    deployment = deploy("2A")
    os.kill(deployment.workers[1].tree.pid, signal.SIGKILL)
    until(lambda: deployment.failures, "the death")
    (failure,) = deployment.failures
    assert "w1 died while serving: it was killed by SIGKILL" in failure.what
    os.kill(deployment.front.tree.pid, signal.SIGKILL)
    until(lambda: len(deployment.failures) == 2, "the second death")
    assert "router0 died: it was killed by SIGKILL" in deployment.failures[1].what


def test_a_worker_that_refuses_ends_the_launch(deploy: Deploy, engine: FakeEngine):
    engine.faults = {"w1": ["--refuse"]}
    files = open_files()
    with pytest.raises(LaunchError, match="the fake refuses"):
        deploy("2A")
    assert not marked(engine.mark)
    until(lambda: open_files() <= files, "the closing of pipes and ports")


def test_the_asked_port_is_the_first_routers(deploy: Deploy):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    deployment = deploy("1A", port=port)
    assert deployment.url == f"http://127.0.0.1:{port}"


def test_a_busy_port_is_told_before_any_worker_is_started(deploy: Deploy, engine: FakeEngine, said: list[str]):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(HardwareError, match=f"port {other.getsockname()[1]} is busy"):
            deploy("2A", port=other.getsockname()[1])
    assert said == []


def test_more_than_the_node_has_is_refused_or_shared(deploy: Deploy, engine: FakeEngine):
    with pytest.raises(HardwareError, match="2 workers need 2 cores and this node has 1"):
        deploy("2A", cores=1, share=False)
    assert not marked(engine.mark)
    deployment = deploy("2A", cores=1)
    assert deployment.accelerators == 1.0
    assert "(shared)" in repr(deployment)


def test_a_tp_that_does_not_divide_the_model_is_refused(engine: FakeEngine, tmp_path: Path):
    model = prepare(Model("demo"), tmp_path)
    with pytest.raises(SpecError, match="TP 3 does not divide"):
        Deployment(model, Topology("1A@tp3"), engine, fake_node(), logs=tmp_path, progress=lambda _: None)
    assert not marked(engine.mark)


def test_leaving_the_block_ends_it(deploy: Deploy, engine: FakeEngine):
    with deploy("1A") as deployment:
        assert len(marked(engine.mark)) == 4
        assert deployment.devices_by_worker["w0"]["cores"]
        assert deployment.router_metrics == deployment.front.metrics_url
    assert not marked(engine.mark)
