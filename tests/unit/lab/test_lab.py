"""The lab on stand-in engines: real load, real telemetry, a real run folder, nothing left behind."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

import labkit.lab.lab as lab_module
from labkit.errors import LabError, LaunchError, LoadError, MissingEngine, ResplitError, SpecError, StoreError
from labkit.lab.engines import ENGINES
from labkit.lab.lab import Lab
from labkit.serve.engines.base import EngineOptions
from labkit.serve.ports import free_ports
from labkit.serve.processes import ProcessTree
from labkit.spec import Workload
from labkit.store.run import open_run
from tests.support.fake_engine import ENDLESS, SHORT, FakeEngine, fake_command
from tests.support.waiting import marked, open_files, until

OpenLab = Callable[..., Lab]


class Agent:
    """Stands for load and telemetry where a test is not about them; theirs are tested by themselves."""

    missing: ClassVar[dict[str, str]] = {}
    otlp_endpoint = None
    pids: ClassVar[dict[str, int]] = {"load0": os.getpid()}

    @classmethod
    def start(cls, *_: object, **__: object) -> Agent:
        return cls()

    def target(self, *_: object, **__: object) -> None: ...

    def watch(self, *_: object) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labs without telemetry."""
    monkeypatch.setattr(lab_module, "TelemetryAgent", Agent)
    monkeypatch.setattr(lab_module, "begin_telemetry", Agent.start)


