"""Which split of a run is deployed, what it ran with, and what may be counted on."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from labkit.deploy.found import FoundSplit, found_split
from labkit.errors import ComparisonError, SpecError, StoreError
from labkit.experiments.pins import keep_pin
from labkit.experiments.trials import Trial, side_of_trial
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Topology
from labkit.store import Run, open_run
from tests.support.saved_runs import saved_run

TIGHT = {"ttft_s": 0.4, "tpot_s": 0.05, "e2e_s": None}


def trial(candidate: str, rate: float, served: bool, rung: int = 0, run: str = "search") -> Trial:
    return Trial(
        key="0" * 16, candidate=candidate, rate=rate, seconds=8.0, rung=rung, served=served, attainment=0.95 if served else 0.5,
        goodput_hz=rate, requests=20, stopped="", run=run, measurement=0,
    )  # fmt: skip


def search(results: Path, trials: list[Trial], best: str | None, **manifest: Any) -> Run:
    run = saved_run(results, "search", ("2A", "1P1D"), finish=False, manifest={"kind": "search", **manifest})
    run.update(trials=[asdict(one) for one in trials])
    if best is not None:
        run.note("found", kind="search", data={"best": best, "trials": len(trials)})
        run.update(answer=f"Of 2 splits of 2 cores, {best} serves most\n  more")
    run.finish()
    return run


def measured(found: FoundSplit) -> bool:
    return {"ttft_p50_s", "goodput_hz", "slo_attainment"} <= found.figures.keys() and found.requests > 0


def test_the_only_side_of_a_run_is_taken_with_its_figures(tmp_path: Path):
    run = saved_run(tmp_path, "one", ("1P1D", "1P1D"), gpus=True, manifest={"options": asdict(EngineOptions(max_num_seqs=8))})
    found = found_split(run)
    assert (found.run, found.topology, found.on_gpu) == ("one", Topology("1P1D"), True)
    assert found.options == EngineOptions(max_num_seqs=8)
    assert measured(found)
    assert found.capacity is not None
    assert found.capacity.value == found.figures["goodput_hz"].value
    assert "SLO" not in " ".join(found.warnings)


def test_the_interval_of_what_it_serves_is_that_of_the_share_that_met_the_slo(tmp_path: Path):
    found = found_split(saved_run(tmp_path, "one", ("1P1D",), duration_s=40.0, manifest={"slo": TIGHT}))
    share, goodput = found.figures["slo_attainment"], found.figures["goodput_hz"]
    assert found.capacity is not None
    assert share.low is not None
    assert found.capacity.low == pytest.approx(goodput.value * share.low / share.value)
    assert found.capacity.sure == found.capacity.low < found.capacity.value
    assert share.value < 0.9
    assert any("fewer than 90%" in text for text in found.warnings)


def test_of_two_sides_the_one_with_more_goodput_is_taken(tmp_path: Path):
    slo = {"ttft_s": None, "tpot_s": 0.019, "e2e_s": None}
    run = saved_run(tmp_path, "two", ("2A", "1P1D", "2A", "1P1D"), duration_s=40.0, manifest={"slo": slo})
    found = found_split(run)
    assert found.topology == Topology("1P1D")
    assert "more goodput" in found.origin


def test_two_sides_that_are_not_told_apart_must_be_named(tmp_path: Path):
    run = saved_run(tmp_path, "two", ("2A", "1P1D"), manifest={"slo": {"ttft_s": 60.0, "tpot_s": 1.0, "e2e_s": None}})
    with pytest.raises(SpecError, match="not told apart by goodput") as raised:
        found_split(run)
    assert "--side" in raised.value.remedy
    assert found_split(run, side="2A").topology == Topology("2A")


def test_three_sides_must_be_named_and_a_wrong_name_says_which_there_are(tmp_path: Path):
    run = saved_run(tmp_path, "three", ("2A", "1P1D", "1A"))
    with pytest.raises(SpecError, match="ranks none of them"):
        found_split(run)
    with pytest.raises(ComparisonError) as raised:
        found_split(run, side="9A")
    assert "2A, 1P1D, 1A" in raised.value.remedy


def test_a_search_gives_its_winner_with_its_chunks_and_the_bracket_of_its_last_round(tmp_path: Path):
    trials = [
        trial("2A (chunks of 512)", 2.0, True), trial("2A (chunks of 512)", 4.0, False), trial("1P1D", 2.0, False),
        trial("2A (chunks of 512)", 2.8, True, 1), trial("2A (chunks of 512)", 3.4, False, 1),
    ]  # fmt: skip
    run = search(tmp_path, trials, "2A (chunks of 512)", options=asdict(EngineOptions(max_num_seqs=8)))
    run.add_window(replace(run.windows[0], side=side_of_trial("2A (chunks of 512)", 2.8)))
    found = found_split(run)
    assert found.topology == Topology("2A")
    assert found.options == EngineOptions(max_num_seqs=8, max_num_batched_tokens=512)
    assert found.capacity is not None
    assert (found.capacity.value, found.capacity.low, found.capacity.high) == (2.8, 2.8, 3.4)
    assert measured(found)
    assert found.origin == "the winner of a split search: Of 2 splits of 2 cores, 2A (chunks of 512) serves most"


def test_the_figures_of_a_winner_that_was_confirmed_are_those_of_the_confirmation(tmp_path: Path):
    run = search(tmp_path, [trial("1P1D", 2.0, True, run="gone"), trial("1P1D", 4.0, False, run="gone")], "1P1D")
    found = found_split(run)
    assert measured(found)
    assert found.capacity is not None
    assert (found.capacity.low, found.capacity.high) == (2.0, 4.0)


def test_a_winner_whose_records_are_gone_is_deployed_without_figures(tmp_path: Path):
    found = found_split(search(tmp_path, [trial("2P2D", 2.0, True, run="gone")], "2P2D"))
    assert found.figures == {}
    assert found.capacity is not None
    assert found.capacity.sure == 2.0
    assert any("records are gone" in text for text in found.warnings)


def test_a_search_without_a_winner_says_so_and_a_trial_of_it_can_be_taken(tmp_path: Path):
    run = search(tmp_path, [trial("2A", 2.0, True), trial("1P1D", 2.0, False)], None)
    with pytest.raises(StoreError, match="no winner") as raised:
        found_split(run)
    assert "--trial" in raised.value.remedy
    found = found_split(run, trial=2)
    assert found.topology == Topology("1P1D")
    assert found.origin.startswith("trial 2 of a split search: 1P1D at 2 req/s: not served")
    for number in (0, 3):
        with pytest.raises(StoreError, match=f"no trial {number}") as raised:
            found_split(run, trial=number)
        assert "1 to 2" in raised.value.remedy


def test_a_search_in_which_no_split_serves_deploys_none(tmp_path: Path):
    with pytest.raises(StoreError, match="no split of run search serves the load"):
        found_split(search(tmp_path, [trial("2A", 2.0, False)], "2A"))


def test_an_exploration_gives_the_split_in_force_with_what_its_newest_pin_measured(tmp_path: Path):
    run = saved_run(tmp_path, "tour", ("2A", "1P1D"), manifest={"kind": "explore"})
    without = found_split(run)
    assert without.topology == Topology("1P1D")
    assert without.capacity is None
    assert any("nothing is measured" in text for text in without.warnings)
    keep_pin(run, run.windows[0], "first", name="tour-pin1")
    keep_pin(run, run.windows[1], "the good one", name="tour-pin2")
    found = found_split(run)
    assert found.topology == Topology("1P1D")
    assert measured(found)
    assert "in force" in found.origin
    assert "'the good one'" in found.origin


def test_a_pin_is_taken_by_its_label_and_as_a_run_of_its_own_even_while_the_exploration_goes_on(tmp_path: Path):
    run = saved_run(tmp_path, "tour", ("2A", "1P1D"), manifest={"kind": "explore"}, finish=False)
    keep_pin(run, run.windows[0], "first\n# one", name="tour-pin1")
    with pytest.raises(StoreError, match="still goes on") as raised:
        found_split(run)
    assert "pin" in raised.value.remedy
    assert found_split(run, pin="first\n# one").topology == Topology("2A")
    assert found_split(open_run("tour-pin1", tmp_path)).topology == Topology("2A")
    with pytest.raises(StoreError, match="no pin 'second'") as raised:
        found_split(run, pin="second")
    assert "first" in raised.value.remedy


def test_an_endpoint_whose_split_was_not_declared_has_none_to_deploy(tmp_path: Path):
    run = saved_run(tmp_path, "theirs", ("attached",), manifest={"kind": "attach", "engine": "attached"})
    with pytest.raises(StoreError, match="does not say which split") as raised:
        found_split(run)
    assert "topology=" in raised.value.remedy


def test_flags_that_are_not_known_and_simulated_workers_are_told(tmp_path: Path):
    run = saved_run(tmp_path, "theirs", ("2A",), manifest={"kind": "attach", "engine": "attached"})
    assert any("flags of its workers are not known" in text for text in found_split(run).warnings)
    run = saved_run(tmp_path, "fleet", ("2A",), manifest={"engine": "mocker", "options": asdict(EngineOptions())})
    assert any("simulated" in text for text in found_split(run).warnings)


def test_a_run_that_measured_nothing_and_two_choices_at_once_are_refused(tmp_path: Path):
    with pytest.raises(StoreError, match="measured no split"):
        found_split(saved_run(tmp_path, "none", ("2A",), windows=0))
    with pytest.raises(SpecError, match="more than one of side, pin and trial"):
        found_split(saved_run(tmp_path, "one", ("2A",)), side="2A", trial=1)
