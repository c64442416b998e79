from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit.cli.main import main
from labkit.experiments.pins import keep_pin
from tests.support.saved_runs import saved_run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def export(capsys: pytest.CaptureFixture[str], *argv: str, results: Path) -> list[Path]:
    assert main(["export", *argv, "--results", str(results)]) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def test_figures_go_to_the_runs_folder_and_are_what_their_names_say(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "mine", ("2A", "1P1D"))
    paths = export(capsys, "mine", "--format", "svg,html", results=results)
    assert {path.parent for path in paths} == {run.path / "figures"}
    assert {"comparison.svg", "comparison.html", "distributions.svg"} <= {path.name for path in paths}
    for path in paths:
        assert ("<svg" if path.suffix == ".svg" else "<html") in path.read_text()[:2000]


def test_measurements_are_saved_as_vllm_bench_saves_them(capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path):
    run = saved_run(results, "mine", ("2A", "1P1D"), samples=False, spans=False, fail=0.2)
    paths = export(capsys, "mine", "--format", "json", "--out", str(tmp_path / "other place"), results=results)
    assert [path.name for path in paths] == ["vllm-bench-0-2A-1.json", "vllm-bench-1-1P1D-1.json"]
    saved = json.loads(paths[0].read_text())
    requests = run.records().requests.to_pylist()
    counted = [row for row in requests if row["measurement"] == 0 and row["phase"] == "measure"]
    assert saved["completed"] == sum(row["outcome"] == "ok" for row in counted)
    assert saved["failed"] == sum(row["outcome"] != "ok" for row in counted) > 0
    assert saved["total_output_tokens"] == sum(row["output_tokens"] for row in counted if row["outcome"] == "ok")
    assert len(saved["itls"]) == len(counted)
    assert any("requests failed" in note for note in saved["labkit_notes"]), "its marks go with it"


def test_a_page_of_any_run_says_what_it_was_and_fetches_nothing(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "mine", ("2A", "1P1D"))
    keep_pin(run, run.windows[0], "first <pin>", name="mine-pin1")
    (path,) = export(capsys, "mine", "--format", "page", results=results)
    assert path == run.path / "exploration.html"
    page = path.read_text(encoding="utf-8")
    assert "<h1>Exploration of " in page
    assert "run mine" in page
    assert "first &lt;pin&gt;" in page
    assert "mine-pin1" in page
    assert "<script src=" not in page
    assert '<link rel="stylesheet" href="http' not in page


def test_a_run_that_was_cut_off_can_be_exported(capsys: pytest.CaptureFixture[str], results: Path):
    saved_run(results, "cut", ("2A", "1P1D"), finish=False, windows=1)
    names = [path.name for path in export(capsys, "cut", "--format", "svg,json", results=results)]
    assert "vllm-bench-1-1P1D-1.json" in names
    assert "distributions.svg" in names


def test_an_unknown_format_is_refused_before_anything_is_written(capsys: pytest.CaptureFixture[str], results: Path):
    run = saved_run(results, "mine", ("2A",), samples=False, spans=False)
    assert main(["export", "mine", "--format", "svg,doc", "--results", str(results)]) == 2
    assert capsys.readouterr().err.startswith("labkit: unknown format 'doc'\n  → use some of png,svg,pdf,html,json,csv,parquet")
    assert not (run.path / "figures").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path):
    saved_run(results, "mine", ("2A",), samples=False, spans=False)
    (tmp_path / "file").touch()
    for kind in ("svg", "json", "csv", "parquet"):
        assert main(["export", "mine", "--format", kind, "--out", str(tmp_path / "file"), "--results", str(results)]) == 2
        assert "cannot" in capsys.readouterr().err.splitlines()[0]


def test_tables_go_where_figures_go(capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path):
    run = saved_run(results, "mine", ("2A", "1P1D"), samples=False, spans=False)
    paths = export(capsys, "mine", "--format", "csv,parquet", results=results)
    names = ["tidy-requests.csv", "tidy-chunks.csv", "tidy-requests.parquet", "tidy-chunks.parquet"]
    assert [path.name for path in paths] == names
    assert {path.parent for path in paths} == {run.path / "figures"}
    before = (run.path / "requests.parquet").read_bytes()
    export(capsys, "mine", "--format", "parquet", "--out", str(run.path), results=results)
    assert (run.path / "requests.parquet").read_bytes() == before, "the run's own tables are not touched"
