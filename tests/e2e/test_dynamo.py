"""Real Dynamo workers behind its frontend: scaled and re-split under load, proven by their counters, and gone at the end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import psutil
import pytest

from labkit.lab import Lab
from labkit.live.sample import FrontendSample
from labkit.serve.counters import metrics_page, read_counters
from labkit.serve.engines.dynamo_frontend import ROUTER_MODES, FrontendRegistry
from labkit.serve.interpreter import engine_python, versions
from labkit.serve.pool import Worker
from labkit.spec import Role, Workload
from tests.support.waiting import marked, until

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed"),
]
WORKLOAD = Workload(isl=128, osl=12, rate=1.2, duration_s=4.0)


@pytest.fixture(scope="module")
def dynamo(tmp_path_factory: pytest.TempPathFactory, mark: str) -> Iterator[Lab]:
    with Lab("demo", "2A", engine="dynamo", workload=WORKLOAD, results=tmp_path_factory.mktemp("dynamo")) as lab:
        meeting = Path(lab.deployment.workers[0].spec.meeting or "")
        yield lab
    until(lambda: not marked(mark), "the end of every process of the lab")
    assert not meeting.exists()


def test_the_router_modes_are_those_of_the_frontend_that_is_installed() -> None:
    asked = subprocess.run([engine_python(), "-m", "dynamo.frontend", "--help"], capture_output=True, text=True, check=True)
    found = re.search(r"--router-mode\s+\{([^}]*)\}", asked.stdout)
    assert found is not None
    assert set("".join(found[1].split()).split(",")) == {*ROUTER_MODES, "direct"}


def one(lab: Lab, role: Role) -> Worker:
    return next(worker for worker in lab.deployment.workers if lab.deployment.roles.get(worker.name) is role)


def test_splits_and_sizes_change_under_load_and_no_request_fails(dynamo: Lab) -> None:
    url, frontend = dynamo.url, dynamo.deployment.front.tree.pid
    with dynamo.load(Workload(isl=128, osl=12, rate=1.2, duration_s=35.0)) as load:
        until(lambda: load.progress and load.progress.done >= 2, "the first answers", 60.0)
        for split in ("1P1D", "1P2D", "1P1D"):
            done = dynamo.resplit(split)
            assert all(row.against is None for row in done.proof), str(done)
    measured = load.wait()
    assert measured.failed == 0, measured.counts
    assert measured.counts["ok"] == sum(measured.counts.values()) > 10
    assert (dynamo.url, dynamo.deployment.front.tree.pid) == (url, frontend), "the frontend went on"
    until(lambda: set(dynamo.telemetry_missing) <= {"gpu"}, "the news that nobody looks for what has ended")


def test_the_frontend_and_the_workers_tell_their_metrics_and_spans(dynamo: Lab) -> None:
    dynamo.resplit("1P1D")
    before = read_counters(one(dynamo, Role.DECODE).url)
    with dynamo.watch(hz=10) as watch:
        measured = dynamo.measure()
        told = [sample.frontend for sample in watch.history.samples() if sample.frontend is not None]
    assert told
    for name in [field.name for field in fields(FrontendSample)]:
        assert any(getattr(one, name) is not None for one in told), f"the frontend's page does not tell {name}"
    sent = measured.records.requests.num_rows
    assert (read_counters(one(dynamo, Role.DECODE).url) - before).kv_transfers == sent
    summary = measured.summary
    assert summary["kv_transfers"]
    assert summary["itl_p50_s"] is not None, "the tokens of every chunk are known"
    samples = dynamo.run.records().samples.select(["source", "metric"]).to_pydict()
    found = set(zip(samples["source"], samples["metric"], strict=True))
    assert (one(dynamo, Role.PREFILL).name, "vllm:generation_tokens_total") in found
    assert any(
        source == "router" and metric.startswith("dynamo_frontend_time_to_first_token_seconds") for source, metric in found
    )
    assert dynamo.run.manifest["transport"]["kept_late_s"] is not None, "what the frontend's transport does was looked for"


def test_a_killed_worker_leaves_no_engine_core_and_is_started_again(dynamo: Lab) -> None:
    dynamo.resplit("1P1D")
    victim = one(dynamo, Role.DECODE)
    known, meeting = FrontendRegistry().identity(metrics_page(victim.url)), Path(victim.spec.meeting or "")

    def entries() -> list[Path]:
        return list(meeting.glob(FrontendRegistry().entries(known or "")))

    assert entries(), "by this name the frontend knows it"
    family = psutil.Process(victim.tree.pid).children(recursive=True)
    assert family, "its engine core"
    os.kill(victim.tree.pid, signal.SIGKILL)
    until(lambda: dynamo.deployment.failures, "the news of its death")
    assert victim.tree.wait(20.0), "its engine core went with it"
    assert not [process for process in family if process.is_running()]
    assert entries(), "what was killed has taken nothing away"
    done = dynamo.restart(victim.name)
    assert not entries()
    assert all(row.against is None for row in done.proof), str(done)
    assert dynamo.measure().failed == 0
