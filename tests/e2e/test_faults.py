"""Real workers and their router, killed: what is said, what is kept, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import textwrap
import venv
from pathlib import Path

import psutil
import pytest

from labkit.errors import LaunchError
from labkit.lab import Lab
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Workload
from labkit.store.run import open_run
from tests.e2e.conftest import shared_memory
from tests.support.waiting import MARK, marked, until

pytestmark = pytest.mark.engine

LOAD = Workload(isl=128, osl=64, rate=2.0, duration_s=60.0, timeout_s=30.0)


def listening(pids: set[int]) -> set[int]:
    return {s.laddr.port for s in psutil.net_connections("tcp") if s.status == psutil.CONN_LISTEN and s.pid in pids}


def elsewhere(folder: Path) -> Path:
    """Another environment with the engines in it, as LABKIT_ENGINE_PYTHON may name one; returns its interpreter."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "engines.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@pytest.fixture
def own_mark(mark: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A mark for the processes of one test alone."""
    monkeypatch.setenv(MARK, word := f"{mark}-own")
    return word


def test_a_killed_router_and_a_killed_worker_are_named_and_leave_nothing(tmp_path: Path, own_mark: str) -> None:
    segments = shared_memory()
    with Lab("demo", "1P1D", results=tmp_path) as lab:
        with lab.load(LOAD) as load:
            until(lambda: load.progress and load.progress.done >= 1, "the first answer", 60.0)
            trees = [worker.tree for worker in lab.deployment.workers] + [lab.deployment.front.tree]
            assert {tree.pid for tree in trees} <= marked(own_mark), "whoever looks for leftovers sees each of them"
            os.kill(lab.deployment.front.tree.pid, signal.SIGKILL)
            until(lambda: load.progress and load.progress.failed >= 1, "a request that failed", 60.0)
            assert [f.what.splitlines()[0] for f in lab.deployment.failures] == ["router0 died: it was killed by SIGKILL"]
            lab.resplit("2A")
            assert lab.deployment.failures == ()
            healed = load.progress.done if load.progress else 0
            until(lambda: load.progress and load.progress.done > healed + 1, "answers through the new router", 60.0)
            victim = lab.deployment.workers[1]
            below = {p.pid for p in psutil.Process(victim.tree.pid).children(recursive=True)}
            assert below, "an engine core that would be an orphan"
            os.kill(victim.tree.pid, signal.SIGKILL)
            until(lambda: not any(psutil.pid_exists(pid) for pid in below), "the end of the engine core", 30.0)
            (failure,) = lab.deployment.failures
            assert failure.what.startswith("w1 died while serving: it was killed by SIGKILL")
            assert str(victim.tree.log) in failure.what
            measured = load.stop()
        assert measured.counts["ok"] > 0
        pids = marked(own_mark)
    until(lambda: not marked(own_mark), "the end of every process")
    assert listening(pids) == set()
    assert shared_memory() <= segments
    events = open_run(lab.run.path).records().events.to_pylist()
    assert any("w1 died" in event["text"] for event in events if event["kind"] == "fault")


def test_a_killed_kernel_leaves_no_process_and_a_run_that_opens(tmp_path: Path, own_mark: str) -> None:
    segments = shared_memory()
    script = """
        from labkit.lab import Lab
        from labkit.spec import Workload
        lab = Lab("demo", "1P1D", results=RESULTS)
        load = lab.load(Workload(isl=128, osl=32, rate=2.0, duration_s=300.0))
        print("loading", flush=True)
        load.wait()
    """
    results, engines = tmp_path / "results", elsewhere(tmp_path / "engines")
    kernel = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script).replace("RESULTS", repr(str(results)))],
        env={**os.environ, "LABKIT_ENGINE_PYTHON": str(engines)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert kernel.stdout is not None
    for line in kernel.stdout:
        if line.strip() == "loading":
            break
    (folder,) = [entry for entry in results.iterdir() if entry.is_dir()]
    until(lambda: open_run(folder).records().requests.num_rows >= 4, "four requests on disk", 60.0)
    pids = marked(own_mark)
    served = [p for p in map(psutil.Process, pids) if "vllm_entry.py" in " ".join(p.cmdline()) and "-S" not in p.cmdline()]
    assert len(served) >= 2
    assert {p.cmdline()[0] for p in served} == {str(engines)}, (
        "engines run in the interpreter that was named, not in the notebook's"
    )
    kernel.kill()
    kernel.wait()
    kernel.stdout.close()
    until(lambda: not marked(own_mark), "the end of every process", 30.0)
    assert listening(pids) == set()
    assert shared_memory() <= segments
    run = open_run(folder)
    assert run.status == "interrupted"
    records = run.records()
    done = [row for row in records.requests.to_pylist() if row["outcome"] == "ok"]
    assert len(done) >= 4
    chunks = records.chunks.to_pylist()
    assert all(sum(c["tokens"] or 0 for c in chunks if c["request"] == row["request"]) == 32 for row in done)
    shown = subprocess.run([sys.executable, "-m", "labkit.cli.main", "show", str(folder)], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "interrupted" in shown.stdout


def test_a_flag_that_the_engine_does_not_take_is_one_clear_error(tmp_path: Path, own_mark: str) -> None:
    with pytest.raises(LaunchError) as caught:
        Lab("demo", "2A", results=tmp_path, options=EngineOptions(extra_args=("--no-such-flag",)))
    assert "unrecognized arguments: --no-such-flag" in caught.value.what
    assert "command: " in caught.value.what
    assert "extra_args" in caught.value.remedy
    assert not marked(own_mark)
    (run,) = [open_run(entry) for entry in tmp_path.iterdir()]
    assert run.status == "failed"
