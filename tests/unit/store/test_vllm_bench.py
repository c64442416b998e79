"""The exported dict against vLLM's own definitions, worked out by hand."""

from __future__ import annotations

import json

import pytest

from labkit.measure.digest import digest
from labkit.measure.records import CHUNKS, REQUESTS, Records, Window
from labkit.spec import Workload
from labkit.store.vllm_bench import save_vllm_bench, to_vllm_bench

S = 1_000_000_000
MS = 1_000_000
#: fields of ``vllm bench serve --save-result --save-detailed`` (0.31) with --percentile-metrics ttft,tpot,itl,e2el
FIELDS = {
    *("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate", "burstiness"),
    *("max_concurrency", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens"),
    *("request_throughput", "request_goodput", "output_throughput", "total_token_throughput", "input_lens", "output_lens"),
    *("ttfts", "itls", "latencies", "start_times", "queue_times", "generated_texts", "errors", "max_output_tokens_per_s"),
    *("max_concurrent_requests", "rtfx"),
    *(f"{of}_{metric}_ms" for of in ("mean", "median", "std", "p99") for metric in ("ttft", "tpot", "itl", "e2el")),
}


def request(number, sent, end, outcome="ok", phase="measure", output=None, **fields):
    row = {
        "request": number, "measurement": 1, "index": number, "epoch": 0, "shard": 0, "phase": phase, "scheduled_ns": sent,
        "sent_ns": sent, "end_ns": end, "isl": 10, "osl": 4, "outcome": outcome, "http_status": 200, "reason": None,
        "done": True, "prompt_tokens": 10, "output_tokens": output, "tokens_from": "usage", "sent_id": None,
        "server_id": None, "straddled": False,
    }  # fmt: skip
    return {**row, **fields}


@pytest.fixture
def measured():
    start = 1000 * S
    requests = [
        request(9, start - S, start - S // 2, phase="warmup", index=-1, output=4),
        request(1, start + S, start + 2 * S, output=2),
        request(0, start, start + 500 * MS, output=4),
        request(2, start, start + 4 * S, "cut", output=3, reason="no end", prompt_tokens=None),
        request(3, start, start + 100 * MS, "refused", sent_ns=None, reason="cannot connect", prompt_tokens=None),
        request(8, start, start + S, output=4, measurement=0),
    ]
    rows = [(9, -900, 1), (9, -600, 3), (0, 5, 0), (0, 100, 1), (0, 200, 1), (0, 400, 2), (1, 1050, 1), (1, 1950, 1), (2, 10, 3)]
    rows.append((8, 10, 4))
    chunks = [{"request": r, "t_ns": start + at * MS, "tokens": n, "text": n > 0} for r, at, n in rows]
    import pyarrow as pa

    records = Records(
        requests=pa.Table.from_pylist(requests, schema=REQUESTS), chunks=pa.Table.from_pylist(chunks, schema=CHUNKS)
    )
    window = Window(
        measurement=1, side="x", topology="attached", repeat=0, epoch=0, start_ns=start - S, measure_ns=start,
        stop_ns=start + 2 * S, end_ns=start + 4 * S, accelerators=0, accelerator="GPU",
        workload=Workload(isl=10, osl=4, concurrency=3, requests=4).to_dict(),
    )  # fmt: skip
    return records, window


@pytest.fixture
def exported(measured):
    return to_vllm_bench(*measured, model="m", date="20260102-030405")


def test_the_fields_are_those_of_vllm_and_survive_json(exported):
    assert set(exported) == FIELDS
    assert json.loads(json.dumps(exported, allow_nan=False)) == exported


@pytest.mark.parametrize("at_once", [1, 10_000])
def test_the_file_that_is_written_piece_by_piece_holds_the_same(exported, measured, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("labkit.measure.ordered._AT_ONCE", at_once)
    records, window = measured
    parts = [records.chunks.slice(start, 3) for start in range(0, records.chunks.num_rows, 3)]
    for given in (records, digest(records, parts)):
        save_vllm_bench(given, window, tmp_path / "out.json", model="m", date="20260102-030405")
        text = (tmp_path / "out.json").read_text()
        assert json.loads(text) == exported
        assert list(json.loads(text)) == list(exported)


def test_requests_are_in_order_and_of_the_measure_phase_only(exported):
    assert (exported["completed"], exported["failed"], exported["num_prompts"]) == (2, 2, 4)
    assert exported["output_lens"] == [4, 2, 0, 0]
    assert exported["input_lens"] == [10, 10, 10, 10]
    assert exported["errors"] == ["", "", "cut: no end", "refused: cannot connect"]
    assert exported["start_times"][:2] == [1000.0, 1001.0]


def test_latencies_are_in_seconds_and_skip_chunks_without_tokens(exported):
    assert exported["ttfts"] == pytest.approx([0.1, 0.05, 0.01, 0.0])
    assert exported["latencies"][:2] == pytest.approx([0.4, 0.95])
    assert exported["itls"][0] == pytest.approx([0.1, 0.2])
    assert exported["itls"][1] == pytest.approx([0.9])
    assert exported["itls"][2:] == [[], []]


def test_statistics_are_in_milliseconds_and_of_completed_requests(exported):
    assert exported["median_ttft_ms"] == pytest.approx(75.0)
    assert exported["mean_tpot_ms"] == pytest.approx((300 / 3 + 900) / 2)
    assert exported["mean_itl_ms"] == pytest.approx((100 + 200 + 900) / 3)
    assert exported["mean_e2el_ms"] == pytest.approx(675.0)
    assert exported["std_ttft_ms"] == pytest.approx(25.0)


def test_throughput_is_over_the_time_to_the_last_end(exported):
    assert exported["duration"] == pytest.approx(4.0)
    assert (exported["total_input_tokens"], exported["total_output_tokens"]) == (20, 6)
    assert exported["request_throughput"] == pytest.approx(0.5)
    assert exported["output_throughput"] == pytest.approx(1.5)
    assert exported["total_token_throughput"] == pytest.approx(26 / 4)
    assert exported["max_output_tokens_per_s"] == 4.0  # 1 + 1 + 2 in the first second, 1 + 1 in the next
    assert exported["max_concurrent_requests"] == 1


def test_nothing_completed_gives_null_and_not_zero(exported):
    import pyarrow as pa

    window = Window(
        measurement=0, side="x", topology="attached", repeat=0, epoch=0, start_ns=0, measure_ns=0, stop_ns=S, end_ns=S,
        accelerators=0, accelerator="GPU", workload=Workload(rate=2.0, arrivals="constant", requests=1).to_dict(),
    )  # fmt: skip
    failed = request(0, 0, S, "http_error", measurement=0, reason="HTTP 500", prompt_tokens=None)
    records = Records(requests=pa.Table.from_pylist([failed], schema=REQUESTS), chunks=CHUNKS.empty_table())
    data = to_vllm_bench(records, window, model="m", date="d")
    assert (data["completed"], data["failed"], data["request_rate"], data["burstiness"]) == (0, 1, 2.0, "inf")
    assert (data["median_ttft_ms"], data["p99_itl_ms"], data["max_output_tokens_per_s"]) == (None, None, 0.0)
    assert data["itls"] == [[]]


@pytest.mark.parametrize("load", [{"rate": 2.0}, {"concurrency": 8}])
def test_a_rate_of_conversations_is_no_request_rate(load):
    window = Window(
        measurement=0, side="x", topology="attached", repeat=0, epoch=0, start_ns=0, measure_ns=0, stop_ns=S, end_ns=S,
        accelerators=0, accelerator="GPU", workload=Workload(turns=3, requests=9, **load).to_dict(),
    )  # fmt: skip
    data = to_vllm_bench(Records(REQUESTS.empty_table(), CHUNKS.empty_table()), window, model="m", date="d")
    assert (data["request_rate"], data["burstiness"], data["max_concurrency"]) == ("inf", 1.0, load.get("concurrency"))
    told = data.get("labkit_load", {})
    assert (told.get("rate"), told.get("turns")) == ((2.0, "3") if "rate" in load else (None, None)), "so it is told apart"
