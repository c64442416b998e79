"""Orders to a lab of stand-in workers: what is sent, changed and pinned is what was asked for, and what fails is said."""

from __future__ import annotations

import os
import re
import signal
import threading
from concurrent.futures import CancelledError
from dataclasses import replace
from types import SimpleNamespace

import pytest

from labkit.errors import LabError, LaunchError, LoadError, SpecError
from labkit.experiments.autopilot import autopilot
from labkit.experiments.exploration import Cancelled, Exploration
from labkit.experiments.pins import keep_pin
from labkit.experiments.tour import tour
from labkit.lab.lab import Lab
from labkit.lab.launch import Launch
from labkit.live.window import LiveWindow
from labkit.measure.metrics import summarise
from labkit.serve.engines.base import EngineOptions
from labkit.serve.patience import CalledOff, Closed, Patience
from labkit.spec import Workload
from labkit.store import open_run
from tests.support.fake_engine import FakeEngine
from tests.support.open_lab import LOAD, OpenLab
from tests.support.waiting import until


def sent_some(exploration: Exploration, requests: int = 30) -> None:
    """Wait until so many requests of the present load have ended."""
    load = exploration._load
    assert load is not None
    until(lambda: (now := load.progress) is not None and now.done >= requests, "some answers", 30.0)


def test_a_pin_is_what_was_measured_since_the_change(exploration: Exploration):
    exploration.start().result(60)
    assert exploration.running
    exploration.apply("1P1D").result(60)
    exploration.order(lambda: exploration.wait(2.0)).result(60)
    pin = exploration.pin("first").result(60)
    kept = open_run(pin.run, exploration.lab.run.path.parent)
    (window,) = kept.windows
    assert (pin.topology, window.topology, pin.label) == ("1P1D", "1P1D", "first")
    rows = kept.records().requests.to_pylist()
    inside = [row for row in rows if row["phase"] == "measure"]
    assert inside
    assert {row["epoch"] for row in inside} == {exploration.lab.deployment.epoch}, "none was sent to the split before"
    assert all(row["outcome"] == "ok" for row in inside), "each was followed to its end"
    assert pin.value("output_tok_s") == pytest.approx(summarise(kept.digest(), window)["output_tok_s"])
    assert exploration.pins == [pin]
    assert [line.kind for line in exploration.said][-1] == "done"


def test_a_load_is_replaced_while_the_one_before_ends_by_itself(exploration: Exploration):
    exploration.start().result(60)
    first = exploration._load
    exploration.order(lambda: exploration.wait(0.5)).result(60)
    exploration.start(Workload(isl=8, osl=6, rate=20.0, duration_s=1.0)).result(60)
    assert first is not None
    measured = first.wait()
    assert measured.failed == 0, "requests under way were followed to their end"
    assert exploration.running
    exploration.pause().result(60)
    assert not exploration.running
    assert exploration._load is not None
    assert exploration._load.wait().failed == 0


