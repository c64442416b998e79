"""A tree ends completely, whoever ends it; the judge reads /proc and knows nothing of labkit."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.errors import LaunchError
from labkit.serve.processes import ProcessTree, stop_all
from tests.support.fake_engine import fake_command
from tests.support.trees import Start, parent_of, scratch_of
from tests.support.waiting import MARK, children_in_state, marked, open_files, until

ROOT = Path(__file__).parents[3]


def test_stop_ends_the_tree_and_its_scratch_folder(start: Start, mark: str):
    tree = start()
    scratch = scratch_of(tree.pid)
    assert (tree.alive, tree.exit, scratch.is_dir()) == (True, None, True)
    assert tree.pid in marked(mark)
    assert not tree.wait(0.0)
    tree.stop()
    assert not marked(mark)
    assert not scratch.exists()
    assert (tree.alive, tree.exit) == (False, -signal.SIGTERM)
    assert tree.wait(0.0)
    tree.stop()
    tree.stop_soon()


def test_what_ignores_term_in_a_session_of_its_own_is_gone_too(start: Start, mark: str):
    tree = start("--grandchild", "--ignore-term")
    until(lambda: len(marked(mark)) == 3 and "grandchild" in tree.log_tail(), "supervisor, root and grandchild")
    assert len({os.getsid(pid) for pid in marked(mark)}) == 3
    tree.stop()
    assert not marked(mark)
    assert tree.exit == -signal.SIGKILL


def test_a_killed_root_is_known_with_its_signal_and_its_orphans_end(start: Start, mark: str):
    tree = start("--grandchild")
    until(lambda: "grandchild" in tree.log_tail(), "the grandchild")
    os.kill(tree.pid, signal.SIGKILL)
    until(lambda: not tree.alive, "the end of the root")
    assert tree.exit == -signal.SIGKILL
    assert tree.wait(10)
    assert not marked(mark)
    tree.stop()


def test_death_is_told_before_its_orphans_have_used_up_their_grace(start: Start, mark: str):
    tree = start("--grandchild", grace_s=60.0)
    until(lambda: "grandchild" in tree.log_tail(), "the grandchild")
    os.kill(tree.pid, signal.SIGKILL)
    until(lambda: not tree.alive, "the end of the root")
    assert not tree.wait(0.0)
    (grandchild,) = {pid for pid in marked(mark) if b"grandchild" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")}
    os.kill(grandchild, signal.SIGKILL)
    assert tree.wait(10)


@pytest.mark.parametrize("code", [0, 3, -signal.SIGILL])
def test_exit_code_of_a_tree_that_ends_by_itself(start: Start, code: int):
    tree = start("--exit", str(code))
    assert tree.wait(10)
    assert tree.exit == code
    assert repr(tree) == f"<t pid {tree.pid} ended ({code})>"


def test_a_killed_supervisor_takes_the_whole_tree_along(start: Start, mark: str):
    tree = start("--grandchild", "--ignore-term")
    until(lambda: "grandchild" in tree.log_tail(), "the grandchild")
    scratch = scratch_of(tree.pid)
    os.kill(parent_of(tree.pid), signal.SIGKILL)
    assert tree.wait(10)
    assert not marked(mark)
    assert not scratch.exists()
    assert not tree.alive
    assert tree.exit is None
    tree.stop()


def test_a_killed_lab_leaves_nothing(mark: str, tmp_path: Path):
    segment = Path("/dev/shm") / f"labkit-test-{mark}"
    code = f"""
import sys, signal
from pathlib import Path
from labkit.serve.processes import ProcessTree
tree = ProcessTree("t", {fake_command("idle", "--grandchild", "--ignore-term", "--shm", segment.name)!r},
                   env={{{MARK!r}: {mark!r}}}, log=Path({str(tmp_path / "t.log")!r}), grace_s=0.3)
