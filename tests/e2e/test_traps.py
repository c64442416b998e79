"""What spoils a measurement on few cores, mended: each bound is far from the defect."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import psutil
import pytest

from labkit.lab import Lab
from labkit.serve.pool import Worker
from tests.support.listeners import Watch

pytestmark = pytest.mark.engine


def tree(worker: Worker) -> list[psutil.Process]:
    root = psutil.Process(worker.tree.pid)
    return [root, *root.children(recursive=True)]


def test_an_idle_worker_leaves_its_core_alone(aggregated: Lab) -> None:
    """NIXL's progress thread polls without pause by default: 80-90 % of a core."""
    trees = [tree(worker) for worker in aggregated.deployment.workers]

    def used_s() -> list[float]:
        return [sum(p.cpu_times().user + p.cpu_times().system for p in processes) for processes in trees]

    before, began = used_s(), time.monotonic()
    busy = psutil.cpu_percent(interval=5.0)  # the interval that is measured, not a wait for something
    elapsed = time.monotonic() - began
    shares = [(now - then) / elapsed for now, then in zip(used_s(), before, strict=True)]
    assert max(shares) < 0.20, f"idle workers took {shares} cores (node {busy} %)"


def test_every_thread_of_a_worker_stays_on_its_core(aggregated: Lab) -> None:
    """NIXL's connector re-pins every worker to the last core of the node by default."""
    held = [worker.spec.devices.cores for worker in aggregated.deployment.workers]
    for worker, cores in zip(aggregated.deployment.workers, held, strict=True):
        processes = tree(worker)
        assert len(processes) >= 2, "API server and engine core"
        allowed = {
            frozenset(psutil.Process(int(thread.name)).cpu_affinity() or [])
            for process in processes
            for thread in Path(f"/proc/{process.pid}/task").iterdir()
        }
        assert allowed == {frozenset(cores)}
    if (psutil.cpu_count() or 1) >= len(held):
        assert len(set(held)) == len(held), "each worker has a core of its own"


def test_a_worker_is_an_api_server_and_an_engine_core_that_computes_itself(aggregated: Lab) -> None:
    """vLLM's multi-process executor burns a core in sched_yield; with TP 1 the engine core computes itself."""
    for worker in aggregated.deployment.workers:
        busy = [process for process in tree(worker) if process.num_threads() > 1]
        assert len(busy) == 2, "what waits only (for a fork, for segments to remove) has one thread"


def test_everything_listens_on_loopback_only(aggregated: Lab, sockets: Watch) -> None:
    """UCX and ZeroMQ open ports on the host's own address by default."""
    aggregated.resplit("1P1D")
    assert len(sockets.own()) >= 6, "what watches all tests sees them too"
    sockets.check()
    everyone = psutil.Process().children(recursive=True)
    listening = [
        (process.pid, socket.laddr)
        for process in everyone
        for socket in process.net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 6, "two workers, their side channels, the router and its metrics at least"
    assert {address.ip for _, address in listening} <= {"127.0.0.1", "::1"}, listening


def test_a_sampled_token_needs_no_compiler(aggregated: Lab) -> None:
    """vLLM's CPU sampler is compiled on its first use: 10 s, a C++ compiler, and a dead worker where there is none."""
    body = {
        "model": aggregated.deployment.model.name,
        "prompt": [300, 301, 302],
        "max_tokens": 4,
        "temperature": 0.8,
        "top_p": 0.9,
    }
    for worker in aggregated.deployment.workers:
        assert "TORCHDYNAMO_DISABLE=1" in Path(f"/proc/{worker.tree.pid}/environ").read_text().split("\0")
        assert httpx.post(f"{worker.url}/v1/completions", json=body, timeout=60.0).status_code == 200
    assert aggregated.deployment.failures == ()
