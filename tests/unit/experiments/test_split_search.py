"""Searches on stand-ins, which serve whatever they are sent; what is judged and kept is the same as on real workers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import NotSimulated, SpecError
from labkit.experiments.candidates import Candidate, candidates
from labkit.experiments.halving import Ranked
from labkit.experiments.peak import Peak
from labkit.experiments.split_search import SplitSearch, search_splits
from labkit.experiments.trials import Trial, at_rate, content_key, known_trials
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Slo, Topology, Workload
from labkit.store import open_run

WORK = Workload(isl=16, osl=4, rate=20.0, duration_s=1.0)
SECONDS = (0.5, 1.0)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.experiments.trials._WARMUP_S", 0.2)
    monkeypatch.setattr("labkit.experiments.trials._LEAST_REQUESTS", 5)


def test_all_splits_of_a_warm_pool_are_tried_and_none_restarts(open_lab, said: list[str]):
    with open_lab("2A", workload=WORK, slo=Slo(ttft_s=5.0), kind="search") as lab:
        workers = [pid for _, pid, _ in lab.deployment.watched]
        found = search_splits(lab, candidates(2), seconds=SECONDS, most_rate=40.0)
        assert [pid for _, pid, _ in lab.deployment.watched] == workers
        assert str(lab.deployment.topology) == str(found.best.topology) == "2A"
    assert [str(one) for one, _ in found.ranked.last] == ["2A", "1P1D"]
    assert [str(one) for one, _ in found.ranked.equal] == ["1P1D"]
    assert {trial.candidate for trial in found.trials if trial.rung == 1} == {"2A", "1P1D"}
    assert all(trial.served and trial.attainment == 1.0 for trial in found.trials)
    text = str(found)
    assert text.startswith("Of 2 splits of 2 cores, 2A and 1P1D serve most with 90% of the requests within TTFT ≤ 5000 ms")
    assert ", not told apart: 2A 40 req/s or more, 20 req/s a core.\n" in text
    assert "times as much" not in text
    assert "Launch it: Lab('demo', '2A', engine='fake')" in text
    run = open_run(lab.run.path)
    assert [Trial.from_dict(data) for data in run.manifest["trials"]] == list(found.trials)
    assert len(run.windows) == len(found.trials)
    assert run.manifest["answer"] == text


def test_a_search_that_was_stopped_goes_on_where_it_was(open_lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slo = Slo(ttft_s=5.0)
    with open_lab("2A", workload=WORK, slo=slo, kind="search") as lab:
        measure, count, first = lab.measure, iter(range(9)), lab.run.id

        def interrupted(*args: object, **options: object):
            if next(count) == 2:
                raise KeyboardInterrupt
            return measure(*args, **options)

        monkeypatch.setattr(lab, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search_splits(lab, candidates(2), seconds=SECONDS, most_rate=40.0)
    assert len(known_trials(tmp_path)) == 2
    with open_lab("2A", workload=WORK, slo=slo, kind="search") as lab:
        found = search_splits(lab, candidates(2), seconds=SECONDS, most_rate=40.0)
        assert [trial.run for trial in found.trials[:2]] == [first, first]
        assert len(lab.run.windows) == len(found.trials) - 2
        again = search_splits(lab, candidates(2), seconds=SECONDS, most_rate=40.0)
        assert len(lab.run.windows) == len(found.trials) - 2
        assert again.trials == found.trials
        search_splits(lab, candidates(2)[:1], seconds=SECONDS[:1], most_rate=40.0, resume=False)
        assert len(lab.run.windows) == len(found.trials)


def test_a_search_whose_trials_are_all_known_still_says_on_what(open_lab, monkeypatch: pytest.MonkeyPatch):
    slo = Slo(ttft_s=5.0)
    with open_lab("2A", workload=WORK, slo=slo, kind="search") as lab:
        search_splits(lab, candidates(2), seconds=SECONDS, most_rate=40.0)
    with open_lab("2A", workload=WORK, slo=slo, kind="search") as lab:
        unit = "simulated h100_sxm GPU"
        monkeypatch.setattr(type(lab.deployment), "accelerator", property(lambda _: unit))
        found = search_splits(lab, candidates(2), seconds=SECONDS, most_rate=40.0)
        assert not lab.run.windows
    assert found.accelerator == unit
    assert str(found).startswith("Simulated, not measured: Of 2 splits of 2 simulated h100_sxm GPUs")


def test_where_no_split_serves_it_says_so_and_the_lab_stays(open_lab):
    with open_lab("2A", workload=WORK, slo=Slo(ttft_s=1e-6), kind="search") as lab:
        found = search_splits(lab, candidates(2), seconds=(0.3,))
        assert str(lab.deployment.topology) == "1P1D"
    assert found.ranked.best[1].served is None
    assert str(found).startswith("None of 2 splits of 2 cores serves 2.5 req/s")
    assert "relax the SLO" in str(found)


def test_what_cannot_be_searched_is_refused_before_anything_is_sent(open_lab):
    with open_lab("2A", workload=WORK, slo=Slo(tpot_s=None)) as lab:
        with pytest.raises(SpecError, match="needs an SLO"):
            search_splits(lab, candidates(2))
        lab.slo = Slo()
        with pytest.raises(SpecError, match="not equal hardware"):
            search_splits(lab, [*candidates(2), *candidates(3)])
        for work in (replace(WORK, rate=None, concurrency=2), replace(WORK, rate=None, arrivals="ramp:1-5")):
            with pytest.raises(SpecError, match="no rate to search over"):
                search_splits(lab, candidates(2), workload=work)
        assert not lab.run.windows


def test_a_trial_lasts_until_its_share_means_something():
    assert at_rate(WORK, 50.0, 8.0, 0).duration_s == 8.0
    assert at_rate(WORK, 0.5, 8.0, 1).duration_s == 10.0
    assert at_rate(WORK, 0.1, 8.0, 0).duration_s == 32.0
    assert at_rate(WORK, 1.0, 8.0, 2).seed == WORK.seed + 2


def test_a_key_changes_with_all_that_the_outcome_depends_on():
    manifest = {"model": {"name": "demo"}, "engine": "vllm", "engines": {"vllm": "1"}, "hardware": {"summary": "x"}, "id": "a"}
    one = Candidate(Topology("2A"))
    given = [manifest, one, EngineOptions(), WORK, Slo(), 0.9]
    key = content_key(*given)
    assert content_key({**manifest, "id": "b"}, *given[1:]) == key
    others = [
        [{**manifest, "engines": {"vllm": "2"}}, *given[1:]],
        [manifest, Candidate(Topology("1P1D")), *given[2:]],
        [*given[:2], EngineOptions(max_num_seqs=4), *given[3:]],
        [*given[:3], WORK.with_seed(1), *given[4:]],
        [*given[:4], Slo(ttft_s=1.0), 0.9],
        [*given[:5], 0.95],
        [{**manifest, "engine": "dynamo"}, *given[1:]],
        [{**manifest, "simulated": {"profiles": [{"sha256": "a"}], "windows": {}}}, *given[1:]],
        [{**manifest, "simulated": {"profiles": [{"sha256": "b"}], "windows": {}}}, *given[1:]],
    ]
    assert len({key, *(content_key(*other) for other in others)}) == 10
    assert content_key(*given[:2], EngineOptions(timing="elsewhere"), *given[3:]) == key


def test_a_key_changes_with_what_is_in_the_files(tmp_path: Path):
    trace, lengths, folder = tmp_path / "t.jsonl", tmp_path / "l.txt", tmp_path / "model"
    folder.mkdir()
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (trace, lengths, config, weights):
        file.write_text("1")
    manifest = {"model": {"source": str(folder), "name": "model"}}
    work = Workload(trace=trace, rate=1.0, requests=2, osl=f"file:{lengths}")

    def key() -> str:
        return content_key(manifest, Candidate(Topology("2A")), EngineOptions(), work, Slo(), 0.9)

    first = key()
    assert key() == first
    found = {first}
    for file in (trace, lengths, config, weights):
        file.write_text("23")
        found.add(key())
    os.utime(weights, ns=(1, 1))
    found.add(key())
    (folder / "more.safetensors").write_text("1")
    found.add(key())
    trace.unlink()  # whoever reads it says so
    found.add(key())
    assert len(found) == 8


def test_a_key_on_a_cluster_is_the_same_at_the_next_launch():
    def key(**changed: object) -> str:
        node = {"name": "a", "cores": [0], "clock_offset_ns": 5, "clock_bound_ns": 7, "boot_id": "x", "processes": "y"}
        manifest = {"model": {"name": "demo"}, "hardware": {"summary": "x", "nodes": [{**node, **changed}]}}
        return content_key(manifest, Candidate(Topology("2A")), EngineOptions(), WORK, Slo(), 0.9)

    assert key(clock_offset_ns=-3, clock_bound_ns=9, boot_id="z", processes="z") == key()
    assert key(cores=[0, 1]) != key()


def test_the_answer_gives_the_gain_over_the_other_kind_and_the_launch_with_its_options():
    best, other = Candidate(Topology("1P3D")), Candidate(Topology("4A"), 512)
    ranked = Ranked(((best, Peak(4.0, 4.4)), (other, Peak(2.0, 2.5))), ((Candidate(Topology("4A")), Peak(1.0, 1.5)),))
    found = SplitSearch(ranked, (), Slo(ttft_s=1.0), 0.9, 4, "GPU", "m", EngineOptions(max_num_seqs=64))
    lines = str(found).splitlines()
    assert lines[0].endswith(
        "1P3D serves most with 90% of the requests within TTFT ≤ 1000 ms, TPOT ≤ 50 ms: 4 req/s (not 4.4), 1 req/s a GPU."
    )
    assert (
        lines[1]
        == "The best aggregated split, 4A (chunks of 512), serves 2 req/s (not 2.5): 1P3D serves 1.60 to 2.20 times as much."
    )
    assert lines[-1] == "Launch it: Lab('m', '1P3D', options=EngineOptions(max_num_seqs=64))"
    assert (
        "max_num_batched_tokens=512"
        in SplitSearch(Ranked(ranked.last[1:]), (), Slo(), 0.9, 4, "GPU", "m", EngineOptions()).launch
    )


def test_the_other_kind_has_its_best_also_where_that_was_dropped():
    best, last, dropped = Candidate(Topology("1P1D")), Candidate(Topology("2A")), Candidate(Topology("2A"), 512)
    ranked = Ranked(((best, Peak(4.0, 4.4)), (last, Peak(2.0, 2.2))), ((dropped, Peak(3.0, 3.6)),))
    found = SplitSearch(ranked, (), Slo(), 0.9, 2, "core", "m", EngineOptions())
    assert found.best_of(disaggregated=False) == (dropped, Peak(3.0, 3.6))
    assert "1P1D serves 1.11 to 1.47 times as much" in str(found)


def test_a_damaged_run_is_measured_again(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    assert known_trials(tmp_path) == {}


def test_a_simulated_answer_says_so_with_what_was_not_simulated_and_where_its_times_are():
    ranked = Ranked(((Candidate(Topology("1P1D")), Peak(4.0, 4.4)), (Candidate(Topology("2A")), Peak(2.0, 2.2))))
    options, refused = EngineOptions(timing="gone"), ("2A at 9 req/s (too much)",)
    found = SplitSearch(ranked, (), Slo(), 0.9, 2, "simulated h100_sxm GPU", "m", options, "mocker", "results/r1/timing", refused)
    assert str(found).startswith("Simulated, not measured: Of 2 splits of 2 simulated h100_sxm GPUs")
    assert "! not simulated, and counts as not served: 2A at 9 req/s (too much)" in str(found)
    assert found.launch == "Lab('m', '1P1D', engine='mocker', options=EngineOptions(timing='results/r1/timing'))"


def test_a_load_that_cannot_be_simulated_counts_as_not_served_and_ends_no_search(open_lab, monkeypatch):
    with open_lab("2A", workload=WORK, slo=Slo(ttft_s=30.0), kind="search") as lab:
        real = lab.measure

        def measure(load, **given):
            if load.rate > 12:
                raise NotSimulated(f"{load.rate:g} req/s are too many", remedy="ask for less")
            return real(load, **given)

        monkeypatch.setattr(lab, "measure", measure)
        found = search_splits(lab, candidates(2)[:1], seconds=SECONDS[:1], resume=False)
    assert found.ranked.best[1].served is not None
    assert found.ranked.best[1].served <= 12
    assert "(20 req/s are too many)" in found.refused[0]
