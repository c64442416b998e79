"""The controls on stand-in labs: what is pressed is carried out, what cannot be is explained, and nothing is doubled or left."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ipywidgets.widgets.widget import _instances

from labkit.dashboard.explorer import Explorer
from labkit.experiments.exploration import Exploration
from labkit.lab.engines import ENGINES
from labkit.lab.lab import Lab
from labkit.serve.deployment import CalledOff
from labkit.serve.engines.attach import Attached
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Slo, Workload
from tests.support.fake_engine import FakeDynamo, FakeEngine
from tests.support.open_lab import LOAD, OpenLab
from tests.support.waiting import until


@pytest.fixture
def explorer(exploration: Exploration) -> Iterator[Explorer]:
    exploration.start().result(60)
    shown = Explorer(exploration, hz=8.0)
    yield shown
    shown.close()


def idle(explorer: Explorer) -> None:
    until(lambda: not explorer.exploration.busy, "the end of all orders", 60)


def test_the_plan_is_told_before_and_the_proof_after(explorer: Explorer):
    assert explorer.split is not None
    assert "serves already" in explorer._plan.text or "nothing" in explorer._plan.text.lower()
    assert explorer._apply.disabled
    explorer.split._picker.value = "1P1D"
    assert "router" in explorer._plan.text
    assert not explorer._apply.disabled
    explorer._apply.click()
    idle(explorer)
    assert str(explorer.exploration.lab.deployment.topology) == "1P1D"
    assert "new split took requests" in explorer._state.text
    assert "prompt tokens computed" in explorer._state.text, "the counters are the proof"
    assert explorer._apply.disabled, "it serves already"
    until(lambda: explorer.watch.latest is not None and explorer.watch.latest.topology == "1P1D", "the split on the charts", 30)


def test_a_split_that_cannot_be_had_is_explained_and_cannot_be_applied(explorer: Explorer):
    assert explorer.split is not None
    explorer.split._chunk.value = "many"
    assert "'many' is not a whole number" in explorer._plan.text
    assert explorer._apply.disabled
    explorer.split._chunk.value = ""
    explorer.split._tp_prefill.value = explorer.split._tp_decode.value = 3
    assert explorer.split.topology.pool == (3, 3)
    assert "attention heads" in explorer._plan.text, "the model's heads do not divide by three"
    assert explorer._apply.disabled
    explorer.split._tp_prefill.value = 1
    explorer.split._tp_decode.value = 1
    assert explorer.split.topology.pool == (1, 1)


def test_a_pool_may_outgrow_the_node_and_the_plan_says_what_that_means(explorer: Explorer):
    assert explorer.split is not None
    cores = explorer.exploration.lab.deployment.node.accelerators  # type: ignore[union-attr]
    explorer.split._workers.value = cores + 1
    assert len(explorer.split.topology.workers) == cores + 1, "what was asked for is not cut"
    assert f"w{cores} share core" in explorer._plan.text
    assert not explorer._apply.disabled


def test_a_model_that_cannot_be_launched_is_refused_while_the_present_one_serves(explorer: Explorer):
    form = explorer.deployment
    assert form is not None
    assert "launches 2A of demo" in form.line.text
    form._model.value = "llama-3.1-70b"
    assert "GiB for its weights in each worker" in form.line.text
    assert form.launch.disabled
    form._model.value = "demo"
    assert explorer.split is not None
    explorer.split._picker.value = "1P1D"
    assert "launches 1P1D of demo" in form.line.text, "the split that is chosen, and so it is said"
    assert not form.launch.disabled
    assert explorer.exploration.running


def test_load_is_started_replaced_paused_and_stopped(explorer: Explorer):
    assert explorer.load is not None
    explorer.load._arrivals.value = "poisson"
    explorer.load._isl.value = "uniform:8-1"
    assert explorer._start.disabled
    assert explorer.load._line.text
    explorer.load._isl.value = "uniform:4-16"
    explorer.load._rate.value = 25.0
    assert not explorer._start.disabled
    explorer._start.click()
    idle(explorer)
    sending = explorer.exploration.sending
    assert sending is not None
    assert (sending.rate, str(sending.isl), sending.seed) == (25.0, "uniform:4-16", LOAD.seed)
    explorer._pause.click()
    idle(explorer)
    assert explorer._pin.disabled
    assert not explorer._stop.disabled, "what is under way can still be cancelled"
    explorer._start.click()
    idle(explorer)
    explorer._stop.click()
    idle(explorer)
    assert explorer.exploration.sending is None


def test_a_load_that_somebody_else_began_is_shown(explorer: Explorer):
    assert explorer.load is not None
    explorer.exploration.start(Workload(isl=9, osl=6, arrivals="burst:40@1/2", duration_s=9.0)).result(60)
    until(lambda: explorer.load is not None and explorer.load._isl.value == "9", "the load in the form", 30)
    explorer._pause.click()
    idle(explorer)
    explorer._start.click()
    explorer.load._isl.value = "7"
    idle(explorer)
    sending = explorer.exploration.sending
    assert sending is not None
    assert (sending.arrivals, str(sending.isl)) == ("burst:40@1/2", "9"), "the load that was paused, and not another"
    assert explorer.load._isl.value == "7", "what is being changed is left"


def test_a_pin_stands_in_table_chart_and_behind_the_charts(explorer: Explorer):
    until(lambda: (latest := explorer.watch.latest) is not None and (latest.stats.requests or 0) > 5, "some requests", 30)
    explorer._label.value = "  <b>mine</b> "
    explorer._pin.click()
    idle(explorer)
    (pin,) = explorer.exploration.pins
    assert pin.label == "<b>mine</b>"
    assert "&lt;b&gt;mine" in explorer.pins._table.value
    assert "<b>mine" not in explorer.pins._table.value
    assert len(explorer.pins._figures) == 2
    assert explorer.charts._pins == (pin,)
    explorer.pins._behind.value = False
    assert explorer.charts._pins == ()
    assert "<b>mine" not in explorer._log.value


def test_how_latencies_are_spread_is_told_of_now_while_it_is_looked_at_and_of_each_pin(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
):
    view, told = explorer.tails, Counter[str]()
    monkeypatch.setattr(type(explorer.charts.figure), "seen", property(lambda _: True))
    monkeypatch.setattr(view._figure, "tell", lambda content: told.update([content["type"]]))
    until(lambda: (latest := explorer.watch.latest) is not None and (latest.stats.requests or 0) > 5, "some requests", 30)
    assert "nothing was measured" in view._line.text, "nobody looks"
    explorer._below.choose("Distributions")
    until(lambda: "first tokens" in view._line.text, "the first look", 30)
    until(lambda: told["rows"], "what came then", 30)
    content, _ = view.snapshot()
    assert content["sources"]["ttft:now"]["x"]
    explorer._pin.click()
    idle(explorer)
    (pin,) = explorer.exploration.pins
    until(lambda: view._pins == (pin,), "the pin behind it", 30)
    assert pin.label in str(view._figure._document)
    explorer.split._picker.value = "1P1D"  # type: ignore[union-attr]
    explorer._apply.click()
    idle(explorer)
    until(lambda: view._now.topology == "1P1D", "the new split", 30)
    until(lambda: view.snapshot()[0]["sources"]["ttft:now"]["x"], "its first tokens", 30)
    assert "now, 1P1D" in str(view._figure._document)


def test_the_worst_requests_are_listed_when_there_is_load_without_being_asked_for(explorer: Explorer):
    until(lambda: len(explorer.request._pick.options) > 1, "some requests in the list", 30)
    assert "worst of the last minute" in explorer.request._pick.options[0][0]


def test_a_click_on_a_slow_dot_opens_that_requests_waterfall(explorer: Explorer):
    explorer.exploration.judge_by(Slo(ttft_s=1e-4)).result(60)  # no first token comes so soon: each is a dot, on new charts
    run, below = explorer.exploration.lab.run, explorer._below
    until(lambda: explorer.exploration.lab.slo == explorer._slo, "the charts of this SLO", 30)
    until(lambda: len({dot.request for dot in explorer.charts.history.slow_ttft}) > 1, "dots", 30)
    slow = {dot.request: dot for dot in explorer.charts.history.slow_ttft}
    until(lambda: slow.keys() <= set(run.records(chunks=False).requests["request"].to_pylist()), "their requests' ends", 30)
    below.choose("Log")
    for dot in list(slow.values())[:2]:
        what = {"kind": "ttft", "request": dot.request, "t_s": dot.t_s, "value_s": dot.value_s}
        explorer.charts.figure._handle_custom_msg({"type": "tap", "what": what}, [])  # as a browser says it
        assert below.chosen == "One request"
        title = f"Request {dot.request}, 16 tokens in, 12 out, TTFT "
        until(lambda title=title: title in json.dumps(shown_story(explorer)), title, 30)
    assert explorer.exploration.running
    assert not any(line.kind == "failed" for line in explorer.exploration.said)


def shown_story(explorer: Explorer) -> Any:
    """What a browser would draw of the request that is looked into."""
    figure = explorer.request._figure
    return None if figure is None else figure._document


def test_another_slo_redraws_everything_and_keeps_the_history(explorer: Explorer):
    until(lambda: len(explorer.charts.history.values) > 3, "some ticks", 30)
    explorer.slo._tpot.value = "nonsense"
    explorer.slo.apply.click()
    assert "'nonsense' is no number" in explorer.slo._line.text
    explorer.slo._tpot.value = "25"
    before = explorer.charts
    explorer.slo.apply.click()
    idle(explorer)
    until(lambda: explorer.charts is not before, "new charts", 30)
    assert explorer.exploration.lab.slo == Slo(tpot_s=0.025)
    assert explorer.charts.history is before.history
    assert before.closed


def test_a_dead_worker_is_told_with_its_cause_left_out_and_can_be_restarted(explorer: Explorer):
    lab = explorer.exploration.lab
    victim, other = lab.deployment.workers
    os.kill(victim.tree.pid, signal.SIGKILL)
    until(lambda: explorer.health.cards, "the word of its death", 30)
    until(lambda: str(lab.deployment.topology) == "1A", "the other that serves alone", 30)
    idle(explorer)
    assert explorer.exploration.running, "the load goes on"
    until(lambda: explorer.watch.latest is not None and explorer.watch.latest.topology == "1A", "the split on the charts", 30)
    fallen: Any = explorer.health.cards[0]
    assert "w0 died while serving: it was killed by SIGKILL" in fallen.children[0].value
    assert explorer.split is not None
    assert f"<b>{other.name}</b>" in explorer.split._strip.value, "what serves is called by its name"
    until(lambda: not fallen.children[-1].children[0].disabled, "the restart's button", 30)
    fallen.children[-1].children[0].click()
    idle(explorer)
    assert str(lab.deployment.topology) == "2A"
    assert all(worker.tree.alive for worker in lab.deployment.workers)
    until(lambda: not explorer.health.cards, "the end of the alarm", 30)
    assert explorer.exploration.running
    assert any(event.kind == "fault" and "w0 died" in event.text for event in explorer.charts.history.events)


def test_a_dead_router_is_told_with_its_last_words_and_another_takes_over_without_a_restart(explorer: Explorer):
    lab = explorer.exploration.lab
    assert not isinstance(lab.deployment, Attached)
    pids = [worker.tree.pid for worker in lab.deployment.workers]
    with lab.deployment.front.tree.log.open("a") as log:
        log.write("\x1b[31mlast words <b>\x1b[0m\n")
    os.kill(lab.deployment.front.tree.pid, signal.SIGKILL)
    until(lambda: explorer.health.cards, "the word of its death", 30)
    (fallen,) = explorer.health.cards
    assert "router0 died: it was killed by SIGKILL. No request is served" in fallen.children[0].value
    assert fallen.children[1].value.endswith("last words &lt;b&gt;</pre>")
    assert explorer.exploration.running, "the load goes on"
    fallen.children[-1].children[0].click()
    until(lambda: not explorer.health.cards, "the end of the alarm", 30)
    idle(explorer)
    assert (lab.deployment.epoch, lab.deployment.verified) == (1, True)
    assert [worker.tree.pid for worker in lab.deployment.workers] == pids, "no worker started again"
    assert explorer.exploration.running
    answered = explorer.watch.latest.stats.requests if explorer.watch.latest is not None else 0
    until(lambda: (latest := explorer.watch.latest) is not None and latest.stats.requests > answered, "answers again", 30)
    assert any(event.kind == "fault" and "router0 died" in event.text for event in explorer.charts.history.events)
    kept = lab.run.records(chunks=False).events.to_pylist()
    assert [json.loads(event["data"]).keys() for event in kept if event["kind"] == "fault"] == [{"remedy"}]
    explorer.exploration.new_router().result(60)
    assert lab.deployment.epoch == 1, "one that runs is not replaced"


def test_what_a_frontend_tells_brings_its_charts_and_they_go_on(
    open_lab: OpenLab, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(ENGINES, "other", lambda _: FakeDynamo(mark=engine.mark, name="other"))
    with open_lab("2A", workload=LOAD, engine="other") as lab:
        exploration = Exploration(lab)
        exploration.start().result(60)
        explorer = Explorer(exploration, hz=8.0)
        until(lambda: explorer.charts.frontend, "the frontend's charts", 30)
        known = len(explorer.charts.history)
        until(lambda: len(explorer.charts.history) > known + 4, "samples on the new charts", 30)
        until(lambda: explorer.watch.latest and explorer.watch.latest.stats.requests, "first tokens on the new charts", 30)
        assert 0 <= explorer.charts.history.column("frontend_in_flight")[-1] <= 4
        until(lambda: explorer.charts.history.column("frontend_duration_s")[-1] > 0, "what requests take, as it tells", 30)
        explorer.close()
        exploration.close()


def test_a_drain_is_shown_and_can_be_called_off(open_lab: OpenLab):
    slow = EngineOptions(extra_args=("--token-s", "0.5"))  # a request takes six seconds
    with open_lab("2A", workload=LOAD, options=slow) as lab:
        exploration = Exploration(lab)
        exploration.start().result(60)
        explorer = Explorer(exploration, hz=8.0)
        until(
            lambda: (latest := explorer.watch.latest) is not None and latest.stats.in_flight == LOAD.concurrency, "the load", 30
        )
        assert explorer.wait.widget.layout.display == "none"
        changing = exploration.apply("1P1D")
        until(lambda: explorer.wait.widget.layout.display is None, "the drain", 30)
        assert re.search(r"4 requests left on router0, \d+ s of at most", explorer.wait.widget.children[0].value)
        assert lab.changes.waiting == exploration.waiting
        assert not explorer.wait.call_off.disabled
        explorer.wait.call_off.click()
        assert explorer.wait.call_off.disabled, "once is enough"
        with pytest.raises(CalledOff):
            changing.result(60)
        idle(explorer)
        assert (str(lab.deployment.topology), exploration.said[-1].kind) == ("2A", "done"), "it is as the person wished"
        assert explorer.wait.widget.layout.display == "none"
        assert exploration.running
        assert [epoch["topology"] for epoch in lab.run.manifest["epochs"]] == ["2A", "1P1D", "2A"]
        assert all(epoch["verified"] for epoch in lab.run.manifest["epochs"][::2])
        assert lab.first_sent_ns(2) > lab.first_sent_ns(0), "the load is back on the split before"
        assert any("called off" in text and kind == "resplit" for _, kind, text in lab.run.notes)
        explorer.close()
        exploration.close()


def test_a_start_is_shown_and_can_be_called_off(open_lab: OpenLab, engine: FakeEngine):
    with open_lab("2A", workload=LOAD) as lab:
        exploration = Exploration(lab)
        exploration.start().result(60)
        explorer = Explorer(exploration, hz=8.0)
        engine.faults = {"w2": ["--never-ready"]}
        changing = exploration.apply("3A")
        until(lambda: explorer.wait.widget.layout.display is None, "the start", 30)
        assert re.search(r"starting: w2, \d+ s up to now", explorer.wait.widget.children[0].value)
        explorer.wait.call_off.click()
        with pytest.raises(CalledOff):
            changing.result(60)
        idle(explorer)
        assert (str(lab.deployment.topology), lab.deployment.epoch, exploration.running) == ("2A", 0, True)
        assert explorer.wait.widget.layout.display == "none"
        assert ("resplit", "called off while w2 started: 2A serves on") in [(kind, text) for _, kind, text in lab.run.notes]
        explorer.close()
        exploration.close()


def test_a_launch_that_is_called_off_brings_back_what_was_there(open_lab: OpenLab, engine: FakeEngine):
    with open_lab("2A", workload=LOAD) as lab:
        exploration = Exploration(lab)
        exploration.start().result(60)
        engine.faults = {"w0": ["--never-ready"]}
        launching = exploration.relaunch("demo", "1P1D")
        until(lambda: exploration.waiting is not None, "the launch", 30)
        assert str(exploration.waiting).startswith("starting: w0")
        engine.faults = {}
        exploration.cancel()
        with pytest.raises(CalledOff):
            launching.result(120)
        assert (str(exploration.lab.deployment.topology), exploration.waiting, exploration.running) == ("2A", None, True)
        assert exploration.lab is not lab
        assert "demo is launched again" in " ".join(line.text for line in exploration.said)
        exploration.close()
        exploration.lab.close()


def test_the_export_replays_by_itself(explorer: Explorer):
    until(lambda: len(explorer.charts.history.values) > 3, "some ticks", 30)
    explorer._export.click()
    idle(explorer)
    page = (explorer.exploration.lab.run.path / "exploration.html").read_text(encoding="utf-8")
    assert "<script src=" not in page
    assert explorer.exploration.lab.run.id in page


def test_running_the_cell_again_leaves_one_explorer_and_one_watch(exploration: Exploration):
    first = Explorer(exploration, hz=8.0)
    shown = first.widget
    until(lambda: first.watch.latest is not None, "a sample", 30)
    seen = len(first.charts.history.values)
    second = Explorer(exploration, hz=8.0)
    assert first.charts.closed
    assert second.widget is shown, "what another browser displays is the new one"
    assert shown.children[1].children[1].children[0] is second.charts.figure
    until(lambda: len(second.charts.history.values) > seen + 2, "new samples behind those of before", 30)
    t_s = second.charts.history.column("t_s") if "t_s" in second.charts.history.columns else None
    assert t_s is None or list(t_s) == sorted(t_s)
    assert not first.watch.alive
    assert sum(thread.name == "labkit watch" for thread in threading.enumerate()) == 1
    second.close()
    (ended,) = shown.children
    assert "This view has ended" in ended.value
    assert not any(thread.name == "labkit watch" for thread in threading.enumerate())


def kinds_of_widgets() -> Counter[str]:
    """How many there are of each kind."""
    return Counter(type(widget).__name__ for widget in list(_instances.values()))


def test_an_explorer_that_is_made_again_or_built_anew_leaves_no_widget(exploration: Exploration):
    Explorer(exploration, hz=8.0)
    second = Explorer(exploration, hz=8.0)
    there = kinds_of_widgets()
    third = Explorer(exploration, hz=8.0)
    assert kinds_of_widgets() == there
    assert second.load is not None
    charts = third.charts
    exploration.judge_by(Slo(tpot_s=0.25)).result(60)
    with suppress(AssertionError):
        until(lambda: third.charts is not charts and kinds_of_widgets() == there, "the widgets before to be gone", 30)
    assert kinds_of_widgets() == there
    third.close()
    frame = len(_instances)
    Explorer(exploration, hz=8.0).close()
    assert len(_instances) == frame


def test_a_pin_at_an_endpoint_of_somebody_else_can_be_called_off(open_lab: OpenLab, tmp_path: Path):
    with open_lab("1A") as served, Lab.attach(served.url, "demo", results=tmp_path / "attached", workload=LOAD) as lab:
        explorer = Explorer(Exploration(lab), hz=8.0)
        body: Any = explorer.widget.children[1]
        assert any(explorer._cancel in getattr(part, "children", ()) for part in body.children[0].children)
        assert "the pin" in explorer._cancel.tooltip
        assert "autopilot" not in explorer._cancel.tooltip
        explorer.close()
        explorer.exploration.close()


def test_another_model_is_another_lab_and_the_run_before_is_kept(explorer: Explorer):
    before = explorer.exploration.lab
    explorer.deployment._model.value = "demo"
    explorer.deployment.launch.click()
    idle(explorer)
    until(lambda: explorer._lab is not before, "the new lab's charts", 60)
    assert before.run.status == "finished"
    assert explorer.exploration.lab.run.id != before.run.id
    assert explorer.exploration.running
