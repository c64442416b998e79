"""The shard in this process, against the oracle: phases, re-splits, stopping, sharing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from itertools import pairwise
from typing import ClassVar

import pytest

from labkit.errors import LoadError, StoreError
from labkit.load.shard import Shard
from labkit.load.target import Target
from labkit.measure.records import CHUNKS, REQUESTS
from labkit.spec import Workload
from tests.support.oracle_server import OracleServer


class Rows:
    """A sink that keeps rows as dicts; ``fails`` makes it a full disk."""

    def __init__(self, schema) -> None:
        self.schema, self.rows, self.fails, self.flushed = schema, [], False, 0

    def append(self, columns) -> None:
        if self.fails:
            raise StoreError("disk full", remedy="free some")
        assert set(columns) == set(self.schema.names)
        self.rows += [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        self.flushed = 0

    def flush(self) -> None:
        self.flushed = len(self.rows)


class Bench:
    made: ClassVar[list[Bench]] = []

    def __init__(self, shard: int = 0) -> None:
        self.made.append(self)
        self.said: list[dict] = []
        self.requests, self.chunks = Rows(REQUESTS), Rows(CHUNKS)
        self.shard = Shard(shard=shard, requests=self.requests, chunks=self.chunks, say=self.said.append, nonce="n")

    def heard(self, said: str) -> list[dict]:
        return [message for message in self.said if message["said"] == said]


def run(main):
    """Run to the end, and close every connection while the event loop is there to do it."""

    async def whole():
        try:
            return await main
        finally:
            while Bench.made:
                for client in Bench.made.pop().shard._clients.values():
                    client.close()

    return asyncio.run(whole())


@pytest.fixture(scope="module")
def server():
    with OracleServer() as running:
        yield running


def target(server, model="plain?ttft=5&itl=2") -> Target:
    return Target(server.url, model, 4096)


async def until(reached, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not reached():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("load", [{"concurrency": 4}, {"rate": 60.0}])
def test_warm_up_requests_are_apart_and_leave_the_measured_ones_alone(server, load):
    async def drive():
        bench = Bench()
        bench.shard.target(3, target(server))
        result = await bench.shard.run(2, Workload(isl=8, osl=4, requests=12, warmup_s=0.3, **load), first_request=100)
        return bench, result

    bench, result = run(drive())
    warm = [row for row in bench.requests.rows if row["phase"] == "warmup"]
    measured = sorted((row for row in bench.requests.rows if row["phase"] == "measure"), key=lambda row: row["index"])
    assert [row["index"] for row in measured] == list(range(12))
    assert warm
    assert all(row["index"] < 0 and row["scheduled_ns"] < result.measure_ns for row in warm)
    assert all(row["scheduled_ns"] >= result.measure_ns for row in measured)
    ids = {row["request"] for row in bench.requests.rows}
    assert ids == set(range(100, result.next_request))
    assert {(row["measurement"], row["epoch"], row["shard"]) for row in bench.requests.rows} == {(2, 3, 0)}
    assert result.start_ns + 300_000_000 == result.measure_ns < result.stop_ns <= result.end_ns + 20_000_000
    assert result.counts == {"ok": len(ids)}
    assert bench.requests.flushed == len(bench.requests.rows)
    last = bench.heard("progress")[-1]
    assert (last["output_tokens"], last["begun"]) == (4 * len(ids), len(ids))
    assert {row["request"] for row in bench.chunks.rows} == ids


@pytest.mark.parametrize(
    "load",
    [
        {"concurrency": 4, "requests": 12},
        {"rate": 60.0, "requests": 12, "prefix_groups": 2, "prefix_tokens": 4},
        {"concurrency": 2, "requests": 12, "turns": 2},
    ],
    ids=["plain", "shared prefixes", "conversations"],
)
def test_a_measurement_that_is_over_leaves_nothing_that_waits_for_the_garbage_collector(server, load):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server))
        await bench.shard.run(0, Workload(isl=8, osl=4, **load), first_request=0)
        gc.collect()
        gc.disable()
        try:
            result = await bench.shard.run(1, Workload(isl=8, osl=4, **load), first_request=100)
            was = weakref.ref(bench.shard.builder)
            await bench.shard.run(2, Workload(isl=8, osl=4, **load), first_request=result.next_request)
            return was()
        finally:
            gc.enable()

    assert run(drive()) is None


def test_a_closed_loop_keeps_its_concurrency_for_its_duration(server):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server))
        return bench, await bench.shard.run(0, Workload(isl=8, osl=4, concurrency=3, duration_s=0.5), first_request=0)

    bench, result = run(drive())
    rows = bench.requests.rows
    assert result.stop_ns == result.measure_ns + 500_000_000
    assert all(row["scheduled_ns"] < result.stop_ns for row in rows)
    edges = sorted([(row["sent_ns"], 1) for row in rows] + [(row["end_ns"], -1) for row in rows])
    alive = peak = 0
    for _, step in edges:
        alive += step
        peak = max(peak, alive)
    assert peak == 3
    assert len(rows) > 6


def test_a_resplit_moves_new_requests_and_marks_those_under_way(server):
    async def drive():
        bench = Bench()
        shard = bench.shard
        shard.target(0, target(server, "plain?ttft=5&itl=60"))
        running = asyncio.create_task(shard.run(0, Workload(isl=8, osl=6, concurrency=4, requests=12), first_request=0))
        await until(lambda: shard._in_flight[0] == 4 and bench.heard("first_sent"))
        shard.target(1, target(server, "bundled?ttft=5&itl=1"))
        return bench, await running

    bench, result = run(drive())
    assert result.counts == {"ok": 12}
    by_epoch = {epoch: [row for row in bench.requests.rows if row["epoch"] == epoch] for epoch in (0, 1)}
    assert [len(rows) for rows in by_epoch.values()] == [4, 8]
    assert all(row["straddled"] for row in by_epoch[0])
    assert not any(row["straddled"] for row in by_epoch[1])
    assert [message["epoch"] for message in bench.heard("first_sent")] == [0, 1]
    (drained,) = bench.heard("drained")
    assert drained["epoch"] == 0
    assert drained["t_ns"] >= max(row["end_ns"] for row in by_epoch[0])
    assert min(row["sent_ns"] for row in by_epoch[1]) == bench.heard("first_sent")[1]["t_ns"]


def test_an_idle_epoch_is_drained_at_once(server):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server))
        bench.shard.target(1, target(server))
        return bench

    assert [message["epoch"] for message in run(drive()).heard("drained")] == [0]


@pytest.mark.parametrize("load", [{"concurrency": 3, "duration_s": 600.0}, {"rate": 200.0, "requests": 100_000}])
def test_stopping_keeps_what_was_recorded(server, load):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server, "plain?ttft=5&itl=40"))
        running = asyncio.create_task(bench.shard.run(0, Workload(isl=8, osl=50, **load), first_request=0))
        await until(lambda: any(message["output_tokens"] > 5 for message in bench.heard("progress")))
        bench.shard.stop()
        return bench, await running

    bench, result = run(drive())
    assert result.stopped
    assert set(result.counts) == {"cancelled"}
    assert result.counts["cancelled"] == len(bench.requests.rows)
    assert result.measure_ns <= result.stop_ns <= result.end_ns
    started = [row for row in bench.requests.rows if row["output_tokens"]]
    assert started
    for row in started:
        assert sum(chunk["tokens"] for chunk in bench.chunks.rows if chunk["request"] == row["request"]) == row["output_tokens"]


@pytest.mark.parametrize("load", [{"concurrency": 3}, {"rate": 80.0}, {"concurrency": 3, "turns": 5, "think_s": 0.05}])
def test_a_finished_measurement_follows_its_requests_while_the_next_sends(server, load):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server, "plain?ttft=300&itl=20"))
        first = asyncio.ensure_future(bench.shard.run(0, Workload(isl=8, osl=8, duration_s=60.0, **load), first_request=5))
        await until(lambda: bench.shard._live)
        bench.shard.finish(0)
        bench.shard.finish(0)
        (finished,) = bench.heard("finished")
        under_way = len(bench.shard._live)
        again = Workload(isl=8, osl=2, concurrency=1, requests=2)
        second = asyncio.ensure_future(bench.shard.run(1, again, first_request=finished["next_request"]))
        return bench, under_way, await first, await second

    bench, under_way, first, second = run(drive())
    assert first.counts == {"ok": under_way}
    assert (first.stopped, second.stopped) == (True, False)
    assert second.counts == {"ok": 2}
    assert first.end_ns > second.start_ns >= first.stop_ns
    numbers = [row["request"] for row in bench.requests.rows]
    assert sorted(numbers) == list(range(5, 5 + under_way + 2))
    assert {row["request"] for row in bench.requests.rows if row["measurement"] == 1} == {5 + under_way, 6 + under_way}
    last = {message["measurement"]: message for message in bench.heard("progress")}
    assert (last[0]["sent"], last[1]["sent"], last[1]["output_tokens"], last[1]["begun"]) == (under_way, 2, 4, 2)


def test_a_stop_ends_the_measurement_that_is_named_and_no_other(server):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server, "plain?ttft=300&itl=20"))
        first = asyncio.ensure_future(bench.shard.run(0, Workload(isl=8, osl=8, concurrency=2, requests=2), first_request=0))
        await until(lambda: len(bench.shard._live) == 2)
        bench.shard.finish(0)
        second = asyncio.ensure_future(bench.shard.run(1, Workload(isl=8, osl=2, concurrency=1, requests=1), first_request=2))
        await until(lambda: len(bench.shard._live) == 3)
        bench.shard.stop(0)
        return await first, await second

    first, second = run(drive())
    assert (first.counts, second.counts) == ({"cancelled": 2}, {"ok": 1})


def test_a_stop_before_the_first_step_loses_no_request(server):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server, "silent"))
        running = asyncio.create_task(bench.shard.run(0, Workload(isl=8, osl=4, concurrency=2, requests=9), first_request=0))
        await until(lambda: bool(bench.shard._live))
        bench.shard.stop()
        await running
        return bench, running.result()

    bench, result = run(drive())
    assert len(bench.requests.rows) == result.next_request > 0
    assert {row["outcome"] for row in bench.requests.rows} == {"cancelled"}


def test_shards_share_one_schedule(server):
    async def drive():
        rows, chunks = [], 0
        work = Workload(isl="uniform:4-60", osl="uniform:1-5", rate=200.0, arrivals="poisson", requests=20, seed=4)
        for number in range(3):
            bench = Bench(number)
            bench.shard.target(0, target(server))
            result = await bench.shard.run(0, work, first_request=10, shards=3)
            rows += bench.requests.rows
            chunks += len(bench.chunks.rows)
            assert result.next_request > max(row["request"] for row in bench.requests.rows)
        return rows

    rows = run(drive())
    assert sorted(row["index"] for row in rows) == list(range(20))
    assert len({row["request"] for row in rows}) == 20
    assert {row["index"] % 3 == row["shard"] for row in rows} == {True}


@pytest.mark.parametrize("load", [{"concurrency": 3}, {"rate": 100.0}])
@pytest.mark.parametrize("api", ["completions", "chat"])
def test_same_seed_same_conversations_byte_for_byte_whatever_the_shards(server, api, load):
    work = Workload(isl="uniform:5-40", osl="uniform:2-6", turns="uniform:1-4", requests=14, seed=9, api=api, **load)

    async def drive(shards):
        rows = []
        for number in range(shards):
            bench = Bench(number)
            bench.shard.target(0, target(server, "plain?ttft=2&itl=0"))
            await bench.shard.run(0, work, first_request=0, shards=shards)
            rows += bench.requests.rows
        return rows

    seen, places = [], []
    for shards in (1, 3):
        start = len(server.log)
        rows = run(drive(shards))
        sha = {truth.request_id: truth.body_sha for truth in server.log[start:]}
        assert all(row["conversation"] % shards == row["shard"] for row in rows)
        seen.append({row["index"]: sha[row["sent_id"]] for row in rows})
        places.append({row["index"]: (row["conversation"], row["turn"], row["isl"], row["osl"]) for row in rows})
    assert sorted(seen[0]) == list(range(14))
    assert seen[0] == seen[1]
    assert places[0] == places[1]
    assert len(set(seen[0].values())) == 14


def test_a_conversation_goes_on_at_the_new_router_with_all_that_was_said(server):
    async def drive():
        bench = Bench()
        shard = bench.shard
        shard.target(0, target(server, "plain?ttft=2&itl=0"))
        work = Workload(isl=8, osl=3, turns=6, think_s=0.02, concurrency=2, requests=12)
        running = asyncio.create_task(shard.run(0, work, first_request=0))
        await until(lambda: len(bench.requests.rows) + len(shard._rows) >= 5)
        shard.target(1, target(server, "bundled?ttft=2&itl=0"))
        return bench, await running

    start = len(server.log)
    bench, result = run(drive())
    assert result.counts == {"ok": 12}
    rows = sorted(bench.requests.rows, key=lambda row: row["index"])
    heard = {truth.request_id: truth for truth in server.log[start:]}
    for turns in (rows[:6], rows[6:]):
        prompts = [heard[row["sent_id"]].prompt for row in turns]
        assert all(after[: len(before)] == before for before, after in pairwise(prompts))
        assert [len(prompt) for prompt in prompts] == [8 + 11 * turn for turn in range(6)]
        assert [row["epoch"] for row in turns] == sorted(row["epoch"] for row in turns)
    assert {row["epoch"] for row in rows} == {0, 1}
    assert {heard[row["sent_id"]].model for row in rows if row["epoch"]} == {"bundled"}


@pytest.mark.parametrize("load", [{"concurrency": 2}, {"rate": 50.0}])
def test_stopping_ends_those_who_think_too(server, load):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server, "plain?ttft=2&itl=0"))
        work = Workload(isl=8, osl=3, turns=6, think_s=600.0, requests=12, **load)
        running = asyncio.create_task(bench.shard.run(0, work, first_request=0))
        await until(lambda: len(bench.requests.rows) == 2)
        bench.shard.stop()
        return bench, await running

    bench, result = run(drive())
    assert result.stopped
    assert result.counts == {"ok": 2}
    assert result.unsent == 0
    assert [(row["conversation"], row["turn"]) for row in bench.requests.rows] == [(0, 0), (1, 0)]


def test_a_full_disk_ends_the_load_with_its_reason(server):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server))
        bench.chunks.fails = True
        with pytest.raises(StoreError, match="disk full"):
            await bench.shard.run(0, Workload(isl=8, osl=4, concurrency=2, duration_s=600.0), first_request=0)

    run(drive())


def test_chunks_that_cannot_be_written_cost_no_record(server):
    """Found by the fault campaign: a request had no record where the disk was full when its last chunk came."""

    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server))
        bench.chunks.fails = True
        with pytest.raises(StoreError, match="disk full"):
            await bench.shard.run(0, Workload(isl=8, osl=4, concurrency=1, requests=2), first_request=0)
        return bench

    assert [row["outcome"] for row in run(drive()).requests.rows] == ["ok", "ok"]


def test_a_server_that_refuses_at_once_is_not_hammered(server):
    async def drive():
        bench = Bench()
        bench.shard.target(0, target(server, "http503"))
        await bench.shard.run(0, Workload(isl=8, osl=4, concurrency=2, duration_s=0.5), first_request=0)
        return bench

    rows = run(drive()).requests.rows
    assert {row["outcome"] for row in rows} == {"http_error"}
    assert 2 <= len(rows) <= 2 * 6


def test_no_target_and_two_at_once_are_refused(server):
    async def drive():
        bench = Bench()
        work = Workload(isl=8, osl=4, concurrency=1, requests=2)
        with pytest.raises(LoadError, match="no target"):
            await bench.shard.run(0, work, first_request=0)
        bench.shard.target(0, target(server))
        running = asyncio.create_task(bench.shard.run(0, work, first_request=0))
        await asyncio.sleep(0)
        with pytest.raises(LoadError, match="measurement 0 is running"):
            await bench.shard.run(1, work, first_request=0)
        await running

    run(drive())
