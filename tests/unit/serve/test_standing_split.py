"""A frontend that stays, with stand-ins that register: workers come and go under requests, and none fails."""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from labkit.errors import HardwareError, LabError, LaunchError
from labkit.serve.deployment import Deployment, Draining, Patience
from labkit.serve.engines.base import EngineOptions
from labkit.serve.pool import Pool, Worker
from labkit.spec import Role, Topology
from tests.support.fake_engine import MODEL, FakeDynamo, fake_gpu, fake_node
from tests.support.trees import none_left
from tests.support.waiting import until


@pytest.fixture
def engine() -> Iterator[FakeDynamo]:
    engine = FakeDynamo(mark=uuid.uuid4().hex)
    yield engine
    none_left(engine.mark)


@pytest.fixture
def deployment(engine: FakeDynamo, tmp_path: Path, said: list[str]) -> Iterator[Deployment]:
    """Two aggregated workers on two cores."""
    with Deployment(
        MODEL, Topology("2A"), engine, fake_node(2), logs=tmp_path / "logs", progress=said.append, ready_timeout_s=20.0
    ) as deployment:
        yield deployment


class Pump:
    """Requests one after the other on a few threads, until it is left; ``failed`` keeps what went wrong."""

    def __init__(self, url: str, threads: int = 3) -> None:
        self.failed: list[str] = []
        self.done = 0
        self._url, self._ending, self._lock = url, threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self) -> Pump:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        body = {"model": "fake", "prompt": [1, 2, 3], "max_tokens": 6, "stream": True}
        with httpx.Client(trust_env=False, verify=False, timeout=30) as client:
            while not self._ending.is_set():
                try:
                    answer = client.post(f"{self._url}/v1/completions", json=body)
                    whole = answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")
                    why = None if whole else f"{answer.status_code} {answer.text[-200:]}"
                except httpx.HTTPError as error:
                    why = repr(error)
                with self._lock:
                    self.done += 1
                    self.failed += [why] if why else []


def test_every_split_is_reached_under_requests_while_the_frontend_stays(deployment: Deployment, engine: FakeDynamo):
    engine.everywhere = ("--token-s", "0.002")
    url, frontend, meeting = deployment.url, deployment.front.tree.pid, Path(deployment.workers[0].spec.meeting or "")
    assert (meeting.stat().st_mode & 0o777, len(list(meeting.glob("v1/instances/*")))) == (0o700, 2)
    epochs = []
    with Pump(url) as pump:
        for split, names in (
            ("1P1D", {"w2": Role.PREFILL, "w3": Role.DECODE}),
            ("1P2D", {"w2": Role.PREFILL, "w3": Role.DECODE, "w4": Role.DECODE}),
            ("2P2D", {"w2": Role.PREFILL, "w3": Role.DECODE, "w4": Role.DECODE, "w5": Role.PREFILL}),
            ("1P1D", None),
            ("2A", None),
        ):
            before = pump.done
            done = deployment.resplit(split, on_switch=lambda there: epochs.append((there.epoch, there.url)))
            assert deployment.verified, str(done)
            assert done.plan.router_stays
            assert names is None or deployment.roles == names
            assert str(deployment.topology) == str(Topology(split))
            assert not deployment.dead, "one that drained did not die"
            until(lambda before=before: pump.done > before + 3, "requests on the new split")  # type: ignore[misc]
    assert pump.failed == []
    assert epochs == [(number, url) for number in range(1, 6)]
    assert deployment.front.tree.pid == frontend
    deployment.close()
    assert not meeting.exists()


def test_nobody_is_asked_to_end_before_the_frontend_chooses_others(deployment: Deployment, monkeypatch: pytest.MonkeyPatch):
    """And those that decode are not withdrawn before those that prefill for them; addresses stay until the workers go."""
    meeting, gone, drained = Path(deployment.workers[0].spec.meeting or ""), list[str](), list[tuple[int, int]]()
    unlink, drain = Path.unlink, Pool.drain

    def remove(entry: Path, missing_ok: bool = False) -> None:
        if entry.parent == meeting / "v1" / "mdc":
            gone.append(entry.read_text())
        unlink(entry, missing_ok=missing_ok)

    def look(pool: Pool, names: Collection[str]) -> list[Worker]:
        drained.append((len(list(meeting.glob("v1/mdc/*"))), len(list(meeting.glob("v1/instances/*")))))
        return drain(pool, names)

    monkeypatch.setattr(Path, "unlink", remove)
    monkeypatch.setattr(Pool, "drain", look)
    for split in ("1P1D", "2A"):
        deployment.resplit(Topology(split))
    assert gone == ["aggregated", "aggregated", "prefill", "decode"]
    assert drained[::2] == [(2, 4), (2, 4)], "each is asked again when it is to be gone"


