"""Real workers from a fork server: they serve as ever, come back in seconds when killed, and leave nothing whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from labkit.serve.deployment import Deployment
from labkit.serve.engines.base import EngineOptions
from labkit.serve.engines.vllm import Vllm
from labkit.serve.hardware import inspect_node
from labkit.serve.interpreter import engine_python
from labkit.serve.models import prepare
from labkit.serve.pool import Worker
from labkit.spec import Model, Role, Topology
from tests.e2e.conftest import shared_memory
from tests.support.waiting import MARK, marked, until

pytestmark = pytest.mark.engine

SPAWNED = "labkit: vLLM spawns a process"


def deployed(folder: Path, topology: str, said: list[str], **options: object) -> Deployment:
    model = prepare(Model("demo"), folder / "model", isl_osl_max=512, dtype="float32")
    return Deployment(
        model, Topology(topology), Vllm(str(engine_python())), inspect_node(),
        logs=folder / "logs", progress=said.append, **options,  # type: ignore[arg-type]
    )  # fmt: skip


def tree(worker: Worker) -> list[psutil.Process]:
    root = psutil.Process(worker.tree.pid)
    return [root, *root.children(recursive=True)]


def fork_server(mark: str) -> psutil.Process:
    """The process that imported the engine, below the supervisor that spares; ``mark`` tells it from other labs'."""
    (found,) = (
        process
        for guard in psutil.Process().children()
        if "--spare" in guard.cmdline()
        for process in guard.children()
        if process.pid in marked(mark)
    )
    return found


