"""The live copy against what the same shard wrote to disk: a window that holds a measurement says what ``summarise`` says."""

from __future__ import annotations

import pyarrow as pa
import pytest

from labkit.lab.load_fleet import LoadFleet
from labkit.live.sample import LiveStats
from labkit.live.window import LiveWindow
from labkit.load.feed import Batch
from labkit.measure.metrics import Summary, summarise
from labkit.measure.records import Records, Window
from labkit.spec import Slo, Workload
from labkit.store.segments import read_segment
from tests.support.waiting import until

SLO = Slo(ttft_s=0.1, tpot_s=0.050)


def watched(folder, url: str, model: str, workload: Workload, shards: int = 1) -> tuple[list[Batch], Records, Window]:
    """All batches of one measurement, and what it left on disk."""
    batches: list[Batch] = []
    with LoadFleet.start(folder, shards=shards) as fleet:
        fleet.target(0, url, model, vocab=4096)
        fleet.watch(5)
        result = fleet.run(0, workload).wait(60)

        def over() -> bool:
            batches.extend(batch for feed in fleet.feeds for batch in feed.read(5))
            newest = {batch.shard: batch for batch in batches}
            return len(newest) == shards and not any(batch.running or batch.in_flight for batch in newest.values())

        until(over, "the last batches")
    window = Window(
        measurement=0, side="1A", topology="1A", repeat=0, epoch=0, accelerators=2.0, accelerator="GPU",
        start_ns=result.start_ns, measure_ns=result.measure_ns, stop_ns=result.stop_ns, end_ns=result.end_ns,
        workload=workload.to_dict(),
    )  # fmt: skip
    requests, chunks = (
        pa.concat_tables([read_segment(folder / "segments" / f"{name}-shard{shard}.arrows") for shard in range(shards)])
        for name in ("requests", "chunks")
    )
    return batches, Records(requests, chunks, windows=(window,)), window


def stats(batches: list[Batch], start_ns: int, end_ns: int) -> LiveStats:
    live = LiveWindow((end_ns - start_ns) / 1e9, slo=SLO)
    for batch in batches:
        live.add(batch)
    found = live.tick(end_ns, accelerators=2.0).stats
    assert found.window_s == (end_ns - start_ns) / 1e9
    return found


def check(batches: list[Batch], records: Records, window: Window) -> tuple[LiveStats, Summary]:
    recorded = summarise(records, window, slo=SLO)
    assert recorded["failed"] == 0
    whole = stats(batches, window.start_ns, window.end_ns + 1)
    assert whole.requests == recorded["ttft_n"]
    assert whole.gaps == recorded["chunk_gap_n"]
    for name in ("ttft_p50_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s", "tok_s_per_user"):
        assert getattr(whole, name) == recorded[name], name
    inside = stats(batches, window.measure_ns, window.stop_ns)
    assert inside.output_tok_s == recorded["output_tok_s"]
    assert inside.output_tok_s_per_accelerator == recorded["output_tok_s_per_gpu"]
    assert inside.done_hz == recorded["request_s"]
    assert (whole.failed, whole.in_flight, whole.lost) == (0, 0, 0)
    goodput = recorded["goodput_request_s"]
    if goodput is None or window.workload["concurrency"] is not None:
        assert inside.goodput_hz == goodput
    else:
        assert whole.goodput_hz == pytest.approx(goodput * window.length_s / whole.window_s)
    return whole, recorded


@pytest.mark.parametrize(
    "model", ["plain?ttft=15&itl=4", "bundled?ttft=10&itl=4", "emptyfirst?ttft=5&itl=2", "nousage?ttft=5&itl=2"]
)
def test_a_window_that_is_a_measurement_has_its_numbers(server, tmp_path, model):
    work = Workload(isl=21, osl=12, concurrency=8, requests=120, timeout_s=30)
    batches, records, window = watched(tmp_path, server.url, model, work)
    whole, _ = check(batches, records, window)
    assert whole.ttft_p99_s is not None
    assert (whole.itl_p50_s is None) == (whole.output_tok_s is None) == model.startswith("nousage")
    assert sum(len(batch.sent) for batch in batches) == sum(len(batch.ended) for batch in batches) == 120


def test_the_copy_is_what_is_on_disk_in_the_same_order(server, tmp_path):
    work = Workload(isl=21, osl=12, concurrency=8, requests=60, timeout_s=30)
    batches, records, _ = watched(tmp_path, server.url, "nousage?ttft=10&itl=4", work)
    assert len(batches) > 1
    rows = [tuple(row) for batch in batches for row in batch.ended]
    assert rows == [tuple(row.values()) for row in records.requests.to_pylist()]
    copied = [[value for batch in batches for value in batch.chunks[n].tolist()] for n in range(4)]
    for name, values in zip(records.chunks.column_names, copied, strict=True):
        assert [None if name == "tokens" and value < 0 else value for value in values] == records.chunks[name].to_pylist()


def test_two_shards_are_one_window(server, tmp_path):
    work = Workload(isl=21, osl=12, concurrency=8, requests=120, timeout_s=30)
    batches, records, window = watched(tmp_path, server.url, "plain?ttft=10&itl=4", work, shards=2)
    check(batches, records, window)
    assert {batch.shard for batch in batches} == {0, 1}


def test_an_open_loop_and_too_few_values(server, tmp_path):
    work = Workload(isl=8, osl=4, rate=60, arrivals="constant", requests=30, timeout_s=30)
    whole, recorded = check(*watched(tmp_path, server.url, "plain?ttft=20&itl=5", work))
    assert whole.ttft_p99_s is recorded["ttft_p99_s"] is None
    assert recorded["goodput_request_s"] is not None


def test_failures_are_counted_and_are_no_goodput(server, tmp_path):
    work = Workload(isl=8, osl=8, concurrency=2, requests=6, timeout_s=30)
    batches, records, window = watched(tmp_path, server.url, "cut?ttft=5&itl=2", work)
    whole = stats(batches, window.start_ns, window.end_ns + 1)
    assert set(records.requests["outcome"].to_pylist()) == {"cut"}
    assert (whole.failed, whole.goodput_hz, whole.requests) == (6, 0.0, 6)
    assert whole.done_hz == pytest.approx(6 / whole.window_s)
