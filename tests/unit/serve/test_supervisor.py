"""The guardian by itself: a script of the standard library that speaks JSON lines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from labkit.serve import supervisor
from tests.support.fake_engine import fake_command
from tests.support.waiting import MARK, marked, until


@contextmanager
def guarding(log: Path, *options: str, mark: str = "") -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-I", "-S", supervisor.__file__, "0.3", str(log), *fake_command("idle", *options)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={MARK: mark}) as process:
        yield process


def said(process: subprocess.Popen[bytes]) -> dict[str, object]:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.parametrize("how", ["stop", "eof", "term", "int", "hup"])
def test_every_way_to_end_it_ends_the_tree(tmp_path: Path, how: str):
    mark = uuid.uuid4().hex
    log = tmp_path / "log"
    with guarding(log, "--grandchild", mark=mark) as process:
        begin = said(process)
        until(lambda: "\nidle" in log.read_text() and "grandchild" in log.read_text(), "the tree")
        assert process.stdin is not None
        if how == "stop":
            process.stdin.write(b"stop\n")
            process.stdin.flush()
        elif how == "eof":
            process.stdin.close()
        else:
            process.send_signal(getattr(signal, f"SIG{how.upper()}"))
        assert said(process) == {"exit": -signal.SIGTERM, "gone": True}
        assert process.wait(10) == 0
    assert not marked(mark)
    assert not Path(str(begin["scratch"])).exists()


def test_an_end_by_itself_is_told_first_and_then_that_nothing_is_left(tmp_path: Path):
    with guarding(tmp_path / "log", "--exit", "5") as process:
        assert isinstance(said(process)["pid"], int)
        assert [said(process), said(process)] == [{"exit": 5}, {"exit": 5, "gone": True}]
        assert process.wait(10) == 0


def test_it_ends_the_tree_when_nobody_listens(tmp_path: Path):
    mark = uuid.uuid4().hex
    with guarding(tmp_path / "log", mark=mark) as process:
        said(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.close()
        process.stdin.close()
        assert process.wait(10) == 0
    assert not marked(mark)


@pytest.mark.parametrize("name", ["labkit-meeting-1-x", "anything"])
@pytest.mark.parametrize("gone", [True, False])
def test_the_folder_that_trees_share_goes_with_the_last_of_them_where_the_lab_is_gone(tmp_path: Path, name: str, gone: bool):
    """Found by the fault campaign: a killed lab left it behind."""
    shared = tmp_path / name
    (shared / "v1").mkdir(parents=True)
    argv = [sys.executable, "-I", "-S", supervisor.__file__, "0.3", str(tmp_path / "log"), *fake_command("idle")]
    env = {"LABKIT_MEETING": str(shared)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        said(process)
        assert process.stdin is not None
        process.stdin.write(b"stop\n")
        process.stdin.flush()
        if gone:
            process.stdin.close()
        assert said(process)["gone"]
        assert process.wait(10) == 0
    assert shared.exists() is not (gone and name.startswith("labkit-meeting-"))


def test_what_cannot_be_executed_is_said(tmp_path: Path):
    argv = [sys.executable, "-I", "-S", supervisor.__file__, "1", str(tmp_path / "log"), str(tmp_path)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"exit": 127, "error": f"{tmp_path}: Permission denied"}
