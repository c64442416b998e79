"""A lab on stand-in engines under watch: samples of everything, nothing of it in the load's way."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import LaunchError, LoadError, SpecError
from labkit.lab.lab import Lab
from labkit.lab.loads import endless
from labkit.live.replay import samples_of
from labkit.live.sample import Sample
from labkit.measure.metrics import summarise
from labkit.spec import Slo, Workload
from labkit.spec.topology import Role
from labkit.store.run import open_run
from tests.support.fake_engine import ENDLESS, SHORT, FakeEngine
from tests.support.waiting import open_files, until

OpenLab = Callable[..., Lab]


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "labkit watch"]


def test_everything_is_in_the_samples_and_again_in_the_run(open_lab: OpenLab, engine: FakeEngine):
    files = open_files()
    seen: list[Sample] = []
    engine.everywhere = ["--token-s", "0.01"]
    with open_lab(slo=Slo(ttft_s=0.000001)) as lab, lab.watch(seen.append, hz=8) as watch:
        until(lambda: watch.latest and watch.latest.workers[0].kv_transfer_bytes_s is not None, "rates of the counters")
        assert [(worker.name, worker.role, worker.alive) for worker in watch.latest.workers] == [
            ("w0", Role.AGGREGATED, True),
            ("w1", Role.AGGREGATED, True),
        ]
        assert [(device.name, device.worker) for device in watch.latest.devices] == [("core 6", "w0"), ("core 7", "w1")]
        assert watch.latest.stats.in_flight == watch.latest.stats.requests == 0
        load = lab.load(endless(ENDLESS))
        until(lambda: watch.latest.stats.requests > 40, "first tokens in the window")
        until(lambda: watch.latest.stats.failed == 0 and watch.latest.stats.in_flight > 0, "requests under way")
        until(lambda: watch.latest.devices[0].utilisation is not None, "the worker's cores")
        until(lambda: any(sample.slow_ttft for sample in seen), "dots beyond the SLO")
        lab.resplit("1P1D")
        until(lambda: watch.latest.topology == "1P1D", "the new split")
        until(lambda: (watch.latest.workers[1].kv_transfer_bytes_s or 0) > 0, "KV that was moved")
        until(lambda: watch.latest.stats.goodput_hz == 0.0, "a window whose requests were all sent under the watch")
        load.finish()
        until(lambda: watch.latest.stats.in_flight == 0, "the end of what was under way")
        measured = load.wait()
        until(lambda: watch.latest.stats.requests == 0, "a window after the load")
        assert measured.failed == 0
        assert watch.error is None
    assert not watchers()
    assert watch.history.latest == watch.latest == seen[-1]
    assert watch.history.samples() == seen
    kinds = [event.kind for event in watch.history.events]
    assert [kinds.count(kind) for kind in ("launch", "load", "resplit", "fault")] == [1, 2, 1, 0]
    stats = max((sample.stats for sample in seen), key=lambda stats: stats.requests)
    assert stats.output_tok_s == pytest.approx(4 * 40, rel=0.5)
    assert stats.output_tok_s_per_accelerator == pytest.approx(stats.output_tok_s / 2)
    assert 0.009 < stats.itl_p50_s < 0.1
    assert stats.lost == 0
    until(lambda: open_files() <= files, "the closing of pipes")

    run = open_run(lab.run.path)
    records = run.records()
    recorded = summarise(records, measured.window, slo=Slo())
    assert recorded["failed"] == 0
    whole = [sample.stats for sample in seen if sample.stats.window_s == 5 and sample.stats.requests]
    assert len(whole) > 8
    for live in whole[:: len(whole) // 8]:  # of the same five seconds the records say the same, to the last bit
        at = {"hz": 0.1, "start_ns": live.end_ns - 10_000_000_000, "stop_ns": live.end_ns - 5_000_000_000}
        (kept,) = samples_of(records, run.windows, run.manifest, slo=Slo(ttft_s=0.000001), **at)
        now = {"failed": 0, "in_flight": 0}  # as of the tick, not of the window
        assert replace(kept.stats, **now) == replace(live, **now)
    again = list(samples_of(records, run.windows, run.manifest, hz=4, slo=Slo(ttft_s=0.000001)))
    assert [event.text for sample in again for event in sample.events if event.kind != "note"] == [
        event.text for event in watch.history.events if event.kind != "note"
    ]
    assert again[-1].topology == "1P1D"
    assert max(sample.stats.requests for sample in again) == pytest.approx(stats.requests, abs=25)
    assert any(worker.kv_transfer_bytes_s for sample in again for worker in sample.workers)
    assert any(sample.slow_ttft for sample in again)


def test_a_worker_that_dies_turns_red_with_its_cause_and_the_load_goes_on(open_lab: OpenLab):
    with open_lab() as lab, lab.watch(hz=10) as watch:
        load = lab.load(ENDLESS)
        until(lambda: load.progress and load.progress.done > 5, "load")
        os.kill(lab.deployment.workers[1].tree.pid, signal.SIGKILL)
        dead = until(lambda: watch.latest and next((w for w in watch.latest.workers if not w.alive), None), "the death")
        assert dead.name == "w1"
        assert dead.cause.startswith("w1 died while serving: it was killed by SIGKILL")
        until(lambda: watch.latest.stats.failed > 3, "failures")
        until(lambda: any(slow.why == "failed" for _, slow in watch.window.slow()), "a failed request among the slow")
        assert watch.latest.workers[0].alive
        lab.resplit("1A")
        until(lambda: watch.latest.topology == "1A", "the other that serves alone")
        assert [(worker.name, worker.cause) for worker in watch.latest.workers] == [("w0", ""), ("w1", dead.cause)]
        causes = {worker.cause for sample in watch.history.samples() for worker in sample.workers if not worker.alive}
        assert causes == {dead.cause}, "a change of the split is no restart"
        load.stop()
    faults = [event for event in watch.history.events if event.kind == "fault"]
    assert [fault.text for fault in faults] == [dead.cause]
    events = open_run(lab.run.path).records().events.to_pylist()
    (fault,) = (event for event in events if event["kind"] == "fault")
    assert fault["text"].partition("\n")[0] == dead.cause
    assert json.loads(fault["data"])["remedy"], "a reader of the run is told what to do"


def test_a_second_watch_takes_over_and_keeps_the_history(open_lab: OpenLab):
    with open_lab("1A") as lab:
        first = lab.watch(hz=20)
        until(lambda: len(first.history) > 2, "samples")
        second = lab.watch(hz=20)
        assert not first.alive
        assert len(watchers()) == 1
        count = len(second.history)
        assert count > 2
        until(lambda: len(second.history) > count, "more samples in the same history")
        times = [sample.t_s for sample in second.history.samples()]
        assert times == sorted(times)
        assert len(second.history.events) == 1  # the launch is told once
        assert "running" in repr(second)
    assert not watchers()
    assert "stopped" in repr(second)
    with pytest.raises(LaunchError, match="closed"):
        lab.watch()


def test_a_callback_that_raises_or_hangs_hurts_nobody(open_lab: OpenLab):
    held = threading.Event()
    calls: list[Sample] = []

    def broken(sample: Sample) -> None:
        calls.append(sample)
        if len(calls) == 3:
            held.wait(30)
        raise ValueError("mine")

    with open_lab("1A") as lab, lab.watch(broken, hz=20) as watch:
        until(lambda: len(calls) == 3, "a callback that hangs")
        measured = lab.measure(SHORT)
        assert measured.failed == 0
        assert len(calls) == 3
        held.set()
        until(lambda: len(calls) > 3, "the next call")
        assert str(watch.error) == "mine"
        until(lambda: watch.latest.stats.requests > 0, "what the pipe kept meanwhile")


def test_a_shard_that_dies_leaves_the_rest_in_the_picture(open_lab: OpenLab):
    with open_lab("1A", shards=2) as lab, lab.watch(hz=20) as watch:
        load = lab.load(ENDLESS)
        until(lambda: watch.latest and watch.latest.stats.requests > 10, "load")
        os.kill(lab._load.agents[0].pid, signal.SIGKILL)
        with pytest.raises(LoadError, match="code -9"):
            load.wait()
        count = len(watch.history)
        until(lambda: len(watch.history) > count + 5, "further samples")
        assert watch.latest.workers[0].alive
        assert watch.error is None
        with pytest.raises(LoadError, match="code -9"):
            lab.watch()
    assert not watchers()


def test_the_callback_may_stop_the_watch(open_lab: OpenLab):
    with open_lab("1A") as lab:
        watch = lab.watch(lambda _: lab._watch.stop(), hz=20)
        until(lambda: not watchers(), "the end of its thread")
        watch.stop()
        assert len(watch.history) == 1


def test_a_rate_that_cannot_be_meant(open_lab: OpenLab):
    with open_lab("1A") as lab:
        for hz in (0, -1, 1000, "4", True, None):
            with pytest.raises(SpecError, match="Hz"):
                lab.watch(hz=hz)
    assert not watchers()


def test_a_finished_load_ends_by_itself_beside_the_next(open_lab: OpenLab, engine: FakeEngine, tmp_path: Path):
    engine.everywhere = ["--token-s", "0.15"]
    with open_lab("1A") as lab:
        first = lab.load(endless(Workload(isl=8, osl=8, concurrency=4, requests=4)))
        until(lambda: first.progress and first.progress.sent == 4, "four requests")
        first.finish()
        first.finish()
        second = lab.load(endless(Workload(isl=8, osl=8, rate=20, arrivals="constant", requests=4)))
        until(lambda: second.progress and second.progress.done > 0, "answers of the second")
        one = first.wait()
        two = second.stop()
        assert one.counts == {"ok": 4}
        assert (one.window.side, one.window.repeat, two.window.repeat) == ("1A", 0, 1)
        assert "followed to its end" in one.window.stopped
        assert two.window.stopped == "by hand"
        assert one.window.end_ns > two.window.start_ns >= one.window.stop_ns
        third = lab.load(ENDLESS)
        until(lambda: third.progress and third.progress.done > 0, "answers of the third")
    run = open_run(lab.run.path)  # the third was left to the lab's end
    assert [window.measurement for window in run.windows] == [0, 1, 2]
    requests = run.records().requests.to_pydict()
    assert len(set(requests["request"])) == len(requests["request"])
    assert requests["measurement"].count(0) == 4


def test_what_a_stop_cancels_has_not_failed(open_lab: OpenLab, engine: FakeEngine):
    engine.everywhere = ["--token-s", "0.1"]  # 200 s an answer: none ends before the stop
    with open_lab("1A") as lab, lab.watch(hz=20) as watch:
        load = lab.load(replace(ENDLESS, osl=2000))
        until(lambda: watch.latest and watch.latest.stats.in_flight > 3, "requests under way")
        cancelled = load.stop().counts["cancelled"]
        until(lambda: watch.latest.stats.in_flight == 0, "the end of what was under way")
        assert cancelled > 3
        assert max(sample.stats.failed for sample in watch.history.samples()) == 0
        assert [slow for _, slow in watch.window.slow() if slow.why == "failed"] == []
    records = lab.run.records()
    assert max(sample.stats.failed for sample in samples_of(records, lab.run.windows, lab.run.manifest, hz=4)) == 0
