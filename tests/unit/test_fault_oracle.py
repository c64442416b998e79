"""The oracle of the fault campaign finds what it is there to find."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults import oracle, truth
from tests.faults.expectation import UNHARMED, Expectation, endings, statuses
from tests.faults.leftovers import Around, left_behind
from tests.faults.stage import ROOT, Stage
from tests.faults.truth import Recorded, Served
from tests.faults.victims import Process
from tests.support.waiting import MARK

NOW = time.monotonic_ns()
ANY = Expectation(endings=endings("finished"), statuses=statuses("finished"), path_hit=True)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A scene that was never started."""
    stage = Stage()
    yield stage
    stage.clear()


def row(number: int, outcome: str = "ok", tokens: int = 4) -> dict[str, Any]:
    return {"request": number, "sent_id": name(number), "outcome": outcome, "output_tokens": tokens, "reason": None}


def name(number: int) -> str:
    return f"labkit-0123abcd-{number}"


def answered(*numbers: int, server: str = "w0") -> dict[str, Served]:
    return {name(n): Served(server, NOW, 4, written=4, done=True, ended_ns=NOW + n) for n in numbers}


def recorded(*rows: dict[str, Any]) -> Recorded:
    return Recorded(list(rows), {one["request"]: one["output_tokens"] for one in rows})


def test_what_agrees_is_not_found_fault_with(stage: Stage) -> None:
    assert oracle.records_agree(answered(0, 1), recorded(row(0), row(1)), UNHARMED, stage) == []


@pytest.mark.parametrize(
    ("rows", "served", "words"),
    [
        ((row(0),), answered(0, 1), "no record tells of"),
        ((row(0), row(0)), answered(0), "has 2 records"),
        ((row(0), {**row(0), "sent_id": name(7)}), answered(0, 7), "2 records have the number 0"),
        ((row(0), row(2, "connect")), answered(0), "request number 1 has no record"),
        ((row(0), row(1)), answered(0), "no server received it"),
        ((row(0, tokens=3),), answered(0), "has 3 tokens, 3 in chunks; w0 wrote 4"),
        ((row(0, "http"),), answered(0), "w0 wrote all of it"),
        ((row(0, "connect"), row(1)), answered(1), "1 requests failed of a fault that harms none"),
    ],
)
def test_a_record_that_is_missing_doubled_or_other_than_the_servers_log(
    stage: Stage, rows: tuple[dict[str, Any], ...], served: dict[str, Served], words: str
) -> None:
    found = oracle.records_agree(served, recorded(*rows), UNHARMED, stage)
    assert any(words in one for one in found), found


def test_an_answer_that_was_cut_off_is_no_ok(stage: Stage) -> None:
    served = {name(0): Served("w0", NOW, 4, written=2)}
    (found,) = oracle.records_agree(served, recorded(row(0, tokens=2)), ANY, stage)
    assert "w0 wrote 2 of 4 tokens" in found


def test_tokens_that_no_server_wrote(stage: Stage) -> None:
    served = {name(0): Served("w0", NOW, 4, written=2)}
    (found,) = oracle.records_agree(served, recorded(row(0, "disconnected", 3)), ANY, stage)
    assert "3 tokens in chunks; w0 wrote 2" in found


def test_only_the_last_second_before_a_death_may_be_missing(stage: Stage) -> None:
    stage.struck_ns = NOW + 2_000_000_000
    early, late = (Served("w0", NOW, 4, 4, True, NOW + int(at * 1e9)) for at in (0.9, 1.1))
    found = oracle.records_agree({name(0): early, name(1): late}, recorded(), replace(ANY, lost_s=1.0), stage)
    assert [name(0) in one for one in found] == [True]


def test_a_fault_in_one_worker_fails_requests_to_another(stage: Stage) -> None:
    stage.struck_ns, stage.victim = NOW - 1, Process(1, "w0")
    stage.setting.states.write_text(json.dumps({"state": "resplitting", "t_ns": NOW + 10**10, "pid": 1}) + "\n")
    served, expected = answered(0, server="w1"), replace(ANY, others=True)
    assert oracle.records_agree(served, recorded(row(0)), expected, stage) == []
    (found,) = oracle.records_agree(served, recorded(row(0, "http")), expected, stage)
    assert "reached w1 after the blow and is http" in found
    (found,) = oracle.records_agree(answered(0), recorded(row(0)), expected, stage)
    assert "no request reached another worker" in found


