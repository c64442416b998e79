"""Dynamo's mockers under the lab's own load: they follow a known profile, show interference, come in dozens, and end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from labkit.lab import Lab
from labkit.lab.measurement import Measurement
from labkit.serve.engines.base import EngineOptions
from labkit.serve.interpreter import engine_python, versions
from labkit.serve.timing import save_timing
from labkit.spec import Workload
from labkit.whatif.timing_observed import observed_steps
from tests.support.profiles import handmade_profile
from tests.support.waiting import marked, until

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif("ai-dynamo" not in versions(engine_python()), reason="ai-dynamo is not installed"),
]
PROFILE = handmade_profile(kv_transfer_bytes_s=50e9)
LONELY = Workload(isl=1000, osl=40, concurrency=1, requests=16)
CROWDED = Workload(isl=1000, osl=60, rate=6.0, duration_s=10.0, warmup_s=2.0)

Launch = Callable[[str, Workload], Lab]


@pytest.fixture
def launch(tmp_path: Path, mark: str) -> Iterator[Launch]:
    others, labs = marked(mark), list[Lab]()
    timing = save_timing([PROFILE], tmp_path / "timing")

    def begin(split: str, workload: Workload) -> Lab:
        options = EngineOptions(timing=timing)
        lab = Lab("llama-3.1-8b", split, engine="mocker", workload=workload, options=options, results=tmp_path / "results")
        labs.append(lab)
        return lab

    yield begin
    for lab in labs:
        lab.close()
    until(lambda: not marked(mark) - others, "the end of every process of the lab")


def median(measured: Measurement, name: str) -> float:
    value = measured.summary[name]
    assert value is not None
    return value


def test_measured_times_are_the_profiles(launch: Launch) -> None:
    """TTFT: the prefill, and a few ms through the frontend. ITL: that of the one request's KV cache."""
    with launch("1A", LONELY) as lab:
        measured = lab.measure()
        assert measured.failed == 0
        assert median(measured, "ttft_p50_s") == pytest.approx(PROFILE.prefill(1000), rel=0.10)
        assert median(measured, "itl_p50_s") == pytest.approx(PROFILE.itl(1020, 1020), rel=0.05)
        kinds = {mark.kind for mark in measured.marks}
        assert "simulated" in kinds
        assert measured.window.accelerator == "simulated h100_sxm GPU"
        assert "per simulated h100_sxm GPU" in str(measured)
        lab.measure(Workload(isl=2000, osl=8, concurrency=1, requests=6))
        seen = observed_steps(lab.run, 1)
    found = {round(one.tokens): one.seconds for one in seen.prefill}
    assert found[2000] - found[1000] == pytest.approx(0.1, rel=0.15), "what is observed of a run is the profile's slope"


def test_prefills_stand_between_the_tokens_of_aggregated_workers_alone(launch: Launch) -> None:
    with launch("2A", CROWDED) as lab:
        together = lab.measure()
    with launch("1P1D", CROWDED) as lab:
        apart = lab.measure()
    assert together.failed == apart.failed == 0
    assert median(together, "itl_p99_s") > 0.08, "a prefill of 110 ms stands between two tokens"
    assert median(apart, "itl_p99_s") < 0.05
    assert median(apart, "tpot_p50_s") < median(together, "tpot_p50_s")
    seen = observed_steps(lab.run, 1).decode
    ratios = [one.seconds / PROFILE.itl(one.active_kv_tokens, one.context_tokens) for one in seen]
    assert np.median(ratios) == pytest.approx(1.0, abs=0.06), "the fit to runs would find the profile again"


def test_dozens_of_workers_launch_and_each_serves(launch: Launch) -> None:
    with launch("16P8D", Workload(isl=200, osl=8, rate=30.0, duration_s=8.0)) as lab:
        assert len(lab.deployment.workers) == lab.deployment.accelerators == 24
        assert lab.deployment.verified
        before = lab.deployment.counters()
        measured = lab.measure()
        after = lab.deployment.counters()
    assert measured.failed == 0, measured.counts
    served = {name: (after[name] - before[name]).requests for name in after}
    assert len(served) == 24
    assert all(served.values()), served


def test_a_fleet_is_re_split_under_load_and_no_request_fails(launch: Launch) -> None:
    with launch("8P8D", Workload(isl=500, osl=20, rate=20.0, duration_s=6.0)) as lab:
        assert lab.deployment.accelerators == 16
        assert lab.deployment.verified
        with lab.load(Workload(isl=500, osl=20, rate=10.0, duration_s=40.0)) as load:
            until(lambda: load.progress and load.progress.done >= 3, "the first answers", 60.0)
            for split in ("4P12D", "16A"):
                done = lab.resplit(split)
                assert all(row.against is None for row in done.proof), str(done)
            load.stop()
        measured = load.wait()
        assert measured.failed == 0, measured.counts
        victim = lab.deployment.workers[3]
        os.kill(victim.tree.pid, signal.SIGKILL)
        until(lambda: lab.deployment.failures, "the news of its death")
        done = lab.restart(victim.name)
        assert all(row.against is None for row in done.proof), str(done)
        assert lab.deployment.accelerators == 16
