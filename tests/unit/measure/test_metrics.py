import pytest

from labkit.errors import SpecError, UnknownMetric
from labkit.measure.metrics import Summary, summarise
from labkit.spec import Slo, Workload
from tests.support.handmade import records, steady, unscheduled, window


def test_a_summary_reads_like_a_dict_and_says_why_values_are_missing():
    summary = summarise(records([steady(n) for n in range(5)]), window())
    assert isinstance(summary, Summary)
    assert summary["requests"] == 5
    assert dict(summary)["ttft_p50_s"] == pytest.approx(0.1)
    assert summary["ttft_p99_s"] is None
    assert summary.reasons["ttft_p99_s"] == "n too small (n=5, p99 needs 100)"
    assert summary.reasons["goodput_request_s"] == "no SLO was given"
    assert summary.get("no such metric") is None
    assert summary.to_dict()["values"] == dict(summary)


@pytest.mark.parametrize("kind", [UnknownMetric, SpecError, KeyError])
def test_an_unknown_metric_names_those_that_are_like_it(kind: type[Exception]):
    summary = summarise(records([steady(0)]), window())
    with pytest.raises(kind, match="unknown metric 'ttft_p98_s'") as caught:
        summary["ttft_p98_s"]
    assert "ttft_p99_s" in str(caught.value)
    assert "ttft_p98_s" not in summary


def test_every_missing_value_has_a_reason():
    for made in (records([]), records([steady(0)]), records([steady(0, outcome="cut")])):
        summary = summarise(made, window(), slo=Slo())
        assert all(summary.reasons.get(name) for name, value in summary.items() if value is None)
        assert all(value is None for name, value in summary.items() if name in summary.reasons)


def test_p99_appears_with_a_hundred_values():
    made = [steady(n, scheduled_ns=n * 1000) for n in range(100)]
    assert summarise(records(made[:99]), window())["ttft_p99_s"] is None
    assert summarise(records(made), window())["ttft_p99_s"] == pytest.approx(0.1)


def test_a_window_without_length_has_no_rates():
    summary = summarise(records([steady(0)]), window(stop_ns=0))
    assert summary["output_tok_s"] is None
    assert summary.reasons["output_tok_s"] == "the window has no length"


def test_an_slo_from_the_schedule_needs_a_recorded_schedule():
    made = unscheduled(records([steady(n) for n in range(5)]))
    summary = summarise(made, window(), slo=Slo(ttft_s=0.2))
    assert summary.reasons["goodput_request_s"] == "5 requests lack what the SLO needs: the schedule was not recorded"
    assert summary.reasons["ttft_from_schedule_p50_s"] == "the schedule was not recorded"
    assert summarise(made, window(), slo=Slo(tpot_s=0.05))["slo_attainment"] == 1
    closed = window(workload=Workload(concurrency=2, requests=5))
    assert summarise(made, closed, slo=Slo(ttft_s=0.2))["slo_attainment"] == 1, "a closed loop counts from the real send"