def test_a_process_and_its_port_are_found_though_others_listen_too(stage: Stage) -> None:
    code = (
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print(s.getsockname()[1], flush=True); input()"
    )
    before, opened = Around.now(), {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    with (
        subprocess.Popen([sys.executable, "-c", code], env={**environment, MARK: stage.setting.mark}, **opened) as own,
        subprocess.Popen([sys.executable, "-c", code], env=environment, **opened) as other,
    ):
        ports = [process.stdout.readline().strip() for process in (own, other)]
        found = left_behind(stage.setting, before, gone_s=0.0)
        for process in (own, other):
            process.send_signal(signal.SIGKILL)
    assert any(one.startswith(f"process {own.pid} is left") for one in found)
    assert f"port {ports[0]} is still listened on" in found
    assert not any(ports[1] in one for one in found)
    assert left_behind(stage.setting, before) == []


def test_shared_memory_and_temporary_files(stage: Stage) -> None:
    before, segment = Around.now(), Path("/dev/shm") / f"psm_{stage.setting.mark}"
    (stage.setting.tmp / "labkit-x").mkdir()
    segment.write_bytes(b"x")
    try:
        found = left_behind(stage.setting, before, gone_s=0.0)
    finally:
        segment.unlink()
    assert found == [f"{segment} is left", "$TMPDIR/labkit-x is left"]


def test_a_changed_byte_in_another_run(stage: Stage) -> None:
    run = stage.setting.results / "older"
    run.mkdir()
    (run / "manifest.json").write_text("{}")
    (run / "events.parquet").write_text("x")
    before = oracle.fingerprint(stage.setting.results, "older*")
    assert oracle.changed_files(before, before) == []
    (run / "manifest.json").write_text("{ ")
    (run / "events.parquet").rename(run / "new")
    after = oracle.fingerprint(stage.setting.results, "older*")
    assert oracle.changed_files(before, after) == [
        "older/events.parquet of an older run is gone",
        "older/new is new in an older run",
        "older/manifest.json of an older run has changed",
    ]
    shutil.rmtree(run)


def test_a_message_without_cause_or_remedy(stage: Stage) -> None:
    expected = replace(ANY, cause=("w0 died",), remedy=True)
    stage.setting.out.write_text("something went wrong\n")
    assert len(oracle.says_cause(stage, expected, "")) == 2
    stage.setting.out.write_text("w0 died while serving\n  → restart it\n")
    assert oracle.says_cause(stage, expected, "") == []


def test_a_servers_log_is_read_to_the_line_that_a_kill_fell_on(tmp_path: Path) -> None:
    lines = [
        {"request": name(0), "what": "received", "stream": True, "asked": 4, "t_ns": 1},
        {"request": name(0), "what": "token", "t_ns": 2},
        {"request": "labkit-warm", "what": "received", "stream": True, "asked": 4, "t_ns": 2},
        {"request": name(1), "what": "received", "stream": False, "asked": 1, "t_ns": 2},
        {"request": name(2), "what": "received", "stream": True, "asked": 9, "t_ns": 3},
        {"request": name(2), "what": "token", "tokens": 3, "t_ns": 4},
        {"request": name(2), "what": "token", "tokens": 7, "t_ns": 5},
    ]
    (tmp_path / "w0-17.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"request": "labk')
    assert truth.served(tmp_path) == {name(0): Served("w0", 1, 4, written=1), name(2): Served("w0", 3, 9, written=7)}


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, in functions too."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("module", ["oracle", "leftovers", "truth", "victims", "stage"])
def test_the_judge_shares_no_code_with_the_lab(module: str) -> None:
    """By all that it imports, and all that these import: an oracle with the lab's code would share its mistakes."""
    todo, seen = [ROOT / "tests" / "faults" / f"{module}.py"], set[Path]()
    while todo:
        path = todo.pop()
        seen.add(path)
        names = imported(path)
        assert not {name for name in names if name.partition(".")[0] == "labkit"}, f"{path} imports the lab"
        files = {ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.startswith("tests.")}
        todo += [file for file in files if file.exists() and file not in seen]
    assert len(seen) > 1 or module == "truth", "it follows what they import"
