"""A run folder that somebody else wrote is listed, shown, compared, reported: its words are shown, and obeyed by no terminal."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import labkit.cli
from labkit.cli.main import main
from labkit.store import Run
from labkit.store.manifest import FILE
from tests.support.hostile import ALL, LONG, obeyed
from tests.support.saved_runs import said_elsewhere, saved_run

ESC = r"\x1b[2J"


def spoiled(run: Run) -> Run:
    """Every text of the manifest that people are shown becomes a hostile one."""
    said = json.loads((run.path / FILE).read_text())
    said["model"] = {"name": ALL, "source": ALL, "dummy_weights": True}
    said["hardware"] = {"summary": ALL}
    said["engines"] = {"name": ALL, ALL: ALL}
    said["reason"], said["kind"], said["status"] = ALL, ALL, "failed"
    said["git"] = {"commit": ALL, "dirty": True}
    files = [{"name": ALL, "sha256": ALL}]
    said["source"] = {"tool": ALL, "version": ALL, "date": ALL, "files": files, "reported": [], "not_recorded": [ALL]}
    said["topologies"] = [ALL, LONG]
    sides = {side: f"{side} {ALL}" for side in ("2A", "1P1D")}
    for window in said["windows"]:
        window |= {"side": sides[window["side"]], "cut": ALL, "stopped": ALL, "accelerator": "core"}
    said_elsewhere(run, **said)
    return run


@pytest.fixture
def hostile(tmp_path: Path) -> Run:
    return spoiled(saved_run(tmp_path, "mine"))


@pytest.mark.parametrize(
    "command",
    [
        ["runs"], ["runs", "--json"], ["show", "mine"], ["show", "mine", "--json"], ["compare", "mine"],
        ["compare", "mine", "--why"], ["report", "mine", "--out", "page.html"], ["export", "mine", "--format", "json,csv"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_command_says_what_a_terminal_obeys(
    hostile: Run, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(hostile.path.parent)
    main([*command, "--results", str(hostile.path.parent)])
    said = capsys.readouterr()
    assert not obeyed(said.out)
    assert not obeyed(said.err)
    if "--json" in command and command[0] != "compare":
        assert json.loads(said.out)


def test_what_was_hostile_can_still_be_read(hostile: Run, capsys: pytest.CaptureFixture[str]):
    assert main(["show", "mine", "--results", str(hostile.path.parent)]) == 0
    out = "".join(capsys.readouterr().out.split())
    assert ESC in out
    assert "[boldred]" in out
    assert "<script>" in out


def test_a_colour_of_the_lab_is_no_colour_of_the_run(
    hostile: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """In a terminal the lab's own colours stay, and nothing else is obeyed."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert main(["show", "mine", "--results", str(hostile.path.parent)]) == 0
    out = capsys.readouterr().out
    assert "\x1b[1m" in out, "bold, of the lab"
    assert "\x1b[2J" not in out
    assert "\x1b]" not in out
    assert "\x1b[8m" not in out


def test_commands_print_through_what_makes_texts_harmless():
    """``say``, ``console`` and ``print_json`` of ``table``; ``main`` prints errors of the lab, which are harmless themselves."""
    for path in Path(labkit.cli.__file__).parent.glob("*.py"):
        if path.name in ("table.py", "main.py"):
            continue
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        called = [function.id for function in calls if isinstance(function, ast.Name)]
        allowed = 1 if path.name in ("bench.py", "notebook.py") else 0  # a LabError; a literal
        assert called.count("print") <= allowed, path
        assert "Console" not in called, path