def test_a_plan_says_who_starts_and_who_drains(deployment: Deployment):
    plan = deployment.plan("1P1D")
    assert ([place.name for place in plan.starts], plan.ends, plan.kind) == (["w2", "w3"], ("w0", "w1"), "restart")
    assert "starts w2, w3, ends w0, w1, the present split serves until then, the frontend goes on" in str(plan)
    assert {place.devices.cores for place in plan.starts} == {place.devices.cores for place in deployment.plan("2A").keeps}
    assert deployment.plan("2A").kind == "nothing"
    more = deployment.plan("3A")
    assert ([place.name for place in more.starts], more.ends, more.meanwhile) == (["w2"], (), Topology("2A"))
    assert "share core" in str(more)


def test_workers_that_would_find_no_memory_beside_the_others_are_not_started(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("labkit.serve.deployment.free_memory", lambda: 2**30)
    plan = deployment.plan("1P1D")
    assert plan.kind == "impossible"
    assert "2 new workers beside those that serve need 2 GiB for weights and KV cache, and 1 GiB" in str(plan)
    with pytest.raises(HardwareError, match="1 GiB of the node's memory is free"):
        deployment.resplit("1P1D")
    assert deployment.plan("3A").kind == "restart", "one more fits"
    deployment.resplit("1A")  # what ends needs none
    assert deployment.verified


def test_gpus_are_not_shared_by_those_that_come_and_those_that_go(engine: FakeDynamo, tmp_path: Path, said: list[str]):
    node = replace(fake_node(4), gpus=tuple(fake_gpu(n) for n in range(3)), no_gpu=None)
    with Deployment(MODEL, Topology("1P1D"), engine, node, logs=tmp_path, progress=said.append, ready_timeout_s=20.0) as there:
        free = there.plan("1P2D")
        assert ([place.devices.gpus for place in free.starts], free.ends, free.meanwhile) == ([(2,)], (), Topology("1P1D"))
        there.resplit("1P2D")
        shift = there.plan("2P1D")  # the device of a decode worker is free only when that has ended
        assert (len(shift.starts), len(shift.ends), shift.meanwhile) == (1, 1, Topology("1P1D"))
        assert there.resplit("2P1D").proof
        assert "no worker serves meanwhile, and requests fail" in str(there.plan("3A"))


def test_a_stream_ends_on_the_worker_that_drains(deployment: Deployment, engine: FakeDynamo):
    engine.everywhere = ("--token-s", "0.02")
    deployment.resplit("3A")
    engine.everywhere = ()
    slow = next(worker for worker in deployment.workers if worker.name == "w2")
    told: list[Draining] = []
    lines: list[str] = []
    begun = threading.Event()

    def read() -> None:
        body = {"model": "fake", "prompt": [1], "max_tokens": 100, "stream": True}
        headers = {"x-dynamo-worker-instance-id": str(slow.spec.port)}
        with httpx.stream("POST", f"{deployment.url}/v1/completions", json=body, headers=headers, timeout=30) as answer:
            for line in answer.iter_lines():
                lines.append(line)
                begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(10)
    done = deployment.resplit("2A", patience=Patience(tell=told.append))
    reader.join()
    assert lines[-2:] == ["data: [DONE]", ""]
    assert done.drained_s is not None
    assert done.switched_s < done.drained_s, "the others served before it had drained"
    assert told
    assert str(told[0]).startswith("draining: 1 request left on w2")


def test_calling_off_a_drain_ends_the_wait_alone(deployment: Deployment, engine: FakeDynamo, said: list[str]):
    engine.everywhere = ("--token-s", "0.1")
    deployment.resplit("3A")
    slow = next(worker for worker in deployment.workers if worker.name == "w2")
    headers = {"x-dynamo-worker-instance-id": str(slow.spec.port)}
    body = {"model": "fake", "prompt": [1], "max_tokens": 6000, "stream": True}
    with httpx.stream("POST", f"{deployment.url}/v1/completions", json=body, headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()  # a generator that is dropped closes the connection
        next(lines)
        patience = Patience()
        patience.tell = lambda _: patience.call_off.set()
        done = deployment.resplit("2A", patience=patience)
    assert done.drained_s is None
    assert str(deployment.topology) == "2A"
    assert "1 request on w2 is cut" in said


def test_a_change_called_off_before_a_worker_drains_leaves_what_serves(deployment: Deployment, monkeypatch: pytest.MonkeyPatch):
    patience = Patience()
    monkeypatch.setattr(deployment._split, "_progress", lambda _: patience.call_off.set())  # the new pair is warm
    with pytest.raises(LabError, match="before a worker drained"):
        deployment.resplit("1P1D", patience=patience)
    assert (deployment.roles, deployment.epoch) == ({"w0": Role.AGGREGATED, "w1": Role.AGGREGATED}, 0)
    assert [worker.name for worker in deployment.workers] == ["w0", "w1"]


def test_workers_that_cannot_serve_end_and_the_split_before_goes_on(deployment: Deployment, engine: FakeDynamo):
    engine.faults["w3"] = ["--refuse"]
    with pytest.raises(LaunchError, match="the fake refuses"):
        deployment.resplit("1P1D")
    assert [worker.name for worker in deployment.workers] == ["w0", "w1"]
    assert deployment.roles == {"w0": Role.AGGREGATED, "w1": Role.AGGREGATED}
    assert deployment.failures == ()
    assert (
        httpx.post(f"{deployment.url}/v1/completions", json={"model": "fake", "prompt": [1], "max_tokens": 1}).status_code == 200
    )


def test_a_frontend_that_knows_nobody_is_told_with_its_counts(
    engine: FakeDynamo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("labkit.serve.standing_split._REGISTERED_S", 0.3)
    engine.faults["router0"] = ["--deaf"]
    with pytest.raises(LaunchError, match=r"router0 knows 0 of 1 aggregated, .* workers after 0\.3 s"):
        Deployment(MODEL, Topology("1A"), engine, fake_node(2), logs=tmp_path, progress=str, ready_timeout_s=20.0)


def test_a_new_frontend_comes_where_the_old_one_died_or_is_to_route_otherwise(deployment: Deployment):
    workers = [worker.tree.pid for worker in deployment.workers]
    os.kill(deployment.front.tree.pid, signal.SIGKILL)
    until(lambda: deployment.fallen_router, "the frontend's end")
    assert "brings up another router" in str(deployment.plan())
    deployment.change()
    assert deployment.verified
    first = deployment.url
    deployment.change(options=EngineOptions(router_mode="kv"))
    assert (deployment.url != first, deployment.verified, deployment.front.mode) == (True, True, "kv")
    assert deployment.options.router_mode == "kv"
    wrong = deployment.plan(options=EngineOptions(router_mode="kvv"))
    assert wrong.kind == "impossible"
    assert "router_mode 'kvv' is not one of the fake dynamo engine's, which knows round-robin, kv" in str(wrong)
    assert [worker.tree.pid for worker in deployment.workers] == workers


def test_a_dead_worker_is_told_and_started_again_in_its_role(deployment: Deployment):
    deployment.resplit("1P2D")
    victim = next(worker for worker in deployment.workers if deployment.roles[worker.name] is Role.PREFILL)
    os.kill(victim.tree.pid, signal.SIGKILL)
    until(lambda: deployment.failures, "the news")
    assert list(deployment.dead) == [victim.name]
    assert deployment.survivors is None, "decode workers do not prefill"
    entries = Path(victim.spec.meeting or "").glob("v1/instances/*")
    assert len(list(entries)) == 3, "what was killed has taken nothing away"
    done = deployment.restart(victim.name)
    assert deployment.roles[victim.name] is Role.PREFILL
    assert deployment.verified, str(done)


def test_unused_workers_do_not_stay_where_they_would_be_sent_requests(deployment: Deployment):
    assert deployment.plan("1A", keep_unused=True).ends == ("w1",)