@pytest.fixture
def light(blind: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labs without processes of their own."""
    monkeypatch.setattr(lab_module, "LoadFleet", Agent)


def only_run(results: Path) -> Path:
    (folder,) = [path for path in results.iterdir() if path.is_dir()]
    return folder


def test_measure_resplit_under_load_and_read_it_all_again(
    open_lab: OpenLab, engine: FakeEngine, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    for name in ("HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "canary-4242")
    files = open_files()
    options = EngineOptions(extra_env={"HF_TOKEN": "canary-4242"}, extra_args=("--token-s", "0.02"))
    with open_lab(options=options) as lab:
        assert "2A of demo" in repr(lab)
        first = lab.measure()
        assert first.failed == 0
        assert sum(first.counts.values()) == first.records.requests.num_rows == 24
        assert (first.window.side, first.window.repeat, first.window.accelerators) == ("2A", 0, 2.0)
        assert any(line.startswith("2A #1: ISL 16") for line in said)

        with lab.load(ENDLESS) as load:
            lab.first_sent_ns(0)
            until(lambda: load.progress and load.progress.done > 5, "load on the old split")
            done = lab.resplit("1P1D")
            switched_ns = lab.first_sent_ns(1)
            until(lambda: load.progress and load.progress.sent > 90, "load on the new split")
            second = load.stop()
        assert load.result is second
        assert switched_ns > done.called_ns
        assert {row for row in second.counts if second.counts[row]} <= {"ok", "cancelled"}
        assert (second.stopped, second.window.side, second.window.repeat) == (True, "2A", 1)

        third = lab.measure(SHORT.with_seed(1))
        assert (third.window.side, third.window.topology, third.window.epoch) == ("1P1D", "1P1D", 1)
        assert third.failed == 0
    lab.close()
    assert not marked(engine.mark)

    run = open_run(lab.run.path)
    assert run.status == "finished"
    assert [window.side for window in run.windows] == ["2A", "2A", "1P1D"]
    epochs = run.manifest["epochs"]
    assert [(epoch["epoch"], epoch["topology"], epoch["verified"]) for epoch in epochs] == [(0, "2A", True), (1, "1P1D", True)]
    assert epochs[1]["roles"] == {"w0": "P", "w1": "D"}
    assert epochs[0]["start_ns"] < epochs[1]["start_ns"]
    assert run.manifest["topologies"] == ["2A", "1P1D"]
    read = run.records()
    requests = read.requests.to_pydict()
    assert len(set(requests["request"])) == len(requests["request"])
    assert set(requests["epoch"]) == {0, 1}
    ok = [epoch for epoch, outcome in zip(requests["epoch"], requests["outcome"], strict=True) if outcome == "ok"]
    assert min(ok.count(0), ok.count(1)) > 20
    kinds = read.events.column("kind").to_pylist()
    assert [kinds.count(kind) for kind in ("launch", "load", "resplit")] == [1, 3, 1]
    sources = set(read.samples.column("source").to_pylist())
    assert {"w0", "w1", "host", "load0"} <= sources
    summary = json.loads((run.path / "summary.json").read_text())
    assert set(summary) >= {"0", "1", "2"} or set(summary.get("measurements", {})) >= {"0", "1", "2"}

    canary = [path for path in run.path.rglob("*") if path.is_file() and b"canary-4242" in path.read_bytes()]
    assert canary == []
    until(lambda: open_files() <= files, "the closing of pipes, ports and segments")


@pytest.mark.usefixtures("blind")
def test_a_warm_up_left_to_the_lab_is_found_and_kept_in_the_window(open_lab: OpenLab):
    work = Workload(isl=16, osl=4, rate=80, duration_s=0.9, arrivals="constant", warmup="auto")
    with open_lab() as lab:
        measured = lab.measure(work)
    run = open_run(lab.run.path)
    (window,) = run.windows
    assert window == measured.window
    assert "left out" in window.cut or "no warm-up was found" in window.cut
    assert 0 <= window.first_index <= 36
    assert measured.summary["requests"] == 72 - window.first_index
    assert set(run.records().requests["phase"].to_pylist()) == {"measure"}


@pytest.mark.usefixtures("blind")
def test_an_interrupt_while_measuring_keeps_the_window(open_lab: OpenLab, engine: FakeEngine, said: list[str]):
    def progress(line: str) -> None:
        said.append(line)
        if "in flight" in line:
            raise KeyboardInterrupt

    lab = open_lab(progress=progress)
    with pytest.raises(KeyboardInterrupt), lab:
        lab.measure(ENDLESS)
    run = open_run(lab.run.path)
    assert (run.status, run.manifest["reason"]) == ("interrupted", "interrupted")
    assert said[-1] == f"interrupted; what was recorded is in {run.path}"
    (window,) = run.windows
    assert window.stop_ns > window.start_ns
    assert run.records().requests.num_rows > 0
    assert not marked(engine.mark)


@pytest.mark.usefixtures("blind")
def test_conversations_are_fitted_to_the_model_and_kept_with_their_turns(open_lab: OpenLab, said: list[str]):
    talks = Workload(turns=40, isl=200, osl=4, concurrency=2, requests=90)  # 40 · 204 fit the 8192 tokens of the demo
    with open_lab(workload=talks) as lab:
        result = lab.measure()
        assert result.failed == 0
        rows = result.records.requests.to_pylist()
        assert sorted((row["conversation"], row["turn"]) for row in rows) == [divmod(n, 40) for n in range(90)]
        lab.measure(Workload(turns=50, isl=200, osl=4, concurrency=2, requests=4))
    assert any("of 1 conversations would outgrow 8192 tokens and end before: 10 turns left out" in line for line in said)
    assert "the 90 requests are the turns of 3 conversations" in str(open_run(lab.run.path).records().events.to_pylist())


@pytest.mark.usefixtures("blind")
def test_a_window_has_the_accelerators_of_its_beginning(open_lab: OpenLab):
    with open_lab("2A") as lab:
        with lab.load(ENDLESS) as load:
            until(lambda: load.progress and load.progress.done > 5, "load")
            lab.resplit("1A")
            window = load.stop().window
        assert (window.topology, window.accelerators, lab.deployment.accelerators) == ("2A", 2.0, 1.0)


@pytest.mark.usefixtures("blind")
def test_a_worker_that_dies_under_load_is_a_fault_in_the_run(open_lab: OpenLab, engine: FakeEngine, said: list[str]):
    with open_lab() as lab:
        with lab.load(ENDLESS) as load:
            until(lambda: load.progress and load.progress.done > 5, "load")
            os.kill(lab.deployment.workers[1].tree.pid, signal.SIGKILL)
            until(lambda: load.progress and load.progress.failed > 3, "failures")
            result = load.stop()
        assert result.counts.get("ok", 0) > 0
        assert result.failed > 3
        assert any("w1 died while serving: it was killed by SIGKILL" in line for line in said)
        with pytest.raises(LaunchError, match="w1 died while serving") as raised:
            lab.measure()
    assert any(mark.kind == "restart" and mark.text.startswith("w1 died") for mark in result.marks)
    run = open_run(lab.run.path)
    events = run.records().events.to_pylist()
    fault = next(event for event in events if event["kind"] == "fault")
    assert fault["text"].startswith("w1 died")
    assert json.loads(fault["data"]) == {"remedy": raised.value.remedy}
    assert run.status == "finished"


def test_a_worker_that_died_is_told_by_a_lab_that_is_closed_under_load(open_lab: OpenLab, said: list[str]):
    with open_lab() as lab:
        load = lab.load(ENDLESS)
        until(lambda: load.progress and load.progress.done > 5, "load")
        os.kill(lab.deployment.workers[1].tree.pid, signal.SIGKILL)
        until(lambda: load.progress and load.progress.failed > 3, "failures")
    assert any("w1 died while serving: it was killed by SIGKILL" in line for line in said)
    events = open_run(lab.run.path).records().events.to_pylist()
    assert any(event["kind"] == "fault" and event["text"].startswith("w1 died while serving") for event in events)


@pytest.mark.usefixtures("blind")
def test_a_worker_that_a_resplit_brings_back_had_died_in_the_run(open_lab: OpenLab):
    """Found by the fault campaign: the load had ended before anybody looked, and all was well again."""
    with open_lab() as lab:
        with lab.load(ENDLESS) as load:
            until(lambda: load.progress and load.progress.done > 5, "load")
            os.kill(lab.deployment.workers[0].tree.pid, signal.SIGTERM)
            until(lambda: lab.deployment.failures, "the news of its death")
            lab.resplit("1P1D")
            result = load.stop()
        assert lab.deployment.failures == ()
    assert any(mark.kind == "restart" and "w0 died while serving: it was killed by SIGTERM" in mark.text for mark in result.marks)


def test_a_sampler_that_dies_is_told_and_costs_no_request(open_lab: OpenLab, said: list[str]):
    """Found by the fault campaign: the run's manifest alone said so."""
    with open_lab() as lab:
        with lab.load(ENDLESS) as load:
            os.kill(lab._telemetry.pid, signal.SIGKILL)  # type: ignore[union-attr]
            until(lambda: "telemetry" in lab.telemetry_missing, "the news of its death")
            result = load.stop()
        assert result.failed == 0
        assert any("the sampler exited with code -9" in line and "→" in line for line in said)
    assert any("the sampler exited with code -9" in mark.text for mark in result.marks)
    (fault,) = (event for event in open_run(lab.run.path).records().events.to_pylist() if event["kind"] == "fault")
    assert json.loads(fault["data"])["remedy"].endswith("launch another for utilisation and spans")


def test_a_gpu_that_stops_to_answer_is_told_and_costs_no_request(
    open_lab: OpenLab, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    lost = {"gpu1": "the GPU is lost (fell off the bus)"}
    with open_lab() as lab:
        monkeypatch.setattr(type(lab._telemetry), "missing", property(lambda _: lost))
        result = lab.measure()
    assert result.failed == 0
    assert any(line.startswith("gpu1 is not read: the GPU is lost") and "→ see dmesg" in line for line in said)
    assert any("gpu1 is not read: the GPU is lost" in mark.text for mark in result.marks)


@pytest.mark.usefixtures("light")
def test_a_split_that_did_not_take_effect_stays_unverified_in_the_run(open_lab: OpenLab, engine: FakeEngine):
    engine.faults = {"router1": ["--lie"]}
    with pytest.raises(ResplitError, match="did not take effect"), open_lab() as lab:
        lab.resplit("1P1D")
    run = open_run(lab.run.path)
    assert [epoch["verified"] for epoch in run.manifest["epochs"]] == [True, False]
    assert run.status == "failed"
    assert "did not take effect" in run.manifest["reason"]
    (fault,) = (event for event in run.records().events.to_pylist() if event["kind"] == "fault")
    assert fault["text"].startswith("a change failed: ")
    assert json.loads(fault["data"])["remedy"]


@pytest.mark.usefixtures("light")
def test_a_launch_that_fails_says_why_in_the_run(open_lab: OpenLab, engine: FakeEngine, tmp_path: Path):
    engine.faults = {"w1": ["--exit", "1"]}
    with pytest.raises(LaunchError, match="w1 died"):
        open_lab()
    assert not marked(engine.mark)
    run = open_run(only_run(tmp_path))
    assert run.status == "failed"
    assert "w1 died while" in run.manifest["reason"]
    assert (run.path / "logs" / "w1.log").is_file()
    assert run.records().requests.num_rows == 0


def test_an_interrupt_of_a_drain_sends_the_load_back_and_no_request_fails(open_lab: OpenLab, said: list[str]):
    with open_lab(options=EngineOptions(extra_args=("--token-s", "0.5"))) as lab:
        with lab.load(ENDLESS) as load:
            lab.first_sent_ns(0)

            def interrupt() -> None:
                lab.changes.on_wait = lambda: None
                lab.first_sent_ns(1)
                signal.raise_signal(signal.SIGINT)

            lab.changes.on_wait = interrupt
            with pytest.raises(KeyboardInterrupt):
                lab.resplit("1P1D")
            assert (str(lab.deployment.topology), lab.deployment.epoch, lab.changes.waiting) == ("2A", 2, None)
            assert lab.first_sent_ns(2) > lab.first_sent_ns(1)
            load.finish()
            measured = load.wait()
        assert set(measured.counts) == {"ok"}
        assert {row["epoch"] for row in measured.records.requests.to_pylist()} == {0, 1, 2}
    assert any("left on router0" in line for line in said)
    notes = [event["text"] for event in lab.run.records().events.to_pylist() if event["kind"] == "resplit"]
    assert notes == ["called off while the old router drained: 2A serves on"]


def test_an_interrupt_while_launching_leaves_nothing(open_lab: OpenLab, engine: FakeEngine, tmp_path: Path):
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_lab(progress=interrupt)
    assert not marked(engine.mark)
    run = open_run(only_run(tmp_path))
    assert (run.status, run.manifest["reason"]) == ("interrupted", "interrupted")


@pytest.mark.usefixtures("light")
def test_a_part_that_fails_to_end_does_not_keep_the_others(
    open_lab: OpenLab, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
):
    lab = open_lab("1A")
    real = lab._load.close

    def broken() -> None:
        real()
        raise RuntimeError("mine")

    monkeypatch.setattr(lab._load, "close", broken)
    with pytest.raises(RuntimeError, match="mine"):
        lab.close()
    assert not marked(engine.mark)


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"engine": "sglang"}, SpecError, "unknown engine 'sglang'"),
        ({"topology": "2X"}, SpecError, "2X"),
        ({"workload": Workload(isl=100_000, osl=4, rate=1, requests=1)}, SpecError, "demo"),
    ],
)
@pytest.mark.usefixtures("light")
def test_what_cannot_be_meant_starts_nothing(open_lab: OpenLab, options: dict[str, object], error: type[LabError], what: str):
    with pytest.raises(error, match=what):
        open_lab(**options)


