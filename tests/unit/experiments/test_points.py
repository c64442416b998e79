"""Sides as points: values are those of a summary, and every interval holds its value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import ComparisonError
from labkit.experiments.points import estimates, point_of, points_of_trials
from labkit.experiments.trials import Trial, side_of_trial
from labkit.measure.digest import digest
from labkit.measure.metrics import summarise
from labkit.spec import Slo, Workload
from tests.support.handmade import MS, SECOND, records, steady, window
from tests.support.saved_runs import saved_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    return saved_run(tmp_path_factory.mktemp("results"), "afternoon")


def test_values_are_those_of_the_summary_and_lie_in_their_intervals(run):
    bounds, slo = run.windows[1], Slo(tpot_s=0.05)
    found, summary = estimates([(run.digest(), bounds)], slo), summarise(run.records(), bounds, slo=slo)
    names = {"output_tok_s_per_accelerator": "output_tok_s_per_gpu", "goodput_hz": "goodput_request_s"}
    assert {"output_tok_s", "ttft_p50_s", "itl_p50_s", "itl_p99_s", "goodput_hz", "tok_s_per_user"} <= set(found)
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(summary[names.get(name, name)])
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high
    tpot, user = found["tpot_p50_s"], found["tok_s_per_user"]
    assert (user.low, user.value, user.high) == (1 / tpot.high, 1 / tpot.value, 1 / tpot.low)


def test_a_point_says_what_its_repeats_are_marked_with(tmp_path):
    run = saved_run(tmp_path, "marked", ("2A", "1P1D", "2A"), fail=0.2)
    point = point_of(run, "2A")
    assert point.settled is None, "nobody has looked for a stationary part"
    assert any("requests failed" in warning for warning in point.warnings)


def test_stalls_slow_a_user_down_though_the_median_gap_does_not_know_them():
    slow = [steady(n, gap_ms=10, tokens=11) for n in range(10)]
    for row in slow:  # one gap in ten takes 200 ms: TPOT is 29 ms, the median gap 10 ms
        row["chunks"] = [(t + (190 * MS if i else 0), k, text) for i, (t, k, text) in enumerate(row["chunks"])]
    bounds = window()
    found = estimates([(digest(records(slow, windows=[bounds])), bounds)], None, resamples=50)
    assert found["itl_p50_s"].value == pytest.approx(0.010)
    assert found["tok_s_per_user"].value == pytest.approx(1 / 0.029)


def test_closed_loop_goodput_is_that_of_the_summary_and_no_more_than_ends_inside():
    bounds = window(stop_ns=2 * SECOND, workload=Workload(concurrency=8, duration_s=2.0, isl=8, osl=5))
    rows = [steady(n, scheduled_ns=n // 8 * 900 * MS, first_ms=700) for n in range(24)]  # eight at once, the last end after it
    made = digest(records(rows, windows=[bounds]))
    found = estimates([(made, bounds)], Slo(ttft_s=1.0), resamples=50)
    assert found["goodput_hz"].value == summarise(made, bounds, slo=Slo(ttft_s=1.0))["goodput_request_s"] == 16 / 2
    assert found["goodput_hz"].low < found["goodput_hz"].value == found["goodput_hz"].high
    assert found["slo_attainment"].value == 1.0


def test_a_closed_loop_of_which_nothing_ended_inside_had_no_goodput():
    bounds = window(stop_ns=SECOND, workload=Workload(concurrency=8, duration_s=1.0, isl=8, osl=5))
    made = digest(records([steady(n, first_ms=2000) for n in range(8)], windows=[bounds]))
    found = estimates([(made, bounds)], Slo(ttft_s=3.0), resamples=50)
    assert found["goodput_hz"].value == summarise(made, bounds, slo=Slo(ttft_s=3.0))["goodput_request_s"] == 0
    assert (found["goodput_hz"].low, found["goodput_hz"].high) == (None, None)
    assert found["slo_attainment"].value == 1.0


def test_good_requests_that_all_agree_keep_an_interval(run):
    every = estimates([(run.digest(), run.windows[1])], Slo(tpot_s=100.0))
    share, goodput = every["slo_attainment"], every["goodput_hz"]
    assert (share.value, share.high) == (1.0, 1.0)
    assert share.low is not None
    assert 0.7 < share.low < 1, "that all were good does not show that all would be"
    assert goodput.low is not None
    assert goodput.low <= goodput.value * share.low


def test_no_good_request_does_not_show_that_there_is_none(run):
    every = estimates([(run.digest(), run.windows[1])], Slo(tpot_s=1e-6))
    for name in ("slo_attainment", "goodput_hz"):
        assert every[name].value == every[name].low == 0
        assert every[name].high is not None
        assert every[name].high > 0
    assert every["slo_attainment"].high < 0.3


def test_a_side_is_one_point_over_its_repeats(run):
    point = point_of(run, "1P1D")
    mine = [window for window in run.windows if window.side == "1P1D"]
    summaries = [summarise(run.records(), window) for window in mine]
    assert (point.label, point.topology, point.run) == ("1P1D", "1P1D", run.id)
    assert len(mine) == 2
    assert point.requests == sum(int(summary["requests"] or 0) for summary in summaries)
    assert point.window_s == pytest.approx(sum(window.length_s for window in mine))
    outputs = [summary["output_tok_s"] for summary in summaries]
    assert point.value("output_tok_s") == pytest.approx(sum(outputs) / 2)
    assert min(outputs) <= point.value("output_tok_s") <= max(outputs)
    with pytest.raises(ComparisonError, match="'3P1D' was not measured"):
        point_of(run, "3P1D")


def trial(candidate: str, rate: float, served: bool, run: str) -> Trial:
    return Trial(
        key="k", candidate=candidate, rate=rate, seconds=8.0, rung=0, served=served, attainment=None, goodput_hz=None,
        requests=20, stopped="", run=run, measurement=0,
    )  # fmt: skip


def test_the_loads_that_a_search_served_are_points_each_once(tmp_path: Path):
    kept = saved_run(tmp_path, "kept", ("2A", "2A", "1P1D"), manifest={"kind": "search"})
    for each, rate in zip(kept.windows, (1.5, 1.5, 3.0), strict=True):
        kept.add_window(replace(each, side=side_of_trial(each.topology, rate)))
    trials = [
        trial("2A", 1.5, True, "kept"),
        trial("2A", 1.5, True, "kept"),
        trial("1P1D", 3.0, True, "kept"),
        trial("2A", 3.0, False, "kept"),
        trial("2A", 1.0, True, "gone"),
    ]
    points = points_of_trials(trials, tmp_path, resamples=50)
    assert [(point.label, point.topology) for point in points] == [("2A at 1.5/s", "2A"), ("1P1D at 3/s", "1P1D")]
    assert points[0].window_s == pytest.approx(2 * kept.windows[0].length_s)
    assert all(point.value("tok_s_per_user") for point in points)
