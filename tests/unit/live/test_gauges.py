"""Readings of the telemetry as workers and devices."""

from __future__ import annotations

import pytest

from labkit.live.gauges import FRESH_NS, Gauges, Reading
from labkit.live.sample import DeviceSample, FrontendSample, WorkerSample
from labkit.spec.topology import Role
from tests.support.handmade import SECOND

ROLES = {"w0": Role.PREFILL, "w1": Role.DECODE}


def gauges(t_ns: int = SECOND, **values: float) -> Gauges:
    """``w0__cpu_cores`` for source and metric; a colon is written ``_C_``."""
    found = Gauges()
    keys = {name: tuple(name.replace("_C_", ":").split("__")) for name in values}
    found.take({keys[name]: Reading(t_ns, value) for name, value in values.items()})  # type: ignore[misc]
    return found


def test_workers_have_their_gauges_and_the_dead_a_cause():
    found = gauges(
        w0__vllm_C_num_requests_running=3, w0__vllm_C_num_requests_waiting=1, w0__vllm_C_kv_cache_usage_perc=0.25,
        w1__vllm_C_gpu_cache_usage_perc=0.5,
    )  # fmt: skip
    assert found.workers(SECOND, ROLES, {"w1": "killed"}) == (
        WorkerSample("w0", Role.PREFILL, running=3, waiting=1, kv_cache_use=0.25),
        WorkerSample("w1", Role.DECODE, alive=False, cause="killed", kv_cache_use=0.5),
    )


def test_a_reading_that_is_old_says_nothing_of_now():
    found = gauges(w0__vllm_C_num_requests_running=3)
    assert found.workers(SECOND + FRESH_NS, ROLES, {})[0].running == 3
    assert found.workers(SECOND + FRESH_NS + 1, ROLES, {})[0].running is None


def test_kv_bytes_are_a_rate_of_the_last_seconds_that_survives_a_restart():
    found, metric = Gauges(), ("w1", "vllm:nixl_bytes_transferred_sum")

    def at(second: float, total: float) -> float | None:
        now = int(second * SECOND)
        found.take({metric: Reading(now, total)})
        found.take({metric: Reading(now, total)})
        return found.workers(now, ROLES, {})[1].kv_transfer_bytes_s

    assert at(10, 1000) is None
    assert at(11, 3000) == 2000
    assert at(12, 3000) == 1000
    assert at(13, 600) == pytest.approx(2600 / 3)  # the counter began again from 0
    assert at(21, 900) is None  # alone in its seconds
    assert at(22, 900) == 0
    assert found.workers(30 * SECOND, ROLES, {})[1].kv_transfer_bytes_s is None


def test_a_frontend_tells_counts_and_means_of_the_last_seconds():
    found, at = Gauges(), {"t": 0}

    def read(second: int, **values: float) -> FrontendSample | None:
        at["t"] = second * SECOND
        found.take({("router", f"dynamo_frontend_{name}"): Reading(at["t"], value) for name, value in values.items()})
        return found.frontend(at["t"])

    assert read(1, requests_total=7) is None, "another router's page"
    names = [f"{name}_seconds_{part}" for name in ("time_to_first_token", "inter_token_latency") for part in ("sum", "count")]
    first = read(10, inflight_requests=4, queued_requests=1, output_tokens_total=100, **dict.fromkeys(names, 1.0))
    assert first == FrontendSample(in_flight=4, queued=1)
    grown = dict(zip(names, (1.6, 3, 1.9, 31), strict=True))
    now = read(12, inflight_requests=2, queued_requests=0, output_tokens_total=180, **grown)
    assert now is not None
    assert (now.in_flight, now.queued, now.output_tok_s) == (2, 0, 40)
    assert now.ttft_s == pytest.approx(0.3)
    assert now.itl_s == pytest.approx(0.03)
    assert now.duration_s is None, "this page does not tell it"
    still = read(18, inflight_requests=0, **grown)
    assert still is not None
    assert (still.in_flight, still.ttft_s) == (0, None), "nothing ended in the last seconds: no mean"
    assert found.frontend(at["t"] + FRESH_NS + 1) is None


def test_gpus_are_those_that_workers_hold():
    found = gauges(
        gpu0__sm_active_fraction=0.7, gpu0__gpu_busy_fraction=1, gpu0__memory_used_bytes=20, gpu0__memory_total_bytes=80,
        gpu0__power_w=300, gpu0__power_instant_w=350, gpu2__gpu_busy_fraction=0.9, gpu2__power_w=100,
    )  # fmt: skip
    held = {"w0": {"gpus": [0], "cores": [1, 2]}, "w1": {"gpus": [0, 2], "cores": [3]}}
    assert found.devices(SECOND, ROLES, held) == (
        DeviceSample("GPU 0", "w0+w1", Role.PREFILL, utilisation=0.7, memory_use=0.25, power_w=350),
        DeviceSample("GPU 2", "w1", Role.DECODE, utilisation=0.9, power_w=100),
    )


def test_without_gpus_a_worker_has_its_cores():
    found = gauges(w0__cpu_cores=1.5, w0__rss_bytes=10, host__memory_total_bytes=100, w1__cpu_cores=1.2)
    held = {"w0": {"gpus": (), "cores": (4, 5)}, "w1": {"gpus": (), "cores": (6,)}}
    assert found.devices(SECOND, ROLES, held) == (
        DeviceSample("cores 4,5", "w0", Role.PREFILL, utilisation=0.75, memory_use=0.1),
        DeviceSample("core 6", "w1", Role.DECODE, utilisation=1.0),
    )
    assert found.devices(SECOND, ROLES, {}) == ()


def test_workers_that_share_cores_are_one_device_of_all_of_them():
    found = gauges(
        w0__cpu_cores=0.25, w0__rss_bytes=10, w1__cpu_cores=0.5, w1__rss_bytes=5, w2__cpu_cores=0.5, host__memory_total_bytes=100,
    )  # fmt: skip
    roles = {f"w{number}": Role.AGGREGATED for number in range(5)}
    held = {"w0": {"cores": [0]}, "w1": {"cores": [1]}, "w3": {"cores": [1]}, "w2": {"cores": [0]}, "w4": {"cores": [2, 3]}}
    assert found.devices(SECOND, roles, held) == (
        DeviceSample("core 0", "w0+w2", Role.AGGREGATED, utilisation=0.75, memory_use=0.1),
        DeviceSample("core 1", "w1+w3", Role.AGGREGATED, utilisation=0.5, memory_use=0.05),
        DeviceSample("cores 2,3", "w4", Role.AGGREGATED),
    )
    overlapping = {"w0": {"cores": [0, 1]}, "w1": {"cores": [2]}, "w2": {"cores": [1, 2]}}
    (all_three,) = found.devices(SECOND, roles, overlapping)
    assert (all_three.name, all_three.worker, all_three.utilisation) == ("cores 0,1,2", "w0+w1+w2", pytest.approx(1.25 / 3))