@pytest.mark.usefixtures("light")
def test_a_disk_that_is_full_at_the_start_leaves_no_half_run(open_lab: OpenLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise StoreError("cannot write tokenizer.json: No space left on device", remedy="free some disk space")

    monkeypatch.setattr("labkit.lab.fitting.prepare", full)
    with pytest.raises(StoreError, match="No space left"):
        open_lab()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_told_once_and_the_run_opens(open_lab: OpenLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise StoreError("cannot write summary.json: No space left on device", remedy="free some disk space")

    def measure(lab: Lab) -> None:
        monkeypatch.setattr(lab.run, "write_summary", full)
        with lab.load(ENDLESS):
            until(lambda: open_run(lab.run.path).records().requests.num_rows >= 20, "the first answers on disk")
            (segment,) = lab.run.path.glob("segments/requests-*")
            resource.prlimit(lab._load.agents[0].pid, resource.RLIMIT_FSIZE, (segment.stat().st_size,) * 2)

    with pytest.raises(LoadError, match=r"requests-shard0\.arrows"), open_lab() as lab:
        measure(lab)
    assert open_run(only_run(tmp_path)).records().requests.num_rows >= 20


@pytest.mark.usefixtures("light")
def test_a_closed_lab_says_so_and_does_nothing(open_lab: OpenLab, said: list[str]):
    with open_lab() as lab:
        pass
    lab.close()
    before = list(said)
    for call in (lab.measure, lambda: lab.resplit("1P1D")):
        with pytest.raises(LaunchError, match="this lab is closed"):
            call()
    assert said == before


def test_an_engine_that_is_not_installed_is_named_before_a_run_is_made(
    open_lab: OpenLab, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "missing", lambda _: "vllm")
    with pytest.raises(MissingEngine, match="vllm is not installed for ") as raised:
        open_lab()
    assert "make setup" in raised.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_the_engines_of_every_lab():
    assert list(ENGINES) == ["vllm", "dynamo", "mocker"]


def test_an_attached_endpoint_is_measured_and_not_changed(engine: FakeEngine, tmp_path: Path, said: list[str]):
    lease = free_ports(1)
    command = fake_command("worker", "--port", lease.ports[0], "--model", "theirs")
    server = ProcessTree("server", command, env={}, log=tmp_path / "server.log")
    url = f"http://127.0.0.1:{lease.ports[0]}"
    try:
        until(lambda: "Starting fake server" in server.log_tail(), "the server")
        pages = {"w0": f"{url}/metrics"}
        results = tmp_path / "results"
        with Lab.attach(f"{url}/v1", "theirs", metrics=pages, topology="1A", results=results, progress=said.append) as lab:
            with pytest.raises(SpecError, match="no workload"):
                lab.measure()
            with lab.watch(hz=10) as watch:
                measurement = lab.measure(SHORT)
                until(lambda: watch.latest.stats.requests == 24, "every first token in the window")
            assert measurement.failed == 0
            ((worker,), devices) = watch.latest.workers, watch.latest.devices
            assert (worker.name, worker.role, worker.alive, devices) == ("w0", "A", True, ())
            with pytest.raises(ResplitError, match="attached, not launched"):
                lab.resplit("1P1D")
        assert server.alive
        run = open_run(lab.run.path)
        assert (run.status, run.manifest["kind"]) == ("finished", "attach")
        (window,) = run.windows
        assert (window.topology, window.accelerators, window.accelerator) == ("1A", 1.0, "GPU")
        assert [epoch["verified"] for epoch in run.manifest["epochs"]] == [False]
        assert "w0" in run.records().samples.column("source").to_pylist()
    finally:
        server.stop()
        lease.close()
