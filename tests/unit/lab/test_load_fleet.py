"""Several shards are one load: the same requests, begun together, ended together."""

from __future__ import annotations

import os
import signal

import pyarrow as pa
import pytest

from labkit.errors import LoadError, SpecError
from labkit.lab import load_agent, load_fleet
from labkit.lab.load_fleet import LoadFleet, merged_progress, merged_result
from labkit.load.progress import LoadResult, Progress
from labkit.spec import Workload
from labkit.store.tables import read_table
from tests.support.oracle_server import OracleServer
from tests.support.waiting import until


@pytest.fixture(scope="module")
def server():
    with OracleServer() as running:
        yield running


@pytest.fixture
def fleet(tmp_path):
    with LoadFleet.start(tmp_path, shards=3) as running:
        yield running


def test_three_shards_send_one_schedule(server, fleet, tmp_path):
    heard = []
    fleet.on_progress = heard.append
    fleet.target(0, server.url, "plain?ttft=5&itl=1", vocab=4096)
    work = Workload(isl=8, osl=6, rate=200.0, arrivals="constant", requests=40)
    run = fleet.run(0, work, first_request=5)
    of_run = []
    run.on_progress = of_run.append
    result = run.wait(30)
    rows = read_table(tmp_path, "requests").sort_by("index")
    assert result.counts == {"ok": 40}
    assert rows["index"].to_pylist() == list(range(40))
    assert rows["shard"].to_pylist() == [index % 3 for index in range(40)]
    assert len(set(rows["request"].to_pylist())) == 40
    assert min(rows["request"].to_pylist()) == 5
    assert result.next_request > max(rows["request"].to_pylist())
    due = [(at - result.measure_ns) / 1e6 for at in rows["scheduled_ns"].to_pylist()]
    assert due == pytest.approx([5.0 * index for index in range(40)], abs=1e-3)
    assert fleet.first_sent_ns(0, 1) == min(rows["sent_ns"].to_pylist())
    assert heard[-1] == of_run[-1] == run.progress
    assert (run.progress.sent, run.progress.done, run.progress.output_tokens) == (40, 40, 240)


def test_slots_of_a_closed_loop_are_shared_out(server, fleet, tmp_path):
    fleet.target(0, server.url, "plain?ttft=60&itl=1", vocab=4096)
    assert fleet.run(0, Workload(isl=8, osl=4, concurrency=7, requests=14)).wait(30).counts == {"ok": 14}
    rows = read_table(tmp_path, "requests")
    first = [row["shard"] for row in rows.sort_by("sent_ns").to_pylist()[:7]]
    assert sorted(first) == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_every_request_of_a_closed_loop_is_sent_by_the_shard_of_its_slot(server, fleet, tmp_path, concurrency):
    fleet.target(0, server.url, "plain?ttft=1&itl=0", vocab=4096)
    assert fleet.run(0, Workload(isl=8, osl=2, concurrency=concurrency, requests=11)).wait(30).counts == {"ok": 11}
    rows = read_table(tmp_path, "requests").sort_by("index").to_pylist()
    assert [row["index"] for row in rows] == list(range(11))
    assert [row["shard"] for row in rows] == [index % concurrency % 3 for index in range(11)]


def test_a_stop_reaches_every_shard(server, fleet):
    fleet.target(0, server.url, "plain?ttft=5&itl=5", vocab=4096)
    run = fleet.run(0, Workload(isl=8, osl=400, concurrency=6, duration_s=600.0))
    until(lambda: run.progress is not None and run.progress.sent >= 6)
    run.stop()
    result = run.wait(30)
    assert (result.stopped, result.counts) == (True, {"cancelled": 6})


def test_the_death_of_one_shard_is_told_and_stops_the_others(server, fleet, tmp_path):
    fleet.target(0, server.url, "plain?ttft=5&itl=5", vocab=4096)
    run = fleet.run(0, Workload(isl=8, osl=400, concurrency=6, duration_s=600.0))
    until(lambda: run.progress is not None and run.progress.sent >= 6)
    os.kill(fleet.agents[1].pid, signal.SIGKILL)
    with pytest.raises(LoadError, match="load shard 1 ended with code -9"):
        run.wait(60)
    assert not run.alive
    others = read_table(tmp_path, "requests")
    assert sorted(others["shard"].to_pylist()) == [0, 0, 2, 2]
    assert pa.compute.unique(others["outcome"]).to_pylist() == ["cancelled"]
    with pytest.raises(LoadError):
        fleet.first_sent_ns(99, 1)


def test_a_load_that_one_shard_cannot_begin_is_sent_by_none(server, fleet, tmp_path):
    fleet.target(0, server.url, "plain?ttft=5&itl=5", vocab=4096)
    os.kill(fleet.agents[2].pid, signal.SIGKILL)
    until(lambda: not fleet.agents[2].alive, "the death")
    with pytest.raises(LoadError, match="load shard 2 ended with code -9"):
        fleet.run(0, Workload(isl=8, osl=400, concurrency=6, duration_s=600.0))
    for agent in fleet.agents[:2]:
        (begun,) = agent._runs.values()
        assert begun.result is not None, "it has ended"
        assert begun.result.stopped


@pytest.mark.parametrize("shards", [0, -1, 65, 1.5, True, "2"])
def test_shards_that_cannot_be_meant_are_refused(tmp_path, shards):
    with pytest.raises(SpecError, match="load shards"):
        LoadFleet.start(tmp_path, shards=shards)
    assert list(tmp_path.iterdir()) == []


def test_bounds_hold_those_of_every_shard():
    one = LoadResult(10, 20, 90, 100, {"ok": 3}, 7, 1.0)
    two = LoadResult(11, 21, 95, 99, {"ok": 1, "cut": 1}, 8, 4.0, stopped=True)
    assert merged_result([one, two]) == LoadResult(10, 20, 95, 100, {"ok": 4, "cut": 1}, 8, 4.0, stopped=True)
    told = merged_progress([Progress(5, 4, 3, 1, 1, {0: 1}, 30, 4), Progress(6, 2, 2, 0, 1, {0: 0, 1: 1}, 12, 2)])
    assert told == Progress(6, 6, 5, 1, 2, {0: 1, 1: 1}, 42, 6)
    assert merged_progress([]) is None


def test_a_shard_that_is_stopped_is_named_when_a_load_cannot_be_finished(server, fleet, monkeypatch: pytest.MonkeyPatch):
    """Found by the fault campaign: the message sent its reader to the server."""
    monkeypatch.setattr(load_fleet, "_FINISH_S", 1.5)
    monkeypatch.setattr(load_agent, "_SILENT_S", 1.0)
    fleet.target(0, server.url, "plain?ttft=5&itl=1", vocab=4096)
    run = fleet.run(0, Workload(isl=8, osl=4, concurrency=6, duration_s=600.0))
    until(lambda: run.progress is not None, "the load")
    os.kill(fleet.agents[1].pid, signal.SIGSTOP)
    try:
        with pytest.raises(
            LoadError, match=rf"load shard 1 \(process {fleet.agents[1].pid}\) has said nothing for \d+ s"
        ) as caught:
            run.finish()
        assert "kill -CONT" in caught.value.remedy
    finally:
        os.kill(fleet.agents[1].pid, signal.SIGCONT)
    run.stop()
    run.wait(30)
