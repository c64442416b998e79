import numpy as np
import pytest

from labkit.measure.counters import Series, growth, is_shared, series
from labkit.measure.metrics import summarise
from tests.support.handmade import SECOND, records, steady, window

BYTES, COUNT = "vllm:nixl_bytes_transferred_sum", "vllm:nixl_bytes_transferred_count"
XFER, XFERS, FAILED = (
    "vllm:nixl_xfer_time_seconds_sum",
    "vllm:nixl_xfer_time_seconds_count",
    "vllm:nixl_num_failed_transfers_total",
)


def counter(*points: tuple[int, float]) -> Series:
    return Series(np.array([t for t, _ in points]), np.array([value for _, value in points], float))


def test_growth_is_from_before_the_start_to_the_last_at_the_stop():
    assert growth(counter((0, 5.0), (9, 7.0), (15, 9.0), (20, 12.0), (21, 99.0)), 10, 20) == 5.0


def test_growth_over_a_reset_counts_what_came_after_it():
    assert growth(counter((0, 100.0), (5, 110.0), (10, 4.0), (15, 6.0)), 0, 20) == 10 + 4 + 2


def test_growth_without_a_sample_before_the_start_begins_at_the_first():
    assert growth(counter((12, 5.0), (15, 8.0)), 10, 20) == 3.0


@pytest.mark.parametrize("points", [[], [(12, 5.0)], [(30, 1.0), (31, 2.0)]])
def test_growth_of_too_few_samples_is_unknown(points):
    assert growth(counter(*points), 10, 20) is None


def test_series_are_sorted_and_without_nulls():
    made = records([], samples=[(3, "w0", "x", 3.0), (1, "w0", "x", 1.0), (2, "w0", "x", None), (1, "w1", "y", 1.0)])
    found = series(made.samples, "x")
    assert found.keys() == {"w0"}
    assert found["w0"].value.tolist() == [1.0, 3.0]
    assert series(made.samples, "z") == {}


def at(second: float, source: str, **values: float) -> list[tuple[int, str, str, float]]:
    names = {"moved": BYTES, "count": COUNT, "seconds": XFER, "xfers": XFERS, "failed": FAILED}
    return [(int(second * SECOND), source, names.get(name, name), value) for name, value in values.items()]


def test_kv_transfers_are_summed_over_workers_and_over_the_window_only():
    samples = [
        *at(-0.5, "w0", moved=1e9, count=10, seconds=1, xfers=10, failed=1),
        *at(9.9, "w0", moved=5e9, count=30, seconds=3, xfers=30, failed=2),
        *at(11, "w0", moved=99e9, count=99, seconds=99, xfers=99, failed=9),
        *at(0, "w1", moved=0, count=0, seconds=0, xfers=0, failed=0),
        *at(5, "w1", moved=2e9, count=10, seconds=1, xfers=10, failed=0),
    ]
    found = summarise(records([steady(0)], samples=samples), window())
    assert found["kv_transfer_bytes"] == 6e9
    assert found["kv_transfers"] == 30
    assert found["kv_transfer_s"] == 3
    assert found["kv_bytes_per_transfer"] == pytest.approx(2e8)
    assert found["kv_s_per_transfer"] == pytest.approx(0.1)
    assert found["kv_transfer_gb_s"] == pytest.approx(2.0)
    assert found["kv_transfer_failures"] == 1


def test_no_transfer_is_zero_bytes_and_no_counter_is_none():
    idle = [*at(0, "w0", moved=5, count=1, seconds=1), *at(9, "w0", moved=5, count=1, seconds=1)]
    found = summarise(records([steady(0)], samples=idle), window())
    assert found["kv_transfer_bytes"] == 0
    assert found["kv_transfer_gb_s"] is None
    assert found.reasons["kv_transfer_gb_s"] == "no KV was transferred in the window"
    absent = summarise(records([steady(0)]), window())
    assert absent["kv_transfer_bytes"] is None
    assert absent.reasons["kv_transfer_bytes"] == "no worker counts KV transfers"


def test_cpu_cores_are_means_per_source_inside_the_window():
    samples = [
        *at(1, "w0", cpu_cores=0.5),
        *at(2, "w0", cpu_cores=0.7),
        *at(11, "w0", cpu_cores=9),
        *at(1, "router", cpu_cores=0.1),
    ]
    found = summarise(records([steady(0)], samples=samples), window())
    assert found["cpu_cores_w0"] == pytest.approx(0.6)
    assert found["cpu_cores_router"] == pytest.approx(0.1)


GPUS = [*at(0, "gpu0", energy_j=100), *at(10, "gpu0", energy_j=200), *at(0, "gpu1", energy_j=0), *at(10, "gpu1", energy_j=50)]


def test_energy_is_summed_over_the_gpus_of_the_topology():
    found = summarise(records([steady(0)], samples=GPUS), window(accelerator="GPU"))
    assert found["energy_j_per_token"] == pytest.approx(150 / 5)


@pytest.mark.parametrize(
    ("accelerators", "topology", "reason"),
    [(1, "2A", "shared"), (1, "1A", "2 GPUs were sampled, the topology holds 1"), (4, "4A", "2 GPUs were sampled")],
)
def test_energy_that_cannot_be_told_apart_is_none(accelerators, topology, reason):
    found = summarise(records([steady(0)], samples=GPUS), window(accelerator="GPU", accelerators=accelerators, topology=topology))
    assert found["energy_j_per_token"] is None
    assert reason in found.reasons["energy_j_per_token"]


def test_energy_without_a_counter_is_none():
    assert "no energy counter" in summarise(records([steady(0)]), window()).reasons["energy_j_per_token"]


@pytest.mark.parametrize(
    ("fields", "shared"),
    [
        ({"accelerator": "GPU", "accelerators": 0.5}, True),
        ({"accelerator": "GPU", "accelerators": 2}, False),
        ({"accelerator": "core", "accelerators": 1}, True),
        ({"accelerator": "GPU", "accelerators": 0}, False),
        ({"accelerator": "GPU", "accelerators": 1, "topology": "attached"}, False),
    ],
)
def test_is_shared(fields, shared):
    assert is_shared(window(**fields)) is shared
