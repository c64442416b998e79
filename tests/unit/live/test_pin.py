from labkit.live import Estimate, Pin


def test_a_metric_that_was_not_measured_is_not_known():
    pin = Pin("A", "4A", "8 req/s", "run", "m", 1.0, 30.0, {"itl_p50_s": Estimate(0.0)})
    assert pin.value("itl_p50_s") == 0
    assert pin.value("ttft_p50_s") is None
