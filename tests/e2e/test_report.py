"""Notebook 06 over runs that are there: it needs no worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat

from labkit.store.run import list_runs, open_run
from tests.support.saved_runs import saved_run

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06_report.ipynb"


def test_the_report_notebook_judges_the_runs_of_its_folder(tmp_path: Path) -> None:
    results = tmp_path / "a b"
    saved_run(results, "steady", ("2A", "1P1D") * 2, duration_s=30.0)
    saved_run(results, "busy", ("2A", "1P1D"), duration_s=60.0, rate=3.0)
    command = [sys.executable, "-m", "labkit.cli.main", "run", str(NOTEBOOK), "-p", "resamples=100", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    (info,) = (info for info in list_runs(results) if info.kind == "report")
    run = open_run(info.path)
    assert run.status == "finished"
    assert set(run.manifest["of"]) == {"steady", "busy"}
    assert (run.path / "report.html").stat().st_size > 100_000
    outcomes = {one["key"]: one["outcome"] for one in (run.summary() or {})["claims"]}
    assert outcomes["interference"] == "reproduced"
    assert outcomes["two_nodes"] == "not tested"
    assert "✓ Prefill and decode on one accelerator disturb each other" in done.stdout
    executed = nbformat.read(run.path / "06_report.ipynb", as_version=4)
    pictures = [output for cell in executed.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 8