def test_winding_down_leaves_no_request_under_way(open_lab: OpenLab, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    engine.everywhere = ("--token-s", "0.02")
    with open_lab("2A") as lab:
        exploration = Exploration(lab, Workload(isl=8, osl=20, rate=40.0, duration_s=600.0))
        exploration.start().result(60)
        sent_some(exploration)
        monkeypatch.setattr(exploration, "_watch", lambda: SimpleNamespace(window=LiveWindow(), heard=True))  # nothing on it yet
        exploration.order(exploration.wind_down).result(60)
        load = exploration._load
        assert load is not None
        exploration.stop().result(60)
        assert load.wait().cancelled == 0, "the last was sent an instant before, and was followed to its end"
        exploration.close()


def test_a_pin_is_not_made_silently_where_it_is_to_be_doubted(exploration: Exploration, monkeypatch: pytest.MonkeyPatch):
    found = iter((False, None, True))
    monkeypatch.setattr(
        "labkit.experiments.exploration.keep_pin",
        lambda *given, **named: replace(keep_pin(*given, **named), settled=next(found), warnings=("a", "b")),
    )
    exploration.start().result(60)
    sent_some(exploration)
    said = []
    for _ in range(3):
        pin = exploration.pin().result(60)
        said.append(exploration.said[-1].text.partition(pin.run)[2])
    assert said == [
        ", which was not stationary; 2 warnings below the pins' table",
        ", too short to tell whether it is stationary; 2 warnings below the pins' table",
        "; 2 warnings below the pins' table",
    ]


def test_a_pin_follows_its_requests_under_whichever_watch_there_is(exploration: Exploration):
    exploration.start().result(60)
    sent_some(exploration)
    exploration.lab.watched()
    pinning = exploration.pin()
    until(lambda: "followed to their end" in exploration.said[-1].text, "the pin")
    later = exploration.lab.watch()  # the cell is run again
    pin = pinning.result(20)
    assert exploration.lab.watched() is later
    rows = open_run(pin.run, exploration.lab.run.path.parent).records().requests.to_pylist()
    assert rows
    assert all(row["outcome"] == "ok" for row in rows)


def test_what_cannot_be_done_is_said_and_ends_nothing(exploration: Exploration):
    with pytest.raises(LoadError, match="no load runs"):
        exploration.pin().result(60)
    exploration.start().result(60)
    with pytest.raises(LabError):
        exploration.apply("1A@tp16").result(60)
    assert exploration.said[-1].kind == "failed"
    assert exploration.running
    exploration.apply("2A").result(60)
    assert "already" in exploration.said[-1].text


def test_waiting_can_be_called_off(exploration: Exploration):
    exploration.start().result(60)
    waiting = exploration.order(lambda: exploration.wait(600.0))
    exploration.cancel()
    with pytest.raises((Cancelled, CancelledError)):
        waiting.result(60)
    assert exploration.running


def test_the_autopilot_leaves_the_pool_in_the_split_that_it_names(exploration: Exploration):
    with pytest.raises(LoadError, match="no load runs"):
        autopilot(exploration).result(60)
    exploration.start(Workload(isl=16, osl=12, rate=30.0, duration_s=5.0)).result(60)
    choice = autopilot(exploration, window_s=1.5).result(180)
    assert [pin.topology for pin in choice.pins] == ["2A", "1P1D"]
    assert str(exploration.lab.deployment.topology) == choice.best.topology
    assert exploration.said[-1].text.endswith(f"{choice.best.topology} serves now.")
    assert exploration.running
    results = exploration.lab.run.path.parent
    asked = [
        {row["index"]: (row["isl"], row["osl"]) for row in open_run(pin.run, results).records().requests.to_pylist()}
        for pin in choice.pins
    ]
    assert all(0 in one for one in asked), "each split has the load from its first request on"
    assert len(asked[0].keys() & asked[1].keys()) > 20


def test_an_autopilot_that_is_called_off_says_what_it_leaves(exploration: Exploration):
    exploration.start().result(60)
    flight = autopilot(exploration, window_s=2.0)
    until(lambda: any("2 of 2: 1P1D, measured" in line.text for line in exploration.said), "the second split", 60)
    exploration.cancel()
    with pytest.raises(Cancelled, match="1P1D serves and the load goes on; pinned so far: 2A"):
        flight.result(60)
    assert exploration.said[-1].kind == "done", "it is as the person wished"
    assert str(exploration.lab.deployment.topology) == "1P1D"
    assert exploration.running
    assert [pin.topology for pin in exploration.pins] == ["2A"]


def test_a_stretch_that_is_not_level_lasts_longer_and_three_times_as_long_at_most(exploration: Exploration, monkeypatch):
    level, lengths = iter([False, None, *[False] * 9]), list[tuple[str, float]]()
    measure_for = exploration.measure_for

    def measured(seconds: float, topology: object) -> None:
        lengths.append((str(topology), seconds))
        measure_for(seconds, topology)  # type: ignore[arg-type]

    monkeypatch.setattr(exploration, "settled", lambda: next(level))
    monkeypatch.setattr(exploration, "measure_for", measured)
    exploration.start().result(60)
    choice = autopilot(exploration, window_s=1.2).result(180)
    assert [pin.topology for pin in choice.pins] == ["2A", "1P1D"]
    assert lengths[:2] == [("2A", 1.2), ("2A", 0.6)], "too little to tell is no reason to go on"
    assert lengths[2:] == [("1P1D", 1.2), *[("1P1D", 0.6)] * 4], "it is pinned though it never was level"
    texts = [line.text for line in exploration.said]
    pinned = [int(found[1]) for text in texts if (found := re.search(r"pinning the last (\d+) s", text))]
    assert pinned[0] >= 2, "all of it is pinned"
    assert pinned[1] >= 4
    assert texts.count("autopilot 2 of 2: 1P1D, not level yet: measured for 1 s more") == 4


def test_the_autopilot_asks_which_splits_where_prefill_and_decode_workers_are_not_alike(open_lab: OpenLab):
    with open_lab("1P@tp2+1D", workload=LOAD) as lab:
        exploration = Exploration(lab)
        exploration.start().result(60)
        with pytest.raises(SpecError, match=r"the workers of 1P@tp2\+1D are not alike") as refused:
            autopilot(exploration, window_s=1.0).result(60)
        assert refused.value.remedy == "name the splits to try: topologies=[…]"
        assert exploration.said[-1].kind == "failed"
        assert (str(lab.deployment.topology), exploration.running, exploration.pins) == ("1P@tp2+1D", True, [])
        choice = autopilot(exploration, window_s=1.0, topologies=["1P@tp2+1D"]).result(60)
        assert [pin.topology for pin in choice.pins] == ["1P@tp2+1D"], "as the remedy says"
        exploration.close()


def test_another_model_is_refused_before_the_lab_is_closed(exploration: Exploration):
    exploration.start().result(60)
    before = exploration.lab
    with pytest.raises(LabError, match="weights in each worker"):
        exploration.relaunch("llama-3.1-70b").result(60)
    assert exploration.lab is before
    assert exploration.running


def test_the_model_before_comes_back_where_a_launch_fails_all_the_same(exploration: Exploration, monkeypatch):
    exploration.start().result(60)
    before, begin = exploration.lab, Launch.begin

    def fail_once(launch: Launch, *args: object) -> Lab:
        monkeypatch.setattr(Launch, "begin", begin)
        raise LaunchError("w0 ended with 1", remedy="read its log")

    monkeypatch.setattr(Launch, "begin", fail_once)
    with pytest.raises(LaunchError, match="w0 ended"):
        exploration.relaunch("demo", "1P1D").result(60)
    try:
        assert before.run.status == "finished"
        assert str(exploration.lab.deployment.topology) == "2A"
        assert exploration.running
        assert any("w0 ended with 1; demo is launched again" in line.text for line in exploration.said)
    finally:
        exploration.lab.close()


@pytest.mark.parametrize("how", ["the exploration", "the lab"])
def test_what_is_closed_while_it_is_launched_brings_nothing_back(exploration: Exploration, monkeypatch, how: str):
    begun, ended, launched = threading.Event(), threading.Event(), list[Launch]()

    def begin(launch: Launch, _before: Lab, _workload: object, _tell: object, patience: Patience) -> Lab:
        launched.append(launch)
        begun.set()
        if how == "the lab":
            assert ended.wait(30)
            raise Closed("the lab was closed while it was launched", remedy="launch it again")
        assert patience.call_off.wait(30)
        raise CalledOff("the change was called off while w0 started", remedy="what served before serves on")

    exploration.start().result(60)
    monkeypatch.setattr(Launch, "begin", begin)
    coming = exploration.relaunch("demo", "1P1D")
    assert begun.wait(30)
    if how == "the exploration":
        exploration.close()
    ended.set()
    with pytest.raises(CalledOff):
        coming.result(30)
    assert len(launched) == 1


def test_a_tour_pins_each_step_and_refuses_one_that_cannot_be_meant(exploration: Exploration):
    with pytest.raises(SpecError, match="nonsense"):
        tour(exploration, [["2A"], ["nonsense", {}]], window_s=1.0)
    assert not exploration.running, "nothing was carried out"
    told: list[str] = []
    pins = tour(exploration, [["2A"], ["1P1D", {"concurrency": 2}]], window_s=1.5, settle_s=0.2, progress=told.append)
    assert [pin.topology for pin in pins] == ["2A", "1P1D"]
    assert any("step 2 of 2" in line for line in told)


def test_a_pin_can_be_measured_again(exploration: Exploration):
    exploration.start().result(60)
    exploration.order(lambda: exploration.wait(1.5)).result(60)
    pin = exploration.pin().result(60)
    exploration.apply("1P1D").result(60)
    again = exploration.rerun(pin, seconds=1.5).result(60)
    assert (again.topology, again.label) == (pin.topology, f"{pin.label}, again")
    assert again.run != pin.run
    twice = exploration.rerun(pin, seconds=1.5).result(60)
    assert len({one.label for one in exploration.pins}) == len(exploration.pins) == 3, "each can be chosen by its label"
    assert twice.label != again.label


def test_a_point_with_a_secret_is_measured_again_without_a_restart(open_lab: OpenLab):
    with open_lab("2A", workload=LOAD, options=EngineOptions(extra_env={"HF_TOKEN": "hunter2hunter2"})) as lab:
        exploration = Exploration(lab)
        exploration.start().result(60)
        exploration.order(lambda: exploration.wait(1.0)).result(60)
        pin = exploration.pin().result(60)
        pids = [worker.tree.pid for worker in lab.deployment.workers]
        exploration.rerun(pin, seconds=1.0).result(60)
        assert [worker.tree.pid for worker in lab.deployment.workers] == pids
        assert lab.deployment.options.extra_env == {"HF_TOKEN": "hunter2hunter2"}
        exploration.close()


def test_a_dead_worker_is_left_out_and_until_then_the_load_is_not_replaced(exploration: Exploration):
    exploration.start().result(60)
    sent_some(exploration)
    there = exploration.lab.deployment
    os.kill(there.workers[1].tree.pid, signal.SIGKILL)
    until(lambda: there.failures, "the death")
    with pytest.raises(LabError, match="w1 died"):
        exploration.start(replace(LOAD, concurrency=2)).result(60)
    assert exploration.running, "what ran goes on where the next cannot begin"
    exploration.leave_out("w1").result(60)
    assert (str(there.topology), there.failures, list(there.dead)) == ("1A", (), ["w1"])
    epoch = there.epoch
    exploration.leave_out("w1").result(60)
    assert there.epoch == epoch, "it has no part any more"
    exploration.start(replace(LOAD, concurrency=2)).result(60)
    exploration.restart("w1").result(60)
    assert (str(there.topology), there.dead) == ("2A", {})


def test_a_dead_worker_is_left_out_while_a_longer_order_only_waits(exploration: Exploration):
    exploration.start().result(60)
    there = exploration.lab.deployment
    waiting = exploration.order(lambda: exploration.wait(600.0))
    measuring = exploration.order(lambda: exploration.measure_for(600.0, "2A"))
    os.kill(there.workers[1].tree.pid, signal.SIGKILL)
    until(lambda: there.failures, "the death")
    exploration.leave_out("w1").result(60)
    assert (str(there.topology), there.failures) == ("1A", ())
    assert not waiting.done(), "it goes on where it was"
    exploration.cancel()
    with pytest.raises(Cancelled):
        waiting.result(60)
    with pytest.raises((Cancelled, CancelledError)):
        measuring.result(60)


def test_what_is_measured_is_of_one_split(exploration: Exploration):
    exploration.start().result(60)
    there = exploration.lab.deployment
    measuring = exploration.order(lambda: exploration.measure_for(4.0, "2A"))
    os.kill(there.workers[1].tree.pid, signal.SIGKILL)
    until(lambda: there.failures, "the death")
    exploration.leave_out("w1").result(60)
    with pytest.raises(LoadError, match="the split changed while it was measured: 1A serves now"):
        measuring.result(60)


def test_another_router_leaves_out_the_dead(exploration: Exploration):
    exploration.start().result(60)
    there = exploration.lab.deployment
    for tree in (there.workers[0].tree, there.front.tree):
        os.kill(tree.pid, signal.SIGKILL)
    until(lambda: there.fallen_router is not None and there.dead, "both deaths")
    exploration.new_router().result(60)
    assert (str(there.topology), list(there.dead), there.verified, there.failures) == ("1A", ["w0"], True, ())
    assert exploration.running


def test_the_last_worker_cannot_be_left_out(open_lab):
    with open_lab("1A", workload=LOAD) as lab:
        exploration = Exploration(lab)
        os.kill(lab.deployment.workers[0].tree.pid, signal.SIGKILL)
        until(lambda: lab.deployment.dead, "the death")
        with pytest.raises(LoadError, match="no worker is left"):
            exploration.leave_out("w0").result(60)
        assert "restart w0" in exploration.said[-1].text
        exploration.close()


def test_a_paused_load_can_be_stopped(exploration: Exploration):
    exploration.start().result(60)
    exploration.pause().result(60)
    assert (exploration.running, exploration.stoppable) == (False, True)
    exploration.stop().result(60)
    assert not exploration.stoppable


def test_nothing_is_carried_out_after_the_end_and_that_is_said(exploration: Exploration):
    exploration.close()
    with pytest.raises(LabError, match="this exploration is closed"):
        exploration.stop().result(5)
    assert exploration.said[-1].kind == "failed"
    assert not exploration.busy


def test_the_end_calls_off_a_change_that_is_under_way(exploration: Exploration, engine: FakeEngine):
    engine.faults = {"w2": ["--never-ready"]}
    change = exploration.apply("3A")
    until(lambda: [*exploration.lab.run.path.glob("logs/w2.log")], "the start of the third worker")
    exploration.close()
    with pytest.raises(CalledOff):
        change.result(30)
    assert str(exploration.lab.deployment.topology) == "2A", "the lab stays open"
    assert exploration.said[-1].kind == "done"
