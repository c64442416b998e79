"""Another engine in the place of the one that serves, in one run: stand-ins for vLLM and for Dynamo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit.errors import LabError, LaunchError, LoadError, SpecError
from labkit.experiments import conclude, interleave
from labkit.lab.engines import ENGINES
from labkit.lab.lab import Lab
from labkit.serve.engines.base import EngineOptions
from labkit.serve.patience import CalledOff
from labkit.store.run import open_run
from tests.support.fake_engine import ENDLESS, SHORT, FakeDynamo, FakeEngine
from tests.support.waiting import marked, until

OpenLab = Callable[..., Lab]


@pytest.fixture
def other(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDynamo]:
    """Stand-ins that register, beside those of ``fake``; what they start bears the same mark."""
    other = FakeDynamo(mark=engine.mark, name="other")
    monkeypatch.setitem(ENGINES, "other", lambda _: other)
    return other


def test_engines_take_turns_in_one_run_and_are_compared(open_lab: OpenLab, other: FakeDynamo, said: list[str]):
    with open_lab("2A", options=EngineOptions(extra_args=("--token-s", "0.004"))) as lab:
        trees = [worker.tree for worker in lab.deployment.workers]
        with lab.watch(hz=10) as watch:
            done = interleave(lab, ["2A", "2A"], engines=[None, "other"], repeats=2)
            pids = {worker.tree.pid for worker in lab.deployment.workers}
            until(lambda: watch.latest and not any(worker.alive is False for worker in watch.latest.workers), "only what lives")
        assert not any(tree.alive for tree in trees), "each engine has the accelerators alone"
        assert lab.engine == "other"
        assert lab.deployment.options.extra_args == ("--token-s", "0.004")
        assert len(pids) == 2
    assert [one.window.side for one in done] == ["2A (fake)", "2A (other)"] * 2
    assert [one.failed for one in done] == [0] * 4
    run = open_run(lab.run.path)
    epochs = run.manifest["epochs"]
    assert [(epoch["epoch"], epoch["engine"], epoch["verified"]) for epoch in epochs] == [
        (0, "fake", True), (1, "other", True), (2, "fake", True), (3, "other", True),
    ]  # fmt: skip
    assert len({str(epoch["devices"]) for epoch in epochs}) == 1, "the same accelerators"
    assert len({str(epoch["options"]) for epoch in epochs}) == 1, "with the same options"
    assert [window.epoch for window in run.windows] == [0, 1, 2, 3]
    assert [window.workload["seed"] for window in run.windows] == [0, 0, 1, 1]
    assert set(run.manifest["transports"]) == {"fake", "other"}
    assert not [text for _, kind, text in run.notes if kind == "fault"], "what ends on purpose has not died"
    found = conclude(run, resamples=50)
    assert found.sides == ("2A (fake)", "2A (other)")
    words = " ".join(str(found).split())
    assert "2A (other), against 2A (fake)" in words
    assert "the engines took turns on the same accelerators" in words
    assert "each request on a connection of its own, on which the transport delays first tokens by: fake " in words


def test_a_side_may_differ_in_both(open_lab: OpenLab, other: FakeDynamo):
    with open_lab("2A") as lab:
        done = interleave(lab, ["2A", "1P1D", "1P1D"], engines=["fake", "fake", "other"], repeats=1)
        assert [one.window.side for one in done] == ["2A (fake)", "1P1D (fake)", "1P1D (other)"]
        assert {role.value for role in lab.deployment.roles.values()} == {"P", "D"}


def test_what_is_impossible_is_told_before_anything_ends(open_lab: OpenLab, other: FakeDynamo, monkeypatch: pytest.MonkeyPatch):
    with open_lab("2A") as lab:
        trees = [worker.tree for worker in lab.deployment.workers]
        for engine, topology, kind in (("none", None, SpecError), ("other", "2A@tp64", LabError)):
            with pytest.raises(kind):
                lab.switch(engine, topology)
        with pytest.raises(SpecError, match="unknown engine 'none'"):
            interleave(lab, ["2A", "2A"], engines=["fake", "none"])
        with pytest.raises(SpecError, match="1 different sides"):
            interleave(lab, ["2A", "2A"], engines=["fake", "fake"])
        with pytest.raises(SpecError, match="3 engines for 2 sides"):
            interleave(lab, ["2A", "1P1D"], engines=["fake"] * 3)
        load = lab.load(ENDLESS)
        with pytest.raises(LoadError, match="a load on 2A runs: no request may be under way when other takes the place of fake"):
            lab.switch("other")
        load.stop()
        assert all(tree.alive for tree in trees)
        assert lab.measure(SHORT).failed == 0


def test_an_engine_that_does_not_come_up_closes_the_lab_with_the_reason(open_lab: OpenLab, other: FakeDynamo, tmp_path: Path):
    other.faults["w1"] = ("--exit", "3")
    with open_lab("2A") as lab, pytest.raises(LaunchError, match="w1 died"):
        lab.switch("other")
    run = open_run(lab.run.path)
    assert run.status == "failed"
    assert "w1 died" in run.manifest["reason"]
    with pytest.raises(LaunchError, match="closed"):
        lab.measure(SHORT)


def test_a_lab_that_is_closed_while_another_engine_comes_up_leaves_nothing(open_lab: OpenLab, other: FakeDynamo):
    other.faults["w1"] = ("--never-ready",)
    lab = open_lab("2A")
    began = lab.deployment
    with ThreadPoolExecutor(1) as thread:
        switch = thread.submit(lab.switch, "other")
        until(lambda: [*lab.run.path.glob("logs/w1-2.log")], "the start of the other engine's workers")
        lab.close()
        with pytest.raises(CalledOff):
            switch.result(30)
    assert not began.workers
    assert not marked(other.mark)
    assert open_run(lab.run.path).status == "finished"