print(tree.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as lab:
        assert lab.stdout is not None
        pid = int(lab.stdout.readline())
        until(lambda: "\nidle" in (tmp_path / "t.log").read_text() and segment.exists(), "the tree")
        scratch = scratch_of(pid)
        lab.kill()
    until(lambda: not marked(mark), "the end of the tree")
    assert not scratch.exists()
    assert not segment.exists()


def test_a_segment_that_another_process_maps_stays(start: Start, mark: str, tmp_path: Path):
    segment = Path("/dev/shm") / f"labkit-test-{mark}"
    first, second = start("--shm", segment.name), start("--shm", segment.name)
    first.stop()
    assert segment.exists()
    second.stop()
    assert not segment.exists()


def test_a_segment_of_an_orphan_goes_with_a_killed_root(start: Start, mark: str):
    segment = Path("/dev/shm") / f"labkit-test-{mark}"
    code = f"import subprocess, time; subprocess.Popen({fake_command('idle', '--shm', segment.name)!r}); time.sleep(600)"
    tree = start(argv=(sys.executable, "-I", "-S", "-c", code))
    until(lambda: "\nidle" in tree.log_tail(), "the child")
    os.kill(tree.pid, signal.SIGKILL)
    assert tree.wait(10)
    assert not segment.exists()


def test_a_semaphore_goes_with_a_tree_that_had_to_be_killed(start: Start):
    code = """
import multiprocessing, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = multiprocessing.get_context("spawn").Lock()
print("sem" + lock._semlock.name.replace("/", "."), flush=True)
time.sleep(600)
"""
    tree = start(argv=(sys.executable, "-c", code))
    semaphore = Path("/dev/shm") / until(lambda: tree.log_tail(), "its name")
    assert semaphore.exists()
    tree.stop()
    assert tree.exit == -signal.SIGKILL
    assert not semaphore.exists(), "its tracker was killed with it and could not remove it"


def test_a_process_that_changes_its_title_is_still_known_by_its_variables(start: Start, mark: str):
    pytest.importorskip("setproctitle", reason="the engines' environment has it")
    title = "'vllm::' + 'router' * 200"
    code = f"import setproctitle, time; setproctitle.setproctitle({title}); print('changed', flush=True); time.sleep(600)"
    tree = start(argv=(sys.executable, "-c", code))
    until(lambda: "changed" in tree.log_tail(), "its new title")
    assert b"vllm::router" in Path(f"/proc/{tree.pid}/cmdline").read_bytes()
    assert tree.pid in marked(mark)


def test_no_more_descriptors_is_one_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse() -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(LaunchError, match="w7 cannot be started: Too many open files") as raised:
        ProcessTree("w7", (sys.executable, "-c", ""), env={}, log=tmp_path / "w7.log")
    assert "ulimit -n" in raised.value.remedy


def test_a_log_that_cannot_be_opened_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "w7.log").mkdir()
    with pytest.raises(LaunchError, match=r"w7 cannot be started: .*w7\.log: Is a directory"):
        ProcessTree("w7", (sys.executable, "-c", ""), env={}, log=tmp_path / "w7.log")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_missing_executable_is_named_and_nothing_runs(mark: str, tmp_path: Path):
    with pytest.raises(LaunchError, match=r"w7 cannot be started: /nowhere/python: No such file") as raised:
        ProcessTree("w7", ["/nowhere/python"], env={MARK: mark}, log=tmp_path / "w7.log")
    assert "labkit doctor" in raised.value.remedy


def test_environment_is_overridden_and_output_logged(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KEPT", "kept")
    monkeypatch.setenv("CHANGED", "before")
    code = "import os, sys; print(os.environ['KEPT'], os.environ['CHANGED']); print('é ✓ err', file=sys.stderr)"
    tree = start(argv=(sys.executable, "-c", code), CHANGED="after", PYTHONIOENCODING="utf-8")
    assert tree.wait(10)
    assert sorted(tree.log.read_text().splitlines()) == ["kept after", "é ✓ err"]
    assert tree.log_tail(1) in ("kept after", "é ✓ err")


def test_a_log_that_is_gone_has_an_empty_tail(start: Start):
    tree = start("--exit", "1")
    tree.wait(10)
    tree.log.unlink()
    assert tree.log_tail() == ""


def test_several_trees_end_at_the_same_time(start: Start, mark: str):
    trees = [start("--ignore-term", grace_s=1.0) for _ in range(3)]
    stop_all(trees)
    assert not marked(mark)
    assert [tree.exit for tree in trees] == [-signal.SIGKILL] * 3


def test_no_descriptor_and_no_zombie_stays(start: Start):
    start("--exit", "0").wait(10)
    before = open_files()
    for tree in [start(), start("--exit", "1")]:
        tree.stop()
    until(lambda: open_files() <= before, "the closing of the pipes")
    assert not children_in_state("Z")
