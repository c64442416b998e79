"""``labkit runs`` and ``labkit show`` on runs in every state that a crash can leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.cli.main import main
from labkit.errors import LaunchError
from labkit.measure.metrics import summarise
from labkit.measure.records import EVENTS
from labkit.measure.warmup import begin_at
from labkit.store import Run, SegmentWriter
from tests.support.saved_runs import WORKLOAD, saved_run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def said(capsys: pytest.CaptureFixture[str], *argv: str, results: Path, code: int = 0) -> str:
    assert main([*argv, "--results", str(results)]) == code
    out = capsys.readouterr().out
    assert "\x1b" not in out
    return out


def test_no_runs_is_no_error(capsys: pytest.CaptureFixture[str], results: Path):
    assert said(capsys, "runs", results=results).startswith("no runs in ")
    assert json.loads(said(capsys, "runs", "--json", results=results)) == []


def test_runs_are_listed_newest_first_with_what_is_in_them(capsys: pytest.CaptureFixture[str], results: Path):
    saved_run(results, "first", ("2A", "1P1D"), manifest={"kind": "compare"}, samples=False, spans=False)
    pretended = {"kind": "lab", "simulated": {"gpu": "h100_sxm"}}
    saved_run(results, "zeroth", ("2A",), manifest=pretended, samples=False, spans=False).update(started="2020-01-01T00:00:00Z")
    saved_run(results, "second", ("2A",), finish=False, windows=0, samples=False, spans=False).update(process={"pid": None})
    (results / "broken").mkdir()
    (results / "broken" / "manifest.json").write_text("{")
    head, *lines = said(capsys, "runs", results=results).splitlines()
    assert head.split() == ["run", "kind", "status", "started", "splits", "n", "size"]
    by_id = {line.split()[0]: line.split() for line in lines}
    assert [line.split()[0] for line in lines if "broken" not in line] == ["second", "first", "zeroth"]
    assert "2A (simulated)" in said(capsys, "runs", results=results)
    assert by_id["first"][1:3] == ["compare", "finished"]
    assert by_id["first"][6:9] == ["2A", "1P1D", "2"]
    assert by_id["second"][2] == "interrupted"
    assert by_id["broken"][2] == "unreadable"
    listed = json.loads(said(capsys, "runs", "--json", results=results))
    assert {info["id"]: info["measurements"] for info in listed} == {"first": 2, "second": 0, "zeroth": 1, "broken": 0}
    assert [info["id"] for info in listed if info["simulated"]] == ["zeroth"]


def test_show_counts_what_a_stop_cancelled_apart_from_what_failed(capsys: pytest.CaptureFixture[str], results: Path):
    saved_run(results, "mine", ("2A",), fail=0.3, ends="cancelled", spans=False, samples=False)
    (row,) = json.loads(said(capsys, "show", "mine", "--json", results=results))["windows"]
    figures = row["summary"]["values"]
    assert (figures["failed"], figures["cancelled"]) == (0, figures["requests"] - figures["completed"])
    out = said(capsys, "show", "mine", results=results)
    assert "cancelled" in out
    assert f"{figures['cancelled']:.0f} of {figures['requests']:.0f} requests were cancelled by a stop" in " ".join(out.split())


def test_show_says_what_a_run_was_and_measured(
    capsys: pytest.CaptureFixture[str], results: Path, monkeypatch: pytest.MonkeyPatch
):
    said_of_it = {
        "engines": {"name": "vllm", "vllm": "0.31"}, "workload": WORKLOAD.to_dict(), "hardware": {"summary": "2 cores"},
    }  # fmt: skip
    run = saved_run(results, "mine", manifest=said_of_it)
    monkeypatch.setenv("COLUMNS", "80")
    out = said(capsys, "show", "mi", results=results)
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "model    labkit-demo, dummy weights" in out
    assert "hardware 2 cores" in out
    assert "engine   vllm 0.31, labkit" in out
    assert f"workload {WORKLOAD}" in out
    assert "splits   2A, 1P1D" in out
    summary = summarise(run.records(), run.windows[0])
    assert summary["ttft_p50_s"] is not None
    row = next(line for line in out.splitlines() if line.startswith("2A")).split()
    assert row[1:5] == ["1", "2.0–14.0", f"{summary['requests']:.0f}", "0"]
    assert row[5] == f"{summary['ttft_p50_s'] * 1e3:.0f}/–a"
    assert f"a  {summary.reasons['ttft_p99_s']}" in out
    assert "Disaggregated (1P1D), against Aggregated (2A)" in out
    assert "requests.parquet" in out


def test_show_as_json_has_the_same_numbers(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "mine", samples=False, spans=False)
    shown = json.loads(said(capsys, "show", "latest", "--json", results=results))
    assert [row["window"]["side"] for row in shown["windows"]] == ["2A", "1P1D", "2A", "1P1D"]
    expected = summarise(run.records(), run.windows[1])
    assert shown["windows"][1]["summary"]["values"]["itl_p99_s"] == expected["itl_p99_s"]
    assert shown["verdict"]["headline"].startswith("Disaggregated (1P1D)")
    assert shown["rows"]["requests"] == run.records().requests.num_rows
    assert shown["manifest"]["seed"] == 7


def test_show_tells_what_went_wrong_and_what_to_do(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "hurt", ("2A",), finish=False)
    run.update(clock={"monotonic_ns": 5 * 10**9})
    died = LaunchError("w1 died while serving: it was killed [bold]\n  log: /x", remedy="restart [bold]it\x1b[2J")
    run.fault(died, t_ns=17 * 10**9)
    run.fault(died, text="a change failed: no", t_ns=18_500_000_000)
    run.note("of an older labkit", kind="fault", t_ns=19 * 10**9)
    run.finish()
    out = said(capsys, "show", "hurt", results=results)
    assert (
        "fault at 12.0 s: w1 died while serving: it was killed [bold]\n  → restart [bold]it\\x1b[2J\n"
        "fault at 13.5 s: a change failed: no\n  → restart [bold]it\\x1b[2J\n"
        "fault at 14.0 s: of an older labkit\n\n"
    ) in out
    told = json.loads(said(capsys, "show", "hurt", "--json", results=results))["faults"]
    assert [(fault["t_s"], fault["text"][:6], fault["remedy"][:7]) for fault in told] == [
        (12.0, "w1 die", "restart"), (13.5, "a chan", "restart"), (14.0, "of an ", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("data", ["{", "[1]", "7", '{"other": 1}'])
def test_a_fault_whose_data_is_no_remedy_is_shown_without_one(data: str, capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "hurt", ("2A",), finish=False)
    run.update(clock={})
    with SegmentWriter(run.segment("events", "other"), EVENTS) as writer:
        writer.append({"t_ns": [1], "kind": ["fault"], "text": ["it died"], "data": [data]})
    run.finish()
    assert "\nfault: it died\n\n" in said(capsys, "show", "hurt", results=results)


def truncate(run: Run) -> None:
    for segment in (run.path / "segments").iterdir():
        data = segment.read_bytes()
        segment.write_bytes(data[: len(data) * 2 // 3])


def test_a_measurement_that_was_cut_off_is_shown_with_the_bounds_recorded(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "cut", finish=False, windows=2)
    run.update(process={"pid": None})
    out = said(capsys, "show", "cut", results=results)
    assert out.splitlines()[0].split()[:2] == ["cut", "interrupted"]
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("2A", "1P1D"))] == ["2A", "1P1D", "2A*", "1P1D*"]
    assert "! 2A #2, 1P1D #2: cut off: its bounds are those of the requests recorded" in out
    assert "Disaggregated (1P1D), against" in out
    partial = json.loads(said(capsys, "show", "cut", "--json", results=results))["windows"][2]
    assert partial["partial"]
    assert partial["window"]["accelerators"] == 2
    assert partial["summary"]["values"]["requests"] > 0


@pytest.mark.parametrize("windows", [0, 1, 4])
def test_truncated_segments_are_shown_as_far_as_they_go(capsys: pytest.CaptureFixture[str], results: Path, windows: int):
    run = saved_run(results, "torn", finish=False, windows=windows)
    truncate(run)
    assert said(capsys, "show", "torn", results=results).startswith("torn  running")
    assert json.loads(said(capsys, "show", "torn", "--json", results=results))["id"] == "torn"


def test_a_run_without_a_request_says_so(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "bare", finish=False, windows=0)
    for segment in (run.path / "segments").iterdir():
        segment.unlink()
    assert "no measurement yet: 0 requests, 0 samples recorded" in said(capsys, "show", "bare", results=results)


def test_uncounted_tokens_are_a_footnote_and_not_zero(capsys: pytest.CaptureFixture[str], results: Path):
    saved_run(results, "attached", ("attached",), tokens_known=False, fail=0.3, samples=False, spans=False)
    out = said(capsys, "show", "attached", results=results)
    row = next(line for line in out.splitlines() if line.startswith("attached 1!")).split()
    note = next(line for line in out.splitlines() if line.endswith("the server does not say how many tokens a chunk holds"))
    assert row[6] == row[7] == row[8] == f"–{note[0]}"
    assert "requests failed" in out


@pytest.mark.parametrize("argv", [["show", "none"], ["show", "../../etc"], ["compare", "none"], ["export", "none"]])
def test_a_run_that_is_not_there_is_one_clear_error(capsys: pytest.CaptureFixture[str], results: Path, argv: list[str]):
    assert main([*argv, "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("labkit: ")
    assert "\n  → " in error
    assert "Traceback" not in error


def test_an_old_schema_is_refused_by_name(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "old", ("2A",), samples=False, spans=False)
    run.update(schema_version=0)
    assert main(["show", "old", "--results", str(results)]) == 2
    assert "schema version 0" in capsys.readouterr().err


def test_show_says_what_prefills_do_per_side(capsys: pytest.CaptureFixture[str], results: Path):
    saved_run(results, "one-side", ("2A",) * 3, rate=2.2, samples=False)
    saved_run(results, "separated", ("1P1D",), samples=False)
    out = said(capsys, "show", "one-side", results=results)
    assert "\nInterference in 2A: prefills on the same worker lengthen a token's gap by +" in out
    shown = json.loads(said(capsys, "show", "one-side", "--json", results=results))["windows"]
    assert len(shown) == 3
    assert any(window["interference"]["worker"]["value"] is not None for window in shown)
    out = said(capsys, "show", "separated", results=results)
    assert "Interference in 1P1D: undefined: dedicated decode workers never prefill" in out


def test_windows_say_how_they_were_cut_and_which_are_marked(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "cut", samples=False)
    records = run.records()
    for window in run.windows[:2]:
        run.add_window(begin_at(records, window, 3, "warm-up found: the first 3 requests left out (MSER-5 of TTFT)"))
    run.add_window(replace(run.windows[2], stopped="saturated: arrivals 4/s, completions 2/s over the last 12 s, 30 in flight"))
    out = said(capsys, "show", "cut", results=results)
    lines = [line for line in out.splitlines() if line.startswith(("2A ", "1P1D "))]
    assert lines[2].split()[1] == "2!", "it was stopped for saturation"
    begin = (run.windows[0].measure_ns - run.windows[0].start_ns) / 1e9
    assert lines[0].split()[2] == f"{begin:.1f}–14.0"
    assert "2A #1, 1P1D #1: warm-up found: the first 3 requests left out (MSER-5 of TTFT)" in out
    assert "2A #2: stopped early: saturated: arrivals 4/s, completions 2/s over the last 12 s" in out


def test_what_an_experiment_concluded_is_shown_where_two_sides_do_not(capsys: pytest.CaptureFixture[str], results: Path):
    saved_run(results, "swept", ("2A",), manifest={"answer": "Start prefill workers with 210 tokens a step."})
    out = said(capsys, "show", "swept", results=results)
    assert "Start prefill workers with 210 tokens a step." in out
    assert "Interference in 2A" not in out
    empty = saved_run(results, "said", ("2A",), windows=0, samples=False, spans=False)
    empty.write_summary({"verdict": "nothing to set"})
    assert "nothing to set" in said(capsys, "show", "said", results=results)
