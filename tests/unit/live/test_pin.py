from dataclasses import replace

from labkit.live import Estimate, Pin
from labkit.live.pin import ttft_of


def test_a_metric_that_was_not_measured_is_not_known():
    pin = Pin("A", "4A", "8 req/s", "run", "m", 1.0, 30.0, {"itl_p50_s": Estimate(0.0)})
    assert pin.value("itl_p50_s") == 0
    assert pin.value("ttft_p50_s") is None


def test_pins_are_drawn_against_a_ttft_that_all_of_them_have():
    pin = Pin("A", "4A", "8 req/s", "run", "m", 1.0, 30.0, {"ttft_p50_s": Estimate(0.1), "ttft_p99_s": Estimate(0.2)})
    short = replace(pin, metrics={"ttft_p50_s": Estimate(0.1)})
    assert ttft_of([pin, pin]) == "ttft_p99_s"
    assert ttft_of([pin, short]) == "ttft_p50_s"
