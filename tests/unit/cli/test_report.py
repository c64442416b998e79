from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit.cli.main import main
from labkit.store.run import list_runs
from tests.support.saved_runs import saved_run


@pytest.fixture
def results(tmp_path: Path) -> Path:
    saved_run(tmp_path / "results", "one", ("2A", "1P1D"))
    return tmp_path / "results"


def test_all_runs_become_a_page_in_a_run_of_its_own(results: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Report on 1 run\n")
    (made,) = (info for info in list_runs(results) if info.kind == "report")
    assert (made.path / "report.html").is_file()
    assert out.rstrip().endswith(f"{made.id}/report.html")


def test_a_page_elsewhere_leaves_no_run(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "pages" / "mine.html"
    assert main(["report", "one", "--out", str(page), "--results", str(results)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [info.id for info in list_runs(results)] == ["one"]
    assert capsys.readouterr().out.rstrip().endswith("mine.html")


def test_verdicts_as_json_write_nothing(results: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "one", "--json", "--results", str(results)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == ["one"]
    assert {"key", "claim", "outcome", "reason"} <= set(found["claims"][0])
    assert [info.id for info in list_runs(results)] == ["one"]


def test_a_run_that_is_not_there_is_one_error(results: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "two", "--results", str(results)]) == 2
    assert capsys.readouterr().err.startswith("labkit: there is no run 'two'")