class Load:
    """Greedy requests, two at a time, to wherever the deployment serves, until it is left."""

    def __init__(self, deployment: Deployment) -> None:
        self.url, self.outcomes = deployment.url, list[tuple[str, int]]()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def follow(self, deployment: Deployment) -> None:
        self.url = deployment.url

    def count(self, url: str | None = None, *, ok: bool) -> int:
        return sum((code == 200) is ok for where, code in self.outcomes if url in (None, where))

    def _run(self) -> None:
        body = {"model": "demo", "prompt": list(range(300, 364)), "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        while not self._end.wait(0.05):
            url = self.url
            try:
                code = httpx.post(f"{url}/v1/completions", json=body, timeout=60.0, trust_env=False).status_code
            except httpx.HTTPError:
                code = 0
            self.outcomes.append((url, code))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        until(lambda: self.count(ok=True) >= 4, "the first answers", 60.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def own_mark(mark: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv(MARK, word := f"{mark}-restarts")
    yield word
    until(lambda: not marked(word), "the end of every process", 30.0)


def test_a_killed_worker_comes_back_from_the_fork_server_while_the_other_serves(tmp_path: Path, own_mark: str) -> None:
    segments, said = shared_memory(), list[str]()
    with deployed(tmp_path, "2A", said) as deployment:
        assert [worker.forked for worker in deployment.workers] == [True, True], said
        for worker in deployment.workers:
            assert SPAWNED not in worker.tree.log.read_text()
            allowed = {
                frozenset(psutil.Process(int(thread.name)).cpu_affinity() or [])
                for process in tree(worker)
                for thread in Path(f"/proc/{process.pid}/task").iterdir()
            }
            assert allowed == {frozenset(worker.spec.devices.cores)}
            assert {os.getsid(process.pid) for process in tree(worker)} == {worker.tree.pid}
        scratch = [worker.tree.scratch for worker in deployment.workers]
        deployment.resplit("1P1D")
        assert deployment.verified, "KV cache moved between forked workers"
        deployment.resplit("2A")

        victim, other = deployment.workers[1], deployment.workers[0].tree.pid
        below = {process.pid for process in tree(victim)}
        with Load(deployment) as load:
            old, urls = deployment.url, list[str]()
            os.kill(victim.tree.pid, signal.SIGKILL)
            until(lambda: "w1" in deployment.dead, "the death")
            until(lambda: load.count(ok=False) >= 1, "a request that failed", 60.0)
            assert "1A serves meanwhile" in deployment.plan_restart("w1").text

            def follow(now: Deployment) -> None:
                load.follow(now)
                urls.append(now.url)

            done = deployment.restart("w1", on_switch=follow)
            answered = load.count(ok=True)
            until(lambda: load.count(ok=True) >= answered + 4, "answers through the new router", 60.0)
        assert len(urls) == 2
        assert load.count(old, ok=False) >= 1
        assert all(load.count(url, ok=False) == 0 for url in urls), load.outcomes
        assert load.count(urls[0], ok=True) >= 1, "the other served while the worker came back"
        assert not any(psutil.pid_exists(pid) for pid in below), "the killed worker's engine core is gone"
        assert done.ready_s is not None
        back = deployment.workers[1]
        assert (back.forked, back.url, deployment.workers[0].tree.pid) == (True, victim.url, other)
        assert [(row.worker, row.against) for row in done.proof] == [("w0", None), ("w1", None)]
        deployment.resplit("1P1D")
        assert deployment.roles == {"w0": Role.PREFILL, "w1": Role.DECODE}
        assert deployment.verified, "the restarted worker takes KV cache from one that did not restart"

        server = fork_server(own_mark)
        scratch.append(deployment.workers[1].tree.scratch)
        server.kill()
        until(lambda: not psutil.pid_exists(server.pid), "the end of the fork server")
        assert deployment.failures == ()
        pids = marked(own_mark)
    until(lambda: not marked(own_mark), "the end of every process", 30.0)
    assert not {s.laddr.port for s in psutil.net_connections("tcp") if s.status == psutil.CONN_LISTEN and s.pid in pids}
    assert shared_memory() <= segments
    assert not any(folder.exists() for folder in scratch)


def test_a_killed_lab_takes_fork_server_and_workers_along(tmp_path: Path, own_mark: str) -> None:
    segments = shared_memory()
    script = f"""
        from pathlib import Path
        from tests.e2e.test_restarts import deployed
        if __name__ == "__main__":
            deployment = deployed(Path({str(tmp_path)!r}), "1A", [])
            print(*[worker.tree.scratch for worker in deployment.workers], deployment.workers[0].forked, flush=True)
            input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as lab:  # fmt: skip
        assert lab.stdout is not None
        scratch, forked = lab.stdout.readline().split()
        assert forked == "True"
        pids = marked(own_mark)
        assert Path(scratch).is_dir()
        lab.kill()
    until(lambda: not marked(own_mark), "the end of every process", 30.0)
    assert not Path(scratch).exists()
    assert not {s.laddr.port for s in psutil.net_connections("tcp") if s.status == psutil.CONN_LISTEN and s.pid in pids}
    assert shared_memory() <= segments


def test_an_engine_core_that_must_be_spawned_is_and_the_log_says_why(tmp_path: Path, own_mark: str) -> None:
    options = EngineOptions(extra_env={"VLLM_WORKER_MULTIPROC_METHOD": "spawn"})
    with deployed(tmp_path, "1A", [], options=options) as deployment:
        (worker,) = deployment.workers
        assert worker.forked
        assert f"{SPAWNED}, which imports vLLM again: VLLM_WORKER_MULTIPROC_METHOD=spawn is set" in worker.tree.log.read_text()
        assert deployment.verified
        allowed = {frozenset(process.cpu_affinity() or []) for process in tree(worker)}
        assert allowed == {frozenset(worker.spec.devices.cores)}, "the spawned process is mended, too"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="TP 2 needs two cores")
def test_every_rank_of_a_wider_worker_is_forked(tmp_path: Path, own_mark: str) -> None:
    segments = shared_memory()
    with deployed(tmp_path, "1A@tp2", []) as deployment:
        (worker,) = deployment.workers
        assert worker.forked
        assert SPAWNED not in worker.tree.log.read_text()
        assert not any("multiprocessing.spawn" in " ".join(process.cmdline()) for process in tree(worker))
        assert deployment.verified
    until(lambda: not marked(own_mark), "the end of every process", 30.0)
    assert shared_memory() <= segments
