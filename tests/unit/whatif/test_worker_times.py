"""Simulated workers for a first experiment: where their times come from, what is suggested, and how slowly it runs here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import LabError, LoadError, ProjectionError, SpecError, StoreError
from labkit.lab.presets import Preset, Suggest, suggest, suggest_interference, suggest_scaling, suggest_search, suggest_sweep
from labkit.serve.timing import load_timing, save_timing
from labkit.spec import Slo
from labkit.store.run import create_run
from labkit.whatif import timing_sources, worker_times
from labkit.whatif.timing_runs import TimingFit
from labkit.whatif.timing_sources import Calibrated, Estimated, timing_source
from labkit.whatif.worker_times import WorkerTimes
from tests.support.fake_engine import fake_node
from tests.support.profiles import handmade_profile
from tests.support.projected import Law

EVERY = (suggest, suggest_sweep, suggest_search, suggest_interference, suggest_scaling)


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def estimated(cores: int = 2) -> WorkerTimes:
    return worker_times("h100_sxm", node=fake_node(cores), estimator=Law())


@pytest.mark.parametrize("suggested", EVERY)
def test_every_experiment_can_be_simulated_and_says_so(suggested: Suggest[Preset]) -> None:
    times = estimated()
    assert times.node.accelerators == 4, "as many as two cores follow"
    preset = times.carried(times.suggest(suggested))
    assert (preset.engine, preset.model.source) == ("mocker", "llama-3.1-8b")
    said = str(preset)
    assert said.startswith("Simulated, not measured: llama-3.1-8b")
    assert "projected by a law" in " ".join(said.split())
    assert "its error is unknown" in " ".join(said.split())
    assert preset.options.timing is not None
    assert set(load_timing(preset.options.timing)) == {tp for split in preset.splits for _, tp in split.workers}


@pytest.mark.parametrize("suggested", EVERY)
def test_real_workers_are_left_alone(suggested: Suggest[Preset]) -> None:
    times = worker_times(None, "dynamo", node=fake_node(2))
    preset = times.suggest(suggested)
    assert times.carried(preset) is preset
    assert (preset.engine, preset.model.source, preset.options.timing) == ("dynamo", "demo", None)
    assert preset.limits(Slo()) == Slo()


def test_what_this_machine_cannot_carry_runs_in_slow_motion_with_all_that_belongs_to_it() -> None:
    times = estimated()
    asked = times.suggest(suggest).vary(rate=100.0, osl=100, isl=100, duration_s=10.0)
    slow = times.carried(asked)
    assert slow.stretch == 1.75, "10,000 tokens/s, and 6,000 leave room"
    assert (slow.workload.rate, slow.workload.duration_s) == (pytest.approx(100 / 1.75), 17.5)
    assert slow.limits(Slo(tpot_s=0.02)).tpot_s == pytest.approx(0.035)
    assert slow.options.timing is not None
    assert load_timing(slow.options.timing)[1].stretch == 1.75
    assert "divide times by 1.75, and multiply rates by it" in " ".join(str(slow).split())
    stepped = times.carried(times.suggest(suggest_scaling).vary(isl=100, osl=100, step_rates=[10, 120]))
    assert stepped.stretch == 2.0
    assert (stepped.step_rates, stepped.step_at_s, stepped.slo.tpot_s) == ((5.0, 60.0), (30.0, 90.0, 140.0), 0.1)
    with pytest.raises(LoadError, match="50,000 tokens/s are too many to simulate on 2 cores") as refused:
        times.carried(asked.vary(rate=1000.0))
    assert "94% of the load" in refused.value.remedy


def test_a_search_is_slowed_by_the_most_that_its_splits_can_take() -> None:
    times = estimated(cores=1)
    found = times.carried(times.suggest(suggest_search))
    assert found.stretch > 1
    assert found.seconds == (20.0 * found.stretch, 40.0 * found.stretch)
    assert found.slo.ttft_s == found.stretch


def test_a_folder_gives_its_model_its_gpu_and_no_longer_prompts_than_it_reaches(tmp_path: Path) -> None:
    short = handmade_profile(prefill_tokens=handmade_profile().prefill_tokens / 16, model="qwen3-0.6b", gpu="l4")
    times = worker_times(save_timing([short], tmp_path / "saved"), "mocker", node=fake_node(2))
    preset = times.suggest(suggest)
    assert (preset.model.source, str(preset.workload.isl), times.node.simulated) == ("qwen3-0.6b", "512", "l4")
    assert "made by hand" in str(times.carried(preset))
    with pytest.raises(SpecError, match=r"no timing profile of TP 2 \(it has TP 1\)"):
        times.carried(preset.vary(side_a="2A@tp2"))
    with pytest.raises(SpecError, match=r"the times are those of qwen3-0\.6b, and llama-3.1-8b is to be served"):
        times.carried(preset.vary(model="llama-3.1-8b"))
    with pytest.raises(LoadError, match="a prefill of 2,000 tokens"):
        times.carried(preset.vary(isl=2000))


def test_measured_runs_give_model_lengths_and_the_held_out_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = {"hardware": {"gpus": [], "memory_bytes": 2**34}, "model": {"source": "demo", "name": "demo"}}
    windows = [{"workload": {"isl": "uniform:32-512", "osl": 16}}]
    for name in ("a", "b"):
        create_run(tmp_path / "results", name, {"kind": "lab", **core}).close()
    asked: list[Any] = []

    def fitted(runs: Any, tp: int) -> TimingFit:
        asked.append(([run.id for run in runs], tp))
        profile = handmade_profile(model="demo", gpu="CPU core", tp=tp, error="error on held-out runs: ITL 4% mean, 6% worst")
        return TimingFit(profile, {}, ("a",), ("b: neither prefills nor decodes",))

    monkeypatch.setattr(timing_sources, "timing_from_runs", fitted)
    times = worker_times(["a", "b"], results=tmp_path / "results", node=fake_node(2))
    assert isinstance(times.source, Calibrated)
    monkeypatch.setattr(Calibrated, "lengths", lambda self, suggested: windows[0]["workload"])
    preset = times.suggest(suggest)
    assert (preset.model.source, str(preset.workload.isl), preset.workload.rate) == ("demo", "uniform:32-512", 1.5)
    assert str(preset.side_a) == "2A", "what is suggested for cores"
    said = " ".join(str(times.carried(preset)).split())
    assert "error on held-out runs: ITL 4% mean, 6% worst" in said
    assert "left out of the calibration: b: neither" in said
    assert asked == [(["a", "b"], 1)]


def test_what_a_name_means(tmp_path: Path) -> None:
    create_run(tmp_path, "h100_sxm", {"kind": "lab"}).close()
    create_run(tmp_path, "mine", {"kind": "lab"}).close()
    create_run(tmp_path, "other", {"kind": "lab"}).close()
    assert timing_source("h100_sxm", tmp_path) == Estimated("h100_sxm"), "a run of that name is meant by its path"
    assert [run.id for run in _runs(timing_source(str(tmp_path / "h100_sxm"), tmp_path))] == ["h100_sxm"]
    assert [run.id for run in _runs(timing_source("mine, other", tmp_path))] == ["mine", "other"]
    assert timing_source("tpu_v9", tmp_path) == Estimated("tpu_v9"), "AIConfigurator may know it"
    with pytest.raises(StoreError, match="there is no run 'nobody'"):
        timing_source(["mine", "nobody"], tmp_path)


@pytest.mark.parametrize(
    ("timing", "engine", "said", "remedy"),
    [
        (None, "mocker", "'mocker' needs timing", "h100_sxm"),
        ("h100_sxm", "vllm", "those of engine 'vllm' are real", "leave timing out"),
        ("h100_sxm", "trt", "unknown engine 'trt'", "vllm"),
        ("", None, "timing = '' names nothing", "folder of saved profiles"),
        ("./nowhere", None, "./nowhere is neither a run nor a folder", "name of a measured run"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_three_ways(timing: str | None, engine: str, said: str, remedy: str) -> None:
    with pytest.raises(LabError, match=said) as refused:
        worker_times(timing, engine, node=fake_node(2))
    assert remedy in refused.value.remedy


def test_a_gpu_that_nobody_has_times_of_is_told_with_what_else_it_could_have_meant() -> None:
    times = worker_times("h77", node=fake_node(2), estimator=Law())
    with pytest.raises(ProjectionError, match=r"timing = 'h77' is no run and no folder of profiles, and as a GPU: .* no timings"):
        times.carried(times.suggest(suggest))


def test_simulated_and_real_workers_do_not_meet_in_a_comparison() -> None:
    times = estimated()
    with pytest.raises(SpecError, match="engine 'dynamo' has real ones"):
        times.carried(times.suggest(suggest).vary(engine_b="dynamo"))
    assert times.carried(replace(times.suggest(suggest), engine_b="mocker")).engines == ["mocker", "mocker"]


def _runs(source: Any) -> Any:
    assert isinstance(source, Calibrated)
    return source.runs
