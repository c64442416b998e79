"""Runs of every kind as one report: what stands together, what is compared, and what each run says of each claim."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import SpecError, StoreError
from labkit.experiments.report import Judged, Outcome, Report, pick_runs, report, unread_runs
from labkit.experiments.roofline import KEY as ROOFLINE
from labkit.experiments.trials import Trial, is_trial, side_of_trial
from labkit.store.run import Run, create_run
from tests.support.saved_runs import saved_run

LONG_S = 60.0


def claim(found: Report, key: str) -> Judged:
    (one,) = (one for one in found.claims if one.claim.key == key)
    return one


def finding(results: Path, name: str, **manifest: Any) -> Run:
    """A run that holds nothing but what its experiment found."""
    run = create_run(results, name, {"kind": "lab", "model": {"name": "demo"}, **manifest})
    run.finish()
    return run


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def long(results: Path) -> Run:
    return saved_run(results, "long", ("2A", "1P1D") * 2, duration_s=LONG_S)


@pytest.fixture(scope="module")
def both(results: Path, long: Run) -> Report:
    return report([long, saved_run(results, "busy", ("2A", "1P1D"), duration_s=LONG_S, rate=3.0)], resamples=200)


def test_each_load_stands_alone_and_has_its_pair(both: Report):
    assert [cohort.title for cohort in both.cohorts] == [
        f"labkit-demo · 2 cores · {rate} req/s Poisson, ISL 512, OSL 32" for rate in ("1.5", "3")
    ]
    for cohort in both.cohorts:
        assert [point.label for point in cohort.points] == ["2A", "1P1D"]
        (pair,) = cohort.pairs
        assert (pair.comparison.side_a, pair.comparison.side_b) == ("2A", "1P1D")
    assert both.differing["workload.rate"] == ("1.5", "3")
    assert "workload.seed" not in {*both.differing, *both.common}
    assert both.left_out == ()


def test_a_simulated_split_reproduces_what_it_was_made_to_show(both: Report):
    disturb, sub_50 = claim(both, "interference"), claim(both, "sub_50_ms")
    assert (disturb.outcome, len(disturb.evidence)) == (Outcome.REPRODUCED, 2)
    assert "a prefill on the same worker: +" in disturb.evidence[0].words
    assert (sub_50.outcome, len(sub_50.evidence)) == (Outcome.REPRODUCED, 2)
    assert all("aggregated 2A does not" in one.words for one in sub_50.evidence)


def test_a_given_rate_says_nothing_of_throughput(both: Report):
    for key in ("one_node", "two_nodes", "gpt_oss", "large_models"):
        assert claim(both, key).outcome is Outcome.NOT_TESTED
        assert claim(both, key).aside == ()


@pytest.mark.parametrize(("share", "holds"), [(0.005, None), (0.3, False)])
def test_a_side_that_fails_requests_is_not_said_to_sustain_the_latency_of_the_others(tmp_path: Path, share, holds):
    run = saved_run(tmp_path, "failing", ("1P1D",) * 4, duration_s=LONG_S, fail=share)
    found = report([run], resamples=100)
    (one,) = claim(found, "sub_50_ms").evidence
    ((failed,),) = (cohort.failed for cohort in found.cohorts)
    assert failed > 0
    assert (one.holds, f"; {failed} of " in one.words, "requests failed" in one.words) == (holds, True, True)


@pytest.mark.parametrize(
    ("stopped", "said"),
    [("by hand", "stopped early: by hand"), ("saturated: arrivals 4/s", "stopped early: saturated: arrivals 4/s")],
)
def test_a_side_that_was_stopped_early_is_not_said_to_sustain(tmp_path: Path, stopped, said):
    run = saved_run(tmp_path, "stopped", ("1P1D", "1P1D"), duration_s=LONG_S)
    run.add_window(replace(run.windows[1], stopped=stopped))
    (one,) = claim(report([run], resamples=100), "sub_50_ms").evidence
    assert (one.holds, one.words.endswith(f"; {said}")) == (None, True)


def test_a_side_that_is_saturated_says_so(tmp_path: Path):
    run = saved_run(tmp_path, "outrun", ("1P1D",), duration_s=LONG_S, rate=6.0)  # a prefill worker takes about three
    (one,) = claim(report([run], resamples=100), "sub_50_ms").evidence
    assert (one.holds, "; saturated: arrivals" in one.words) == (None, True)


def test_the_text_holds_verdicts_figures_and_warnings(both: Report):
    text = " ".join(str(both).split())
    assert "✓ Prefill and decode on one accelerator disturb each other" in text
    assert "– Llama-70B on two nodes: more than twice the throughput per GPU: not tested: no run here tests it" in text
    assert "TTFT p50 (ms)" in text
    assert "Disaggregated (1P1D), against Aggregated (2A), cut p99 ITL" in text
    assert both.to_dict()["runs"] == ["long", "busy"]
    assert {one["outcome"] for one in both.to_dict()["claims"]} == {"reproduced", "not tested"}


def test_sides_of_separate_runs_meet_where_conditions_are_equal(tmp_path: Path):
    a = saved_run(tmp_path, "a", ("2A",), duration_s=LONG_S)
    b = saved_run(tmp_path, "b", ("1P1D",), duration_s=LONG_S)
    other = saved_run(tmp_path, "other", ("1P1D",), duration_s=LONG_S, manifest={"model": {"name": "another"}})
    found = report([a, b, other], resamples=100)
    assert [len(cohort.pairs) for cohort in found.cohorts] == [1, 0]
    ((pair,), _) = (cohort.pairs for cohort in found.cohorts)
    assert pair.runs == ("a", "b")
    assert "the sides were measured in separate runs, not interleaved" in pair.comparison.notes


def test_a_pair_that_must_not_be_compared_is_named(tmp_path: Path):
    a = saved_run(tmp_path, "a", ("2A",))
    b = saved_run(tmp_path, "b", ("1P1D",), duration_s=LONG_S)
    found = report([a, b], resamples=100)
    assert [cohort.pairs for cohort in found.cohorts] == [()]
    (said,) = found.left_out
    assert said.startswith("1P1D of b is not compared with 2A of a: unequal work: duration_s")


def test_trials_steps_and_explorations_are_no_sides(tmp_path: Path, long: Run):
    trial = side_of_trial("2A", 1.5)
    assert is_trial(trial)
    assert not is_trial("2A")
    explored = saved_run(tmp_path, "explored", ("2A",), manifest={"kind": "explore"})
    swept = saved_run(tmp_path, "swept", ("1A",), manifest={"prefill_saturation": {"knees": {}}})
    found = report([explored, swept, long], resamples=100)
    assert [line.id for line in found.runs] == ["explored", "swept", "long"]
    assert [entry.run.id for cohort in found.cohorts for entry in cohort.entries] == ["long", "long"]


@pytest.mark.parametrize(
    ("prefill", "decode", "outcome"),
    [
        (("neither", "compute-bound"), ("memory-bound", "memory-bound"), Outcome.REPRODUCED),
        (("compute-bound",), ("neither",), Outcome.NOT_REPRODUCED),
        (("memory-bound", "compute-bound"), ("memory-bound",), Outcome.NOT_REPRODUCED),
        ((), ("memory-bound",), Outcome.NOT_TESTED),
    ],
)
def test_a_roofline_shows_what_bounds_each_phase(tmp_path: Path, prefill, decode, outcome):
    points = [
        {"phase": phase, "bound": bound} for phase, all_of in (("prefill", prefill), ("decode", decode)) for bound in all_of
    ]
    run = finding(tmp_path, "roofline", **{ROOFLINE: {"model": "demo", "points": points}})
    assert claim(report([run]), "bound").outcome is outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.6, 0.8, Outcome.REPRODUCED), (1.1, 1.4, Outcome.NOT_REPRODUCED), (0.9, 1.2, Outcome.UNDECIDED)],
)
def test_the_knee_that_was_set_shows_whether_it_minimises_ttft(tmp_path: Path, low, high, outcome):
    rows = [{"key": "ttft_p50_s", "ratio": {"low": low, "estimate": (low + high) / 2, "high": high}}]
    tried = {"isl": 128, "verdict": "TTFT p50 704 → 488 ms.", "comparison": {"rows": rows}}
    sweep = {"knees": {"128": {"tokens": {"estimate": 210.0}}}}
    found = claim(report([finding(tmp_path, "tried", prefill_limits=tried, prefill_saturation=sweep)]), "smallest_batch")
    assert found.outcome is outcome
    assert found.evidence[0].words == "saturates at 210 tokens a step; TTFT p50 704 → 488 ms."


def test_each_step_of_a_scaling_run_is_a_place(tmp_path: Path):
    steps = [
        {"role": "prefill", "before": "1P1D", "after": "2P1D", "own": "shorter", "other": "same"},
        {"role": "decode", "before": "1P1D", "after": "1P2D", "own": "shorter", "other": "longer"},
    ]
    run = finding(tmp_path, "scaled", scaling={"steps": steps, "repeats": 3, "outcome": "only when"})
    found = claim(report([run]), "scaling")
    assert [one.holds for one in found.evidence] == [True, False]
    assert found.outcome is Outcome.ONLY_WHEN
    assert found.reason == "added is prefill workers (not decode workers) (1 of 2 places)"
    hasty = finding(tmp_path, "hasty", scaling={"steps": steps, "repeats": 1, "outcome": "open"})
    assert claim(report([hasty]), "scaling").outcome is Outcome.UNDECIDED


def trial(candidate: str, rate: float, served: bool, rung: int) -> Trial:
    return Trial(
        key="k", candidate=candidate, rate=rate, seconds=8.0, rung=rung, served=served, attainment=None, goodput_hz=None,
        requests=20, stopped="", run="x", measurement=0,
    )  # fmt: skip


def search(results: Path, model: str, served: dict[str, tuple[float, float]], **manifest: Any) -> Run:
    trials = [
        asdict(trial(name, rate, good, rung=rung))
        for name, bracket in served.items()
        for rung, rates in enumerate(((1.0, 100.0), bracket))  # the first round knows little
        for rate, good in zip(rates, (True, False), strict=True)
    ]
    return finding(results, f"search-{model}", **{"kind": "search", "trials": trials, "model": {"name": model}, **manifest})


@pytest.mark.parametrize(
    ("peaks", "outcome"),
    [
        ({"4P@tp1+1D@tp4": (14.0, 15.0), "2A@tp4": (9.0, 10.0)}, Outcome.REPRODUCED),
        ({"4P@tp1+1D@tp4": (10.0, 11.0), "2A@tp4": (9.0, 10.0)}, Outcome.NOT_REPRODUCED),
        ({"4P@tp1+1D@tp4": (12.0, 13.0), "2A@tp4": (9.0, 10.0)}, Outcome.UNDECIDED),
    ],
)
def test_the_peaks_of_a_search_judge_the_claim_of_one_node(tmp_path: Path, peaks, outcome):
    found = claim(report([search(tmp_path, "llama-3.1-70b-fp8", peaks)]), "one_node")
    assert found.outcome is outcome
    assert "4P@tp1+1D@tp4 against 2A@tp4" in found.evidence[0].where


@pytest.mark.parametrize(
    ("served", "outcome"), [(25.0, Outcome.REPRODUCED), (12.0, Outcome.NOT_REPRODUCED), (19.0, Outcome.UNDECIDED)]
)
def test_runs_on_two_nodes_judge_the_claim_of_two_and_not_that_of_one(tmp_path: Path, served, outcome):
    peaks = {"4P@tp1+1D@tp4": (served, served + 1), "2A@tp4": (9.0, 10.0)}
    run = search(tmp_path, "llama-3.1-70b-fp8", peaks, hardware={"nodes": [{"name": "a"}, {"name": "b"}]})
    found = report([run])
    two, one = claim(found, "two_nodes"), claim(found, "one_node")
    assert (two.outcome, [each.where for each in two.evidence]) == (outcome, ["4P@tp1+1D@tp4 against 2A@tp4, on 2 nodes"])
    assert (one.outcome, one.evidence) == (Outcome.NOT_TESTED, ())
    assert [each.where for each in one.aside] == ["4P@tp1+1D@tp4 against 2A@tp4, on 2 nodes"]


def test_runs_on_one_node_say_nothing_of_two_and_those_on_three_stand_beside(tmp_path: Path):
    peaks = {"4P@tp1+1D@tp4": (25.0, 26.0), "2A@tp4": (9.0, 10.0)}
    alone = claim(report([search(tmp_path, "llama-3.1-70b", peaks)]), "two_nodes")
    assert (alone.outcome, alone.aside) == (Outcome.NOT_TESTED, ())
    many = search(tmp_path, "llama-3.3-70b", peaks, hardware={"nodes": [{}, {}, {}]})
    three = claim(report([many]), "two_nodes")
    assert (three.outcome, len(three.aside)) == (Outcome.NOT_TESTED, 1)


def test_another_model_stands_beside_the_claim_and_not_for_it(tmp_path: Path):
    found = claim(report([search(tmp_path, "demo", {"1P1D": (14.0, 15.0), "2A": (9.0, 10.0)})]), "one_node")
    assert (found.outcome, [one.holds for one in found.aside]) == (Outcome.NOT_TESTED, [True])
    assert "1.40 to 1.67 times as much" in found.aside[0].words


def test_a_larger_model_must_gain_more_than_a_smaller_one(tmp_path: Path):
    small = search(tmp_path, "llama-3.1-8b", {"1P1D": (9.0, 9.5), "2A": (9.0, 9.5)})
    large = search(tmp_path, "llama-3.1-70b", {"1P@tp4+1D@tp4": (14.0, 15.0), "2A@tp4": (9.0, 10.0)})
    found = claim(report([small, large]), "large_models")
    assert (found.outcome, [one.where for one in found.evidence]) == (Outcome.REPRODUCED, ["70B against 8B"])
    alone = claim(report([small]), "large_models")
    assert (alone.outcome, len(alone.aside)) == (Outcome.NOT_TESTED, 1)


def test_runs_are_picked_by_name_or_all_but_reports(tmp_path: Path):
    with pytest.raises(SpecError, match="no runs in"):
        pick_runs(tmp_path)
    with pytest.raises(SpecError, match="needs a run"):
        report([])
    for name, kind in (("one", "lab"), ("two", "report"), ("three", "lab")):
        finding(tmp_path, name, kind=kind)
    assert {run.id for run in pick_runs(tmp_path)} == {"one", "three"}
    assert [run.id for run in pick_runs(tmp_path, ["three", "one", str(tmp_path / "one")])] == ["three", "one"]
    with pytest.raises(StoreError, match="no run 'four'"):
        pick_runs(tmp_path, ["four"])


def test_a_damaged_run_is_left_out_and_named(tmp_path: Path, long: Run):
    broken = saved_run(tmp_path, "broken", ("2A",))
    (broken.path / "requests.parquet").write_bytes(b"not a table")
    cut = saved_run(tmp_path, "cut", ("2A",))
    cut.update(status="interrupted")
    saved_run(tmp_path, "unknown", ("2A",)).path.joinpath("manifest.json").write_text("{")
    assert "unknown" not in [run.id for run in pick_runs(tmp_path)]
    found = report([long, broken, cut], resamples=50, unread=unread_runs(tmp_path))
    assert [line.id for line in found.runs] == ["long", "cut"]
    assert found.left_out[2].startswith("run unknown cannot be read: ")
    assert "is damaged" in found.left_out[2]
    assert found.to_dict()["left_out"] == list(found.left_out)
    assert found.left_out[0].startswith("run broken cannot be read: ")
    assert found.left_out[1] == "run cut is interrupted: what it had measured by then is used"


def test_what_a_run_concluded_itself_is_told_where_no_pair_says_it(tmp_path: Path, long: Run):
    run = finding(tmp_path, "advice", answer="Start prefill workers with 210 tokens a step.")
    found = report([run, long], resamples=50)
    assert [line.id for line in found.findings] == ["advice"]
    assert "Start prefill workers with 210 tokens a step." in str(found)
    assert asdict(found.runs[0])["said"] == "Start prefill workers with 210 tokens a step."
