from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from labkit.cli.main import main
from labkit.store import list_runs

FIXTURES = Path(__file__).parents[1] / "store" / "imports" / "fixtures"
VLLM, AIPERF = FIXTURES / "vllm_0.31_bench_serve.json", FIXTURES / "aiperf_0.13" / "profile_export.jsonl"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def test_files_become_runs_that_say_what_they_lack(capsys: pytest.CaptureFixture[str], results: Path):
    argv = ["import", str(VLLM), str(AIPERF), "--name", "peer", "--accelerators", "2", "--results", str(results)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith("peer  1 measurement, 16 requests, 3 failed")
    assert "measured by aiperf 0.13.0 and imported; not recorded: " in out
    assert sorted(info.id for info in list_runs(results)) == ["peer", "peer-2"]


def test_an_imported_run_is_shown_with_its_source_and_its_mark(capsys: pytest.CaptureFixture[str], results: Path):
    assert main(["import", str(AIPERF), "--name", "peer", "--side", "1P1D", "--results", str(results)]) == 0
    capsys.readouterr()
    assert main(["show", "peer", "--results", str(results)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "source aiperf 0.13.0, 2026-" in out
    assert "profile_export.jsonl (sha256 " in out
    assert "reported time_to_first_token_p50_ms 31.9" in out
    assert re.search(r"1P1D 1! \S+–\S+ 16 3 31\.9/", out)
    assert "! 1P1D #1: measured by aiperf 0.13.0 and imported; not recorded: " in out
    assert main(["show", "peer", "--json", "--results", str(results)]) == 0
    (window,) = json.loads(capsys.readouterr().out)["windows"]
    assert "imported" in [mark["kind"] for mark in window["marks"]]
    assert window["summary"]["values"]["send_lag_p50_s"] > 0


def test_an_imported_run_is_exported_in_every_form(capsys: pytest.CaptureFixture[str], results: Path):
    assert main(["import", str(VLLM), "--name", "peer", "--results", str(results)]) == 0
    capsys.readouterr()
    assert main(["export", "peer", "--format", "json,svg", "--results", str(results)]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    saved = json.loads(next(path for path in paths if path.suffix == ".json").read_text())
    told = json.loads(VLLM.read_text())
    same = ("date", "model_id", "tokenizer_id", "request_rate", "burstiness", "max_concurrency", "completed", "failed")
    assert {name: saved[name] for name in same} == {name: told[name] for name in same}
    assert {path.stem for path in paths if path.suffix == ".svg"} >= {"distributions", "timeline"}


def test_a_file_that_cannot_be_imported_is_one_clear_error(capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert main(["import", str(VLLM), str(bad), "--results", str(results)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("labkit: bad.json is no result file that labkit knows")
    assert "\n  → " in error
    assert not results.exists()
