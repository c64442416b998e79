"""Workers for a load: from the lower end of what was measured, rounded up for each role."""

from __future__ import annotations

import pytest

from labkit.deploy.found import Capacity
from labkit.deploy.scaling import scaled
from labkit.errors import SpecError
from tests.support.found_splits import ON_CORES, on_gpus


def serving(low: float | None, value: float = 8.0) -> Capacity:
    return Capacity(value, low, 9.0, "measured")


@pytest.mark.parametrize(
    ("topology", "rate", "wanted"),
    [
        ("4A", 8.0, "4A"),
        ("4A", 8.1, "5A"),
        ("4A", 2.0, "1A"),
        ("4A", 0.01, "1A"),
        ("1P1D", 1e-12, "1P1D"),
        ("1P3D", 12.0, "2P5D"),
        ("1P@tp4+3D@tp2", 16.0, "2P@tp4+6D@tp2"),
        ("3A", 24.0, "9A"),
    ],
)
def test_each_role_is_multiplied_and_rounded_up(topology: str, rate: float, wanted: str):
    size = scaled(on_gpus(topology, capacity=serving(8.0)), request_rate=rate)
    assert str(size.topology) == wanted
    assert f"for {rate:g} req/s" in size.text
    assert "linearly" in size.text
    assert bool(size.warnings) == (wanted != topology)


def test_the_lower_end_of_the_interval_counts_and_the_value_where_there_is_none():
    assert str(scaled(on_gpus("4A", capacity=serving(4.0)), request_rate=8.0).topology) == "8A"
    assert str(scaled(on_gpus("4A", capacity=serving(None)), request_rate=8.0).topology) == "4A"


def test_a_rounding_error_of_the_division_costs_no_worker():
    assert str(scaled(on_gpus("3A", capacity=serving(0.1)), request_rate=0.3).topology) == "9A"


def test_without_a_load_it_is_as_measured_and_replicas_are_copies():
    assert scaled(on_gpus("1P3D")) == scaled(on_gpus("1P3D"), replicas=1)
    size = scaled(on_gpus("1P3D"), replicas=3)
    assert str(size.topology) == "3P9D"
    assert "3 copies of 1P3D" in size.text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"request_rate": 0.0}, "request rate 0 "),
        ({"request_rate": -3.0}, "request rate -3 "),
        ({"request_rate": float("nan")}, "request rate nan "),
        ({"request_rate": float("inf")}, "request rate inf "),
        ({"replicas": 0}, "replicas = 0"),
        ({"request_rate": 1.0, "replicas": 1}, "a request rate and a number of replicas"),
        ({"replicas": 5000}, "more than 1024 workers"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(asked: dict[str, float], message: str):
    with pytest.raises(SpecError, match=message):
        scaled(on_gpus("4A"), **asked)


def test_a_rate_needs_a_measurement_on_what_it_is_deployed_on():
    with pytest.raises(SpecError, match="was not measured") as raised:
        scaled(on_gpus("4A", capacity=None), request_rate=1.0)
    assert "--replicas" in raised.value.remedy
    with pytest.raises(SpecError, match="measured on CPU cores"):
        scaled(ON_CORES, request_rate=1.0)
    assert str(scaled(ON_CORES, request_rate=2.4, to_gpu=False).topology) == "2P2D"
    assert str(scaled(ON_CORES, replicas=2).topology) == "2P2D"
