"""Secrets around real engines: they are in nothing that a run leaves, worker logs included, and on no command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from labkit.cli.main import main
from labkit.lab import Lab
from labkit.serve.engines.base import EngineOptions
from labkit.serve.interpreter import engine_python, versions
from labkit.serve.timing import save_timing
from labkit.spec import Workload
from tests.support.canaries import CANARY, EXTRA_ENV, VARIABLES, command_lines, found_in
from tests.support.profiles import handmade_profile
from tests.support.waiting import MARK

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

needs_dynamo = pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed")


@pytest.mark.parametrize(
    "engine", ["vllm", pytest.param("dynamo", marks=needs_dynamo), pytest.param("mocker", marks=needs_dynamo)]
)
def test_secrets_stay_where_they_are(
    engine: str, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(MARK, own := f"{mark}-canaries-{engine}")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    results, given = tmp_path / "results", tmp_path / "given"
    simulated: dict[str, Any] = {}
    if engine == "mocker":
        simulated["timing"] = str(save_timing([handmade_profile(kv_transfer_bytes_s=50e9)], tmp_path / "timing"))
    work = Workload(isl=64, osl=8, rate=2.0, duration_s=3.0)
    options = EngineOptions(extra_env=EXTRA_ENV, **simulated)
    with (
        command_lines(own) as seen,
        Lab("demo", "2A", engine=engine, options=options, workload=work, results=results, name="mine") as lab,
    ):
        assert lab.measure().failed == 0
        lab.resplit("1P1D")
        assert lab.measure().failed == 0
        lab.run.note(f"sent Authorization: Bearer {os.environ['OPENAI_API_KEY']}", data={"headers": dict(os.environ)})
    assert len(seen) > 6, "supervisors, workers, routers or frontends, shard, sampler"
    assert not [line for line in seen.values() if CANARY.encode() in line]
    given.mkdir()
    for command in (
        ["report", "--out", str(given / "page.html")],
        ["export", "mine", "--out", str(given), "--format", "json,csv,svg,html"],
    ):
        assert main([*command, "--results", str(results)]) == 0
    capsys.readouterr()
    assert main(["show", "mine", "--results", str(results)]) == 0
    assert CANARY not in capsys.readouterr().out
    assert found_in(tmp_path) == []
    assert [path for path in results.rglob("logs/w*.log") if path.stat().st_size], "the workers' own words were looked through"
