"""AIPerf's files: real ones (0.13, with warm-up, failures, bundled and single chunks), and variations of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labkit.errors import StoreError
from labkit.measure.metrics import summarise
from labkit.measure.records import UNRECORDED
from labkit.measure.timing import chunk_gaps
from labkit.measure.validity import marks_of
from labkit.spec.workload import talk_text
from labkit.store import Run
from labkit.store.imports import import_files

REAL = Path(__file__).parent / "fixtures" / "aiperf_0.13"
TURNS = REAL.with_name("aiperf_0.13_turns")
RECORDS, SUMMARY = "profile_export.jsonl", "profile_export_aiperf.json"


@pytest.fixture
def real(tmp_path: Path) -> Run:
    return import_files([REAL / RECORDS], tmp_path / "results")[0]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of the real files in which ``change`` has edited every record (in place), and ``config`` the summary's load."""

    def make(change: Callable[[dict[str, Any]], object] = lambda _: None, *, summary: bool = True, **config: Any) -> Path:
        folder = tmp_path / "artifacts"
        folder.mkdir()
        records = [json.loads(line) for line in (REAL / RECORDS).read_text().splitlines()]
        for record in records:
            change(record)
        (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
        if summary:
            told = json.loads((REAL / SUMMARY).read_text())
            told["input_config"].update(config)
            (folder / SUMMARY).write_text(json.dumps(told))
        return folder / RECORDS

    return make


def test_figures_are_those_that_the_tool_reports(real: Run):
    told = json.loads((REAL / SUMMARY).read_text())
    records = real.records()
    summary = summarise(records, real.windows[0])
    assert (summary["requests"], summary["completed"], summary["failed"]) == (16, 13, 3)
    assert summary["ttft_p50_s"] == pytest.approx(told["time_to_first_token"]["p50"] / 1e3)
    assert summary["e2e_p50_s"] == pytest.approx(told["request_latency"]["p50"] / 1e3)
    gaps = chunk_gaps(records)
    gaps = gaps.select(gaps.measured & gaps.ok)
    assert len(gaps) == told["inter_chunk_latency"]["count"]
    for name, value in (("p50", 50), ("p99", 99)):
        assert np.percentile(gaps.gap_s, value) * 1e3 == pytest.approx(told["inter_chunk_latency"][name])
    assert real.manifest["source"]["reported"][0]["time_to_first_token_p50_ms"] == told["time_to_first_token"]["p50"]


def test_the_warm_up_is_no_part_of_the_measurement(real: Run):
    rows = real.records().requests.to_pylist()
    window = real.windows[0]
    assert all((row["sent_ns"] >= window.measure_ns) == (row["phase"] == "measure") for row in rows)
    for phase, count in (("warmup", 2), ("measure", 16)):
        assert sorted(row["index"] for row in rows if row["phase"] == phase) == list(range(count))


def test_instants_are_those_of_the_file_and_the_credit_is_the_schedule(real: Run):
    records = map(json.loads, (REAL / RECORDS).read_text().splitlines())
    told = {record["metadata"]["x_request_id"]: record for record in records}
    wall_ns = real.manifest["clock"]["wall_ns"]
    for row in real.records().requests.to_pylist():
        about = told[row["sent_id"]]["metadata"]
        assert row["scheduled_ns"] + wall_ns == about["credit_issued_ns"]
        assert row["sent_ns"] + wall_ns == about["request_start_ns"]
        assert row["end_ns"] + wall_ns == about["request_end_ns"]
    assert summarise(real.records(), real.windows[0])["send_lag_p50_s"] > 0


def test_counts_of_the_server_come_first_and_others_are_labelled(real: Run, tmp_path: Path, changed: Callable[..., Path]):
    rows = real.records().requests.to_pylist()
    assert {(row["tokens_from"], row["prompt_tokens"]) for row in rows if row["outcome"] == "ok"} == {("usage", 7)}

    def without_usage(record: dict[str, Any]) -> None:
        for name in [name for name in record["metrics"] if name.startswith("usage_")]:
            del record["metrics"][name]

    (own,) = import_files([changed(without_usage)], tmp_path / "results")
    rows = own.records().requests.to_pylist()
    assert {(row["tokens_from"], row["prompt_tokens"]) for row in rows if row["outcome"] == "ok"} == {("retokenised", 24)}
    assert {row["tokens_from"] for row in rows if row["outcome"] != "ok"} == {None}


def test_failures_keep_status_kind_and_reason(real: Run):
    failed = {row["index"]: row for row in real.records().requests.to_pylist() if row["outcome"] != "ok"}
    kinds = sorted((row["outcome"], row["http_status"]) for row in failed.values())
    assert kinds == [("cut", None), ("http_error", 500), ("http_error", 500)]
    assert any(row["reason"].startswith("HTTP 500: ") for row in failed.values())


def test_the_load_and_the_model_come_from_the_summary(real: Run):
    work = real.windows[0].workload
    assert (work["rate"], work["concurrency"], work["arrivals"], work["requests"]) == (20.0, 4, "poisson", 16)
    assert (work["api"], work["isl"], work["seed"]) == ("completions", UNRECORDED, UNRECORDED)
    assert real.manifest["model"] == {"name": "mock"}
    source = real.manifest["source"]
    assert (source["version"], source["tokenizer"]) == ("0.13.0", "tokenizer")
    assert [file["name"] for file in source["files"]] == [RECORDS, SUMMARY]


def test_records_without_a_summary_say_nothing_of_the_load(tmp_path: Path, changed: Callable[..., Path]):
    (run,) = import_files([changed(summary=False)], tmp_path / "results")
    assert {run.windows[0].workload[name] for name in ("rate", "concurrency", "api")} == {UNRECORDED}
    assert (run.manifest["model"], run.manifest["source"]["version"]) == (None, None)


@pytest.mark.parametrize(
    ("phase", "known"),
    [
        ({"type": "concurrency", "concurrency": 8, "duration": 30.0}, (None, 8, "poisson", 1.0)),
        ({"type": "gamma", "rate": 2.0, "smoothness": 0.5}, (2.0, None, "gamma", 0.5)),
        ({"type": "constant", "rate": 2.0}, (2.0, None, "constant", 1.0)),
        ({"type": "fixed_schedule"}, (UNRECORDED, UNRECORDED, UNRECORDED, UNRECORDED)),
    ],
)
def test_loads_that_the_lab_has_words_for(tmp_path: Path, changed: Callable[..., Path], phase: dict[str, Any], known: Any):
    path = changed(phases=[{"name": "warmup", "kind": "warmup", "type": "constant"}, {"kind": "profiling", **phase}])
    work = import_files([path], tmp_path / "results")[0].windows[0].workload
    assert (work["rate"], work["concurrency"], work["arrivals"], work["burstiness"]) == known
    assert work["duration_s"] == (phase.get("duration") if phase["type"] != "fixed_schedule" else UNRECORDED)


def test_a_summary_stands_for_the_records_beside_it(tmp_path: Path):
    both = import_files([REAL / SUMMARY, REAL / RECORDS], tmp_path / "results")
    assert len(both) == 1
    alone = tmp_path / "alone" / SUMMARY
    alone.parent.mkdir()
    shutil.copy(REAL / SUMMARY, alone)
    with pytest.raises(StoreError, match=r"AIPerf's summary.*profile_export\.jsonl is not beside it"):
        import_files([alone], tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["metadata"].update(request_start_ns=2**70), "request_start_ns"),
        (lambda record: record["metadata"].update(request_end_ns=-1), "request_end_ns is -1"),
        (lambda record: record["metadata"].update(request_end_ns=1), "ended before it began"),
        (lambda record: record["metadata"].update(session_num="x"), r"Expected `int`, got `str`.*session_num"),
        (lambda record: record.pop("metadata"), "no result file that labkit knows"),
        (lambda record: record["metrics"].update(time_to_first_token={"value": -1, "unit": "ms"}), "time_to_first_token is -1"),
        (lambda record: record["metrics"].update(time_to_first_token={"value": 1, "unit": "fortnights"}), "no unit of time"),
        (lambda record: record["metrics"].update(usage_completion_tokens={"value": 1e12, "unit": "tokens"}), "no count"),
        (lambda record: record["metadata"].update(benchmark_phase="warmup"), "no request of the profiling phase"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, changed: Callable[..., Path], change: Any, message: str):
    with pytest.raises(StoreError, match=message):
        import_files([changed(change)], tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_turns_of_conversations_are_those_that_the_tool_held(tmp_path: Path):
    run = import_files([TURNS / RECORDS], tmp_path / "results")[0]
    told = {}
    for record in map(json.loads, (TURNS / RECORDS).read_text().splitlines()):
        told[record["metadata"]["x_request_id"]] = record["metadata"]
    rows = run.records().requests.to_pylist()
    assert len(rows) == len(told) == 20
    held = {}
    for row in rows:
        about = told[row["sent_id"]]
        assert row["turn"] == about["turn_index"]
        assert row["turns"] is None, "the file does not say how many there were to be"
        assert held.setdefault(row["conversation"], about["x_correlation_id"]) == about["x_correlation_id"]
    warm = {row["conversation"] for row in rows if row["phase"] == "warmup"}
    measured = {row["conversation"] for row in rows if row["phase"] == "measure"}
    assert (warm, measured) == ({-1, -2}, {0, 1, 2, 3}), "the warm-up holds two of the same data set"
    firsts = sorted((row["scheduled_ns"], row["conversation"]) for row in rows if row["turn"] == 0 and row["conversation"] >= 0)
    assert sorted(number for _, number in firsts) == [0, 1, 2, 3]
    assert "the turns that each conversation was to have" in run.manifest["source"]["not_recorded"]


def test_the_load_of_conversations_is_named_in_the_labs_words(tmp_path: Path):
    work = import_files([TURNS / SUMMARY], tmp_path / "results")[0].windows[0].workload
    assert (work["turns"], work["think_s"], work["history"]) == ("normal:3,1", "normal:0.1,0.02", "served")
    assert (work["concurrency"], work["rate"], work["requests"]) == (2, None, UNRECORDED)
    assert talk_text(work) == "normal:3,1 turns, think normal:0.1,0.02 s, served history"


def test_a_failed_turn_is_a_failure_and_nothing_is_said_of_turns_after_it(tmp_path: Path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    records = [json.loads(line) for line in (TURNS / RECORDS).read_text().splitlines()]
    records[-1]["error"] = {"code": 500, "type": "HTTPError", "message": "engine died"}
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
    run = import_files([folder / RECORDS], tmp_path / "results")[0]
    text = marks_of(run.digest(), run.windows[0], run.manifest)[0].text
    assert "1 of 17 requests failed" in text
    assert "later turns" not in text


def test_requests_of_their_own_belong_to_no_conversation(real: Run):
    table = real.records().requests
    assert table["conversation"].null_count == table["turn"].null_count == len(table)


@pytest.mark.parametrize("turn", [-1, 2**15])
def test_a_turn_that_cannot_be_is_damage(changed: Callable[..., Path], tmp_path: Path, turn: int):
    path = changed(lambda record: record["metadata"].update(turn_index=turn))
    with pytest.raises(StoreError, match=f"turn_index is {turn}"):
        import_files([path], tmp_path / "results")
