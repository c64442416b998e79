"""A lab on a cluster of somebody else: what its pages say is recorded by worker and role, and a dead page stops nothing."""

from __future__ import annotations

from pathlib import Path

from labkit.lab.lab import Lab
from labkit.measure.records import SAMPLES
from labkit.serve.ports import free_ports
from labkit.serve.processes import ProcessTree
from labkit.spec import Role
from labkit.store.run import open_run
from tests.support.fake_engine import SHORT, fake_command
from tests.support.pages import DYNAMO_WORKER, FRONTEND, VLLM, pages
from tests.support.waiting import until


def test_workers_of_a_cluster_are_recorded_by_name_and_role_and_a_dead_page_is_told(tmp_path: Path):
    said: list[str] = []
    lease = free_ports(1)
    server = ProcessTree(
        "server", fake_command("worker", "--port", lease.ports[0], "--model", "theirs"), env={}, log=tmp_path / "server.log"
    )
    try:
        until(lambda: "Starting fake server" in server.log_tail(), "the server")
        with pages({"/decode": VLLM, "/prefill": DYNAMO_WORKER, "/front": FRONTEND}) as base:
            metrics = {
                "decode-0": f"{base}/decode", "prefill-0": f"{base}/prefill", "decode-1": "http://127.0.0.1:9/metrics",
                "frontend": f"{base}/front",
            }  # fmt: skip
            url = f"http://127.0.0.1:{lease.ports[0]}"
            with Lab.attach(
                url, "theirs", metrics=metrics, topology="1P2D", results=tmp_path / "results", progress=said.append
            ) as lab:
                with lab.watch(hz=10) as watch:
                    assert lab.measure(SHORT).failed == 0
                    until(lambda: watch.latest and all(w.running is not None for w in watch.latest.workers[:2]), "the pages")
                workers = {worker.name: (worker.role, worker.running) for worker in watch.latest.workers}
                until(lambda: "decode-1/metrics" in lab.telemetry_missing, "the word of the dead page")
                assert "http://127.0.0.1:9/metrics" in lab.telemetry_missing["decode-1/metrics"]
    finally:
        server.stop()
        lease.close()
    assert workers == {
        "prefill-0": (Role.PREFILL, 5.0), "decode-0": (Role.DECODE, 3.0), "decode-1": (Role.DECODE, None)
    }  # fmt: skip
    assert any("metrics page of decode-1 at http://127.0.0.1:9/metrics" in line for line in said)
    run = open_run(lab.run.path)
    (epoch,) = run.manifest["epochs"]
    assert epoch["roles"] == {"prefill-0": "P", "decode-0": "D", "decode-1": "D"}
    assert not epoch["verified"]
    records = run.records()
    assert any("decode-1 at http://127.0.0.1:9" in text for text in records.events["text"].to_pylist())
    seen = {(row["source"], row["metric"]): row["value"] for row in records.samples.to_pylist()}
    assert records.samples.schema.names == SAMPLES.names
    assert seen["prefill-0", "vllm:num_requests_waiting"] == 2.0
    assert seen["decode-0", "vllm:kv_cache_usage_perc"] == 0.25
    assert seen["router", "dynamo_frontend_inflight_requests"] == 9.0
