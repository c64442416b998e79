from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit.cli.main import main
from labkit.experiments import compare, table
from labkit.spec import Slo
from labkit.store import open_run
from tests.support.saved_runs import saved_run

LIGHT = {"samples": False, "spans": False}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "results"
    saved_run(folder, "both", **LIGHT)
    saved_run(folder, "aggregated", ("2A", "2A"), **LIGHT)
    saved_run(folder, "disaggregated", ("1P1D", "1P1D"), **LIGHT)
    saved_run(folder, "larger", ("2P2D", "2P2D"), **LIGHT)
    saved_run(folder, "empty", ("2A",), windows=0, finish=False, **LIGHT)
    saved_run(folder, "told", rate=2.0)
    saved_run(folder, "three", ("3A", "1P2D", "2P1D"), **LIGHT)
    return folder


def said(capsys: pytest.CaptureFixture[str], *argv: str, results: Path) -> str:
    assert main(["compare", *argv, "--results", str(results)]) == 0
    return capsys.readouterr().out


def test_two_sides_of_a_run(capsys: pytest.CaptureFixture[str], results: Path):
    out = said(capsys, "both", results=results)
    comparison = compare(open_run("both", results).records(), "2A", "1P1D", slo=Slo())
    assert out.startswith(table(comparison))
    assert "Disaggregated (1P1D), against Aggregated (2A), " in out


def test_the_slo_is_the_runs_own(capsys: pytest.CaptureFixture[str], results: Path):
    shown = json.loads(said(capsys, "both", "--json", results=results))
    assert shown["slo"]["tpot_s"] == Slo().tpot_s
    assert next(row for row in shown["rows"] if row["key"] == "goodput_request_s")["a"] is not None
    assert shown["verdict"]["headline"]


def test_two_runs_with_the_same_figures_as_one_of_both(capsys: pytest.CaptureFixture[str], results: Path):
    apart = json.loads(said(capsys, "aggregated", "disaggregated", "--json", results=results))
    together = json.loads(said(capsys, "both", "--json", results=results))
    for one, other in zip(apart["rows"], together["rows"], strict=True):
        assert one["key"] == other["key"]
        for side in ("a", "b"):
            assert one[side] == (None if other[side] is None else pytest.approx(other[side], rel=1e-6))
    assert "separate runs" in " ".join(apart["notes"])


def test_sides_can_be_named(capsys: pytest.CaptureFixture[str], results: Path):
    out = said(capsys, "three", "--sides", "1P2D", "2P1D", results=results)
    assert "Disaggregated (2P1D), against Disaggregated (1P2D)" in out


