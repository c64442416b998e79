"""A deployment of stand-ins is closed while it changes: what the change had started ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from labkit.errors import LaunchError
from labkit.serve import deployment as module
from labkit.serve.changer import Changer
from labkit.serve.deployment import CalledOff, Deployment, Patience
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import marked, until

Deploy = Callable[..., Deployment]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_workers_that_a_change_starts_end_with_the_deployment(deploy: Deploy, engine: FakeEngine, thread: ThreadPoolExecutor):
    deployment = deploy("2A")
    engine.faults = {"w2": ["--never-ready"]}
    change = thread.submit(deployment.change, "3A")
    until(lambda: len(marked(engine.mark)) == 2 * 4, "the start of the third worker")
    deployment.close()
    assert not marked(engine.mark), "the change was called off, and waited for"
    with pytest.raises(CalledOff):
        change.result(30)
    for late in (lambda: deployment.change("1P1D"), lambda: deployment.restart("w0")):
        with pytest.raises(LaunchError, match="this deployment is closed"):
            late()
    assert not marked(engine.mark)


def test_a_router_that_comes_too_late_ends_too(
    deploy: Deploy, engine: FakeEngine, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_LATE_S", 0.0)  # the change is not waited for
    deployment = deploy("2A")
    begun, go = threading.Event(), threading.Event()
    meet = deployment._split.meet

    def hold(fresh: list[object]) -> None:
        meet(fresh)  # type: ignore[arg-type]
        begun.set()
        assert go.wait(30)

    monkeypatch.setattr(deployment._split, "meet", hold)
    change = thread.submit(deployment.change, "3A")
    assert begun.wait(30)
    deployment.close()
    assert not change.done()
    go.set()
    with pytest.raises(CalledOff, match="closed while it changed"):
        change.result(30)
    assert not marked(engine.mark)


def test_a_worker_that_begins_too_late_ends_too(
    deploy: Deploy, engine: FakeEngine, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_LATE_S", 0.0)
    deployment = deploy("2A")
    begun, go = threading.Event(), threading.Event()
    start = deployment._hosts.of(deployment.workers[0].spec.devices).start

    def hold(*args: object, **more: object) -> object:
        begun.set()
        assert go.wait(30)
        return start(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(deployment._own_host, "start", hold)
    change = thread.submit(deployment.change, "4A")
    assert begun.wait(30)
    deployment.close()
    go.set()
    with pytest.raises(CalledOff):
        change.result(30)
    assert not marked(engine.mark)


def test_a_patience_that_was_lent_is_not_called_off_by_a_later_end(deploy: Deploy):
    patience = Patience()
    with deploy("2A", patience=patience) as deployment:
        deployment.change("1P1D", patience=patience)
    assert not patience.call_off.is_set()


def test_a_patience_that_was_lent_may_be_lent_again_where_the_launch_failed(deploy: Deploy, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise LaunchError("w0 ended with 1", remedy="read its log")

    patience = Patience()
    monkeypatch.setattr(Changer, "launch", fail)
    with pytest.raises(LaunchError, match="w0 ended"):
        deploy("2A", patience=patience)
    assert not patience.call_off.is_set()


def test_who_is_told_of_another_router_may_close(deploy: Deploy, engine: FakeEngine):
    deployment = deploy("2A")
    with pytest.raises(CalledOff):
        deployment.change("1P1D", on_switch=lambda there: there.close())
    assert not marked(engine.mark)
