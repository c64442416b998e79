"""Files of ``vllm bench serve``: a real one (0.31, with failures, bundled and single chunks), and those that labkit writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labkit.errors import StoreError
from labkit.measure.metrics import summarise
from labkit.measure.records import UNRECORDED
from labkit.spec import Workload
from labkit.store import Run
from labkit.store.imports import import_files
from labkit.store.vllm_bench import to_vllm_bench
from tests.support.saved_runs import saved_run

REAL = Path(__file__).parent / "fixtures" / "vllm_0.31_bench_serve.json"
LATENCIES = [f"{of}_{name}_ms" for of in ("median", "p99", "mean", "std") for name in ("ttft", "tpot", "itl", "e2el")]
TOTALS = ["completed", "failed", "total_input_tokens", "total_output_tokens", "num_prompts"]
LOAD = ["request_rate", "burstiness", "max_concurrency", "backend"]


def imported(path: Path, results: Path, **options: Any) -> Run:
    (run,) = import_files([path], results, **options)
    return run


def again(run: Run, number: int = 0) -> dict[str, Any]:
    return to_vllm_bench(run.records(), run.windows[number], model="m", date="d")


@pytest.fixture
def real(tmp_path: Path) -> Run:
    return imported(REAL, tmp_path / "results")


def changed(tmp_path: Path, **fields: Any) -> Path:
    """The real file with other fields; ``None`` leaves one out."""
    data = {**json.loads(REAL.read_text()), **fields}
    path = tmp_path / "changed.json"
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))
    return path


def test_a_real_file_gives_back_the_figures_that_the_tool_computed(real: Run):
    told, found = json.loads(REAL.read_text()), again(real)
    for name in LATENCIES:
        assert found[name] == pytest.approx(told[name], rel=1e-9), name
    assert {name: found[name] for name in TOTALS + LOAD} == {name: told[name] for name in TOTALS + LOAD}
    for name in ("ttfts", "latencies", "start_times"):
        where = np.array(told["errors"]) == ""
        assert np.array(found[name])[where] == pytest.approx(np.array(told[name])[where], abs=1e-9), name


def test_failures_keep_their_kind_and_the_last_line_of_their_error(real: Run):
    rows = real.records().requests.to_pylist()
    failed = {row["index"]: (row["outcome"], row["reason"]) for row in rows if row["outcome"] != "ok"}
    assert failed[4] == failed[14] == ("http_error", "Whatever")
    outcome, reason = failed[7]
    assert outcome == "cut"
    assert reason.startswith("aiohttp.client_exceptions.ClientPayloadError: Response payload is not completed")
    assert rows[7]["end_ns"] is None


def test_tokens_of_a_chunk_are_known_only_where_the_counts_leave_no_choice(real: Run):
    records = real.records()
    of = {number: [] for number in range(16)}
    for row in records.chunks.to_pylist():
        of[row["request"]].append(row["tokens"])
    assert of[0] == [1] * 12, "as many chunks as tokens"
    assert of[2] == [None] * 3, "12 tokens in 3 chunks"
    assert of[8] == [12], "a single chunk holds them all"
    assert of[7] == [None] * 6, "the tool counts no tokens of a failed request"
    assert of[4] == []
    summary = summarise(records, real.windows[0])
    assert summary["ttft_p50_s"] == pytest.approx(json.loads(REAL.read_text())["median_ttft_ms"] / 1e3)
    assert summary["itl_p50_s"] is None


def test_what_the_file_does_not_say_is_none_with_a_reason(real: Run):
    rows = real.records().requests.to_pylist()
    for row in rows:
        assert row["scheduled_ns"] is row["osl"] is row["done"] is row["tokens_from"] is row["http_status"] is None
        assert (row["isl"] is None) == (row["outcome"] == "ok"), "input_lens of an answered request are the server's usage"
    summary = summarise(real.records(), real.windows[0])
    assert summary["send_lag_p50_s"] is None
    assert summary.reasons["send_lag_p50_s"] == "no request was sent on a recorded schedule"
    assert summary.reasons["ttft_from_schedule_p50_s"] == "the schedule was not recorded"
    manifest = real.manifest
    assert (manifest["kind"], manifest["engines"], manifest["git"], manifest["seed"]) == ("import", {}, None, None)
    assert (manifest["clock"]["wall_ns"], manifest["versions"]) == (None, {})
    assert manifest["source"]["version"] is None
    work = real.windows[0].workload
    assert (work["rate"], work["concurrency"], work["requests"], work["api"]) == (20.0, 4, 16, "completions")
    assert work["isl"] == work["seed"] == UNRECORDED


def test_the_source_is_named_by_its_hash_and_keeps_the_tools_own_figures(real: Run):
    import hashlib

    source = real.manifest["source"]
    (file,) = source["files"]
    assert file == {"name": REAL.name, "bytes": REAL.stat().st_size, "sha256": hashlib.sha256(REAL.read_bytes()).hexdigest()}
    told = json.loads(REAL.read_text())
    assert source["reported"][0]["p99_itl_ms"] == told["p99_itl_ms"]
    assert source["reported"][0]["output_throughput"] == told["output_throughput"]
    assert source["tool"] == "vllm bench serve"
    assert real.manifest["model"] == {"name": "mock"}


@pytest.mark.parametrize("options", [{}, {"fail": 0.3}, {"tokens_known": False}])
def test_what_labkit_exports_comes_back_bit_by_bit(tmp_path: Path, options: dict[str, Any]):
    original = saved_run(tmp_path / "results", "own", ("2A",), samples=False, spans=False, **options)
    told = to_vllm_bench(original.records(), original.windows[0], model="m", date="d")
    path = tmp_path / "own.json"
    path.write_text(json.dumps(told))
    found = again(imported(path, tmp_path / "results"))
    timed = ("duration", "_throughput")
    assert {name: value for name, value in found.items() if not name.endswith(timed)} == {
        name: value for name, value in told.items() if not name.endswith(timed)
    }


@pytest.mark.parametrize(
    ("load", "told"),
    [
        ({"arrivals": "ramp:1-8", "duration_s": 60.0}, {"arrivals": "ramp:1-8"}),
        ({"arrivals": "burst:10@5/20", "requests": 9, "burstiness": 0.5}, {"arrivals": "burst:10@5/20", "burstiness": 0.5}),
        ({"trace": "/data/hour.jsonl", "time_scale": 0.5}, {"trace": "hour.jsonl", "arrivals": "trace", "time_scale": 0.5}),
        ({"rate": 2.0, "turns": 3, "requests": 9}, {"rate": 2.0, "turns": "3", "history": "seeded"}),
    ],
)
def test_a_load_that_vllm_has_no_words_for_is_not_invented(tmp_path: Path, load: dict[str, Any], told: dict[str, Any]):
    original = saved_run(tmp_path / "results", "own", ("2A",), samples=False, spans=False)
    window = replace(original.windows[0], workload=Workload.from_dict(load).to_dict())
    written = to_vllm_bench(original.records(), window, model="m", date="d")
    assert (written["request_rate"], written["max_concurrency"]) == ("inf", None)
    path = tmp_path / "own.json"
    path.write_text(json.dumps(written))
    run = imported(path, tmp_path / "results")
    work = run.windows[0].workload
    assert {name: work[name] for name in told} == told
    assert (work["concurrency"], work["rate"], work["isl"]) == (None, load.get("rate"), UNRECORDED)
    assert again(run)["labkit_load"] == written["labkit_load"]
    with pytest.raises(StoreError, match="labkit_load"):
        imported(changed(tmp_path, labkit_load={"rate": -1}), tmp_path / "results")


def test_a_file_of_append_result_has_a_window_a_line(tmp_path: Path):
    told = json.loads(REAL.read_text())
    path = tmp_path / "sweep.json"
    rates = (10.0, 10.0, "inf")
    path.write_text("\n".join(json.dumps({**told, "request_rate": rate, "label": "mine"}) for rate in rates))
    run = imported(path, tmp_path / "results")
    assert [(window.side, window.repeat) for window in run.windows] == [
        ("mine @ 10 req/s", 0), ("mine @ 10 req/s", 1), ("mine @ 4 concurrent", 0),
    ]  # fmt: skip
    records = run.records()
    assert records.requests["request"].to_pylist() == list(range(48))
    for number in range(3):
        assert again(run, number)["median_itl_ms"] == pytest.approx(told["median_itl_ms"], rel=1e-9)


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"request_rate": "inf", "max_concurrency": None}, (None, 16, "poisson", 1.0)),
        ({"request_rate": "inf"}, (None, 4, "poisson", 1.0)),
        ({"burstiness": "inf"}, (20.0, 4, "constant", 1.0)),
        ({"burstiness": float("inf")}, (20.0, 4, "constant", 1.0)),
        ({"burstiness": 0.5, "max_concurrency": None}, (20.0, None, "gamma", 0.5)),
        ({"ramp_up_strategy": "linear", "ramp_up_start_rps": 1, "ramp_up_end_rps": 8}, (None, 4, "linear ramp-up 1-8", 1.0)),
    ],
)
def test_the_load_is_that_of_the_file(tmp_path: Path, fields: dict[str, Any], known: tuple[Any, ...]):
    work = imported(changed(tmp_path, **fields), tmp_path / "results").windows[0].workload
    assert (work["rate"], work["concurrency"], work["arrivals"], work["burstiness"]) == known


def test_a_window_is_cut_as_the_lab_cuts_its_own(tmp_path: Path):
    told = json.loads(REAL.read_text())
    first, last = told["start_times"][0], told["start_times"][-1]
    results = tmp_path / "results"
    closed = imported(changed(tmp_path, request_rate="inf"), results).windows[0]
    assert closed.measure_ns == pytest.approx(first * 1e9, abs=1)
    assert closed.length_s == pytest.approx(last - first, abs=1e-9), "a closed loop drains after its last send"
    at_a_rate = imported(changed(tmp_path, max_concurrency=None), results).windows[0]
    assert at_a_rate.length_s == pytest.approx(last - first + 1 / 20, abs=1e-9)
    at_once = imported(changed(tmp_path, request_rate="inf", max_concurrency=None), results).windows[0]
    assert at_once.stop_ns == at_once.end_ns
    assert at_once.end_ns / 1e9 == pytest.approx(max(np.add(told["start_times"], told["latencies"])), abs=1e-9)


def test_files_of_older_versions_lack_latencies_and_say_the_same(tmp_path: Path, real: Run):
    older = imported(changed(tmp_path, latencies=None, queue_times=None, failed=None), tmp_path / "results")
    assert again(older) == again(real)


@pytest.mark.parametrize("missing", ["ttfts", "itls", "start_times", "errors"])
def test_a_file_without_single_requests_is_refused_with_the_remedy(tmp_path: Path, missing: str):
    with pytest.raises(StoreError, match=f"has no {missing}") as caught:
        imported(changed(tmp_path, **{missing: None}), tmp_path / "results")
    assert "--save-detailed" in caught.value.remedy
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("Never received a valid chunk to calculate TTFT.This response will be marked as failed!", "short"),
        ("Traceback (most recent call last):\n  File\nTimeoutError\n", "timeout"),
        ("Traceback (most recent call last):\naiohttp.client_exceptions.ClientConnectorError: Cannot connect\n", "refused"),
        ("Traceback (most recent call last):\njson.decoder.JSONDecodeError: Expecting value\n", "bad_stream"),
        ("Payload Too Large", "http_error"),
    ],
)
def test_errors_in_vllms_words(tmp_path: Path, error: str, outcome: str):
    told = json.loads(REAL.read_text())
    run = imported(changed(tmp_path, errors=[error, *told["errors"][1:]]), tmp_path / "results")
    assert run.records().requests["outcome"][0].as_py() == outcome


def test_no_error_and_no_chunk_is_a_failure_too(tmp_path: Path):
    told = json.loads(REAL.read_text())
    path = changed(tmp_path, errors=[""] * 16, ttfts=[0.0, *told["ttfts"][1:]], itls=[[], *told["itls"][1:]])
    row = imported(path, tmp_path / "results").records().requests.to_pylist()[0]
    assert (row["outcome"], row["reason"]) == ("http_error", "the file does not say why")