@pytest.mark.parametrize(
    ("argv", "message", "remedy"),
    [
        (["aggregated"], "has the sides 2A", "--sides A B"),
        (["aggregated", "aggregated"], "'2A' of run aggregated was named twice", "each side once"),
        (["both", "--sides", "2A", "9A"], "'9A' was not measured", "2A, 1P1D"),
        (["both:9A", "three"], "'9A' was not measured", "2A, 1P1D"),
        (["both", "three", "larger", "--sides", "2A", "3A"], "cannot choose among these", "RUN:SIDE"),
        (["none", "both"], "there is no run 'none'", "labkit runs"),
        (["both", "empty"], "run empty has no finished measurement", "name another run"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    capsys: pytest.CaptureFixture[str], results: Path, argv: list[str], message: str, remedy: str
):
    assert main(["compare", *argv, "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[0]
    assert remedy in error.splitlines()[1]


def test_unequal_hardware_gives_values_and_says_why_there_is_no_ratio(capsys: pytest.CaptureFixture[str], results: Path):
    out = said(capsys, "aggregated", "larger", results=results)
    assert "no ratios for larger: unequal hardware: 2A held 2 cores, 2P2D 4 cores" in out
    assert "--allow-unequal" in out
    assert "×" not in out
    assert "against Aggregated" not in out


def test_unequal_hardware_is_labelled_where_it_is_allowed(capsys: pytest.CaptureFixture[str], results: Path):
    out = said(capsys, "aggregated", "larger", "--allow-unequal", results=results)
    assert "UNEQUAL HARDWARE" in out


def test_two_runs_are_headed_by_what_differs(capsys: pytest.CaptureFixture[str], results: Path):
    out = said(capsys, "aggregated", "disaggregated", results=results)
    lines = out.splitlines()
    assert lines[0].split() == ["aggregated", "disaggregated"]
    assert lines[1].split() == ["2A", "1P1D"]
    at = lines.index("what differs")
    assert lines[at + 1].split() == ["topology", "2A", "1P1D"]
    assert "same in all: accelerators 2 cores, workload.isl 512" in out
    assert "Disaggregated (1P1D), against Aggregated (2A), " in out


def test_many_columns_are_told_apart_and_only_equal_ones_have_ratios(capsys: pytest.CaptureFixture[str], results: Path):
    out = said(capsys, "aggregated", "disaggregated", "three:1P2D", results=results)
    head = out.splitlines()[0].split()
    assert head == ["aggregated", "disaggregated", "three"]
    row = next(line for line in out.splitlines() if line.startswith("TTFT p50"))
    assert row.count("×") == 1, "of the equal one"
    assert "no ratios for three: unequal hardware" in out
    shown = json.loads(said(capsys, "aggregated", "disaggregated", "three:1P2D", "--json", results=results))
    assert [(column["run"], column["side"]) for column in shown["columns"]] == [
        ("aggregated", "2A"), ("disaggregated", "1P1D"), ("three", "1P2D"),
    ]  # fmt: skip
    assert shown["differs"]["topology"] == ["2A", "1P1D", "1P2D"]
    ratios = [[cell["ratio"] for cell in column["cells"].values()] for column in shown["columns"]]
    assert [any(of_column) for of_column in ratios] == [False, True, False]


def test_imported_runs_are_compared_and_marked(capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path):
    fixtures = Path(__file__).parents[1] / "store" / "imports" / "fixtures"
    for name in ("one", "other"):
        source = str(fixtures / "vllm_0.31_bench_serve.json")
        assert main(["import", source, "--name", f"vllm-{name}", "--accelerators", "2", "--results", str(results)]) == 0
    capsys.readouterr()
    out = " ".join(said(capsys, "vllm-one", "vllm-other", results=results).split())
    assert "no difference of p50 TTFT shown (34.0 and 34.0 ms" in out
    assert "measured by vllm bench serve and imported; not recorded: the schedule (send lag)" in out
    assert "an imported side does not say all of its work" in out
    peer = str(fixtures / "aiperf_0.13" / "profile_export.jsonl")
    assert main(["import", peer, "--name", "aiperf", "--accelerators", "2", "--results", str(results)]) == 0
    assert "by vllm bench serve and aiperf, which do not define every instant alike" in " ".join(
        said(capsys, "vllm-one", "aiperf", results=results).split()
    )
    mixed = said(capsys, "aggregated", "vllm-one", "disaggregated", results=results)
    assert "no ratios for vllm-one: unequal hardware: 2A held 2 cores, vllm bench serve 2 GPUs" in mixed
    assert "imported in vllm-one only" in mixed
    assert "dummy weights in aggregated and disaggregated only" in mixed


def test_why_adds_where_the_time_went(capsys: pytest.CaptureFixture[str], results: Path):
    out = said(capsys, "told", "--why", results=results)
    assert out.startswith(said(capsys, "told", results=results))
    assert "\nwaiting for prefill " in out
    assert "\n1. " in out
    shown = json.loads(said(capsys, "told", "--why", "--json", results=results))["why"]
    assert [row["stage"] for row in shown["stages"]][:2] == ["send_lag", "routing"]
    assert shown["causes"][0]["kind"] == "prefill"


@pytest.mark.parametrize(
    ("name", "says"), [("both", "no worker told of any request of 2A"), ("three", "--why is asked of two sides")]
)
def test_why_needs_spans_and_two_sides(capsys: pytest.CaptureFixture[str], results: Path, name: str, says: str):
    assert main(["compare", name, "--why", "--results", str(results)]) == 2
    assert says in capsys.readouterr().err
