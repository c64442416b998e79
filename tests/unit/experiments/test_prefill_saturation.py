"""From steps to knees, in words and as engine flags; on stand-ins where a lab is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import labkit.experiments.prefill_saturation as module
from labkit.errors import SpecError
from labkit.experiments.knee_text import knee_lines, sentence
from labkit.experiments.prefill_limits import (
    AFTER,
    BEFORE,
    flags,
    prefill_limits,
    set_prefill_limits,
    try_prefill_limits,
    with_prefill_limits,
)
from labkit.experiments.prefill_saturation import batches_of, plan_sweep, sweep_prefill, wide_options
from labkit.experiments.prefill_study import PrefillStudy
from labkit.experiments.roofline import RooflineFound
from labkit.lab.lab import Lab
from labkit.lab.presets import suggest_sweep
from labkit.measure.digest import Digest
from labkit.measure.steps import PrefillStep
from labkit.serve.engines.base import EngineOptions, StepLimits
from labkit.spec import Workload
from tests.support.fake_engine import fake_node
from tests.support.prefill import PEAKS, steps_of, swept

OpenLab = Callable[..., Lab]


def test_a_sweep_takes_the_batches_that_fit():
    assert plan_sweep([128, 32, 32], [4, 2, 1, 8], 512) == {32: (1, 2, 4, 8), 128: (1, 2, 4)}
    with pytest.raises(SpecError, match="too few to tell"):
        plan_sweep([32, 256], [1, 2, 4], 512)
    with pytest.raises(SpecError, match="no sweep"):
        plan_sweep([0], [1, 2, 4], 512)


def test_options_are_wide_enough_for_the_largest_step_and_keep_the_rest():
    options = wide_options([32, 512], batches=(1, 2, 4), most_tokens=2048, options=EngineOptions(kv_cache_bytes=2**30))
    assert (options.max_num_batched_tokens, options.max_num_seqs, options.kv_cache_bytes) == (2048, 5, 2**30)
    assert wide_options([1], batches=(1, 2, 3), most_tokens=3).max_num_batched_tokens == 4  # no fewer tokens than requests


def test_only_whole_steps_of_the_asked_size_count():
    short = [step for step in steps_of(4, 32) if step.prompts == 4]
    cut = replace(short[0], whole=False)
    steps: dict[int, list[PrefillStep]] = {0: steps_of(2, 32), 1: [*steps_of(4, 32), cut], 2: steps_of(7, 32), 3: []}
    measured = [(32, 2, 0), (32, 4, 1), (32, 8, 2), (32, 16, 3), (64, 1, 0)]
    batches, others, missed = batches_of(steps, measured, 32)
    assert [(batch.tokens, batch.prompts, len(batch.step_s[0])) for batch in batches] == [(64, 2, 3), (128, 4, 3)]
    assert others == 1 + 3
    assert missed == [
        "8 × 32 left out: a repeat saw steps of 1, 7 prompts only",
        "16 × 32 left out: a repeat saw steps of no prompts only",
    ]


def test_a_knee_in_words():
    found = swept()
    assert sentence(found.knee(16)).startswith("saturated at ")
    assert "that is 3 prompts: within 5% of a plateau of 1,6" in sentence(found.knee(16))
    assert "saturated from the first batch on: one step of 128 tokens" in sentence(found.knee(128))
    lines = knee_lines(16, found.knee(16))
    assert [line for line in lines if line.endswith("◂")] == [lines[4]]
    assert "not saturated by 2 prompts (32 tokens) a step" in sentence(
        replace(found.knee(16), points=found.knee(16).points[:2], tokens=None)
    )
    assert "no plateau: throughput falls off after 48 tokens a step before one shows" in sentence(
        replace(found.knee(16), tokens=None, falls_from=48)
    )
    assert "beyond 48 tokens throughput falls off again" in sentence(replace(found.knee(16), falls_from=48))
    assert "> 256]" in sentence(replace(found.knee(16), tokens=replace(found.knee(16).tokens, high=np.inf)))  # type: ignore[type-var]
    assert "ISL 128" in str(found)
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_longest_length_with_a_knee_is_set_by_default():
    found = swept()
    assert found.knee().isl == 128
    assert prefill_limits(found) == StepLimits(max_num_batched_tokens=128, max_num_seqs=1)
    assert prefill_limits(found, 16) == StepLimits(max_num_batched_tokens=48, max_num_seqs=3)
    none = replace(found, knees={16: replace(found.knee(16), prompts=None, tokens=None)})
    with pytest.raises(SpecError, match="saturate nothing in the range"):
        prefill_limits(none, 16)
    with pytest.raises(SpecError, match="no prompt length saturates"):
        prefill_limits(none)
    with pytest.raises(SpecError, match="no knee for prompts of 7 tokens: it was not swept"):
        found.knee(7)


def test_limits_go_to_prefill_workers_or_else_leave_the_decode_batch_alone():
    limits = StepLimits(max_num_batched_tokens=48, max_num_seqs=3)
    split = with_prefill_limits(EngineOptions(max_num_seqs=64), limits, disaggregated=True)
    assert (split.prefill, split.max_num_seqs, split.max_num_batched_tokens) == (limits, 64, None)
    whole = with_prefill_limits(EngineOptions(), limits, disaggregated=False)
    assert (whole.prefill, whole.max_num_batched_tokens, whole.max_num_seqs) == (None, 48, 48)
    large = StepLimits(max_num_batched_tokens=4096, max_num_seqs=2)
    assert with_prefill_limits(EngineOptions(), large, disaggregated=False).max_num_seqs is None
    assert with_prefill_limits(EngineOptions(max_num_seqs=9), large, disaggregated=False).max_num_seqs == 9


def test_flags_say_what_is_left_to_the_engine():
    assert flags(StepLimits(max_num_batched_tokens=48, max_num_seqs=3)) == "--max-num-batched-tokens 48 --max-num-seqs 3"
    large = with_prefill_limits(EngineOptions(), StepLimits(max_num_batched_tokens=4096, max_num_seqs=2), disaggregated=False)
    assert flags(large) == "--max-num-batched-tokens 4096 and the engine's own limit on requests"


def test_flags_that_were_tried_where_they_are_advised_are_told_once(open_lab: OpenLab):
    load = Workload(isl=16, osl=2, rate=40, duration_s=0.3, arrivals="constant")
    with open_lab("1P1D", node=fake_node(2)) as lab:
        tried = try_prefill_limits(lab, swept(), isl=16, workload=load, repeats=1)
    assert tried.measured_with == "--max-num-batched-tokens 48 --max-num-seqs 3 on the prefill workers"
    advice = PrefillStudy(swept(), None, tried, isl=16).advice
    assert "Start dedicated prefill workers with --max-num-batched-tokens 48 --max-num-seqs 3 (knee of ISL 16)" in advice
    assert "Tried here was" not in advice


def test_the_knee_is_set_on_the_prefill_worker_alone(open_lab: OpenLab):
    with open_lab("1P1D", node=fake_node(2)) as lab:
        done = set_prefill_limits(lab, swept(), isl=16)
        assert [place.name for place in done.plan.starts] == ["w0"]
        assert [(w.name, w.options.max_num_batched_tokens, w.options.max_num_seqs) for w in lab.deployment.workers] == [  # type: ignore[union-attr]
            ("w0", 48, 3), ("w1", None, None),
        ]  # fmt: skip
        assert lab.deployment.verified


def test_ttft_is_measured_in_turn_and_the_limits_stay(open_lab: OpenLab):
    load = Workload(isl=16, osl=2, rate=40, duration_s=0.5, arrivals="constant")
    with open_lab("1A", options=EngineOptions(max_num_seqs=7, kv_cache_bytes=2**30)) as lab:
        tried = try_prefill_limits(lab, swept(), isl=16, workload=load, repeats=2)
        assert tried.before == EngineOptions(kv_cache_bytes=2**30)
        assert [(window.side, window.repeat) for window in lab.run.windows] == [(BEFORE, 0), (AFTER, 0), (BEFORE, 1), (AFTER, 1)]
        assert lab.deployment.options == tried.after  # type: ignore[union-attr]
        assert tried.after == EngineOptions(kv_cache_bytes=2**30, max_num_batched_tokens=48, max_num_seqs=48)
        assert len(tried.restarts_s) == 4
        assert "TTFT p50" in tried.verdict
        assert "max_num_batched_tokens 48" in str(tried)
        assert tried.measured_with == "--max-num-batched-tokens 48 --max-num-seqs 48 on every worker"
        assert "with --max-num-batched-tokens 48 --max-num-seqs 48 on every worker (" in tried.verdict
        study = PrefillStudy(swept(), None, tried, isl=16)
        advice, measured = study.advice.split(" Tried here was an aggregated worker with ")
        assert "Start dedicated prefill workers with --max-num-batched-tokens 48 --max-num-seqs 3 (knee of ISL 16)" in advice
        assert measured.startswith("--max-num-batched-tokens 48 --max-num-seqs 48: it decodes too")
        assert lab.run.manifest["prefill_limits"]["verdict"] == tried.verdict
        with pytest.raises(SpecError, match="closed loop cannot show"):
            try_prefill_limits(lab, swept(), workload=Workload(concurrency=4, requests=8))


def test_a_sweep_of_a_lab_measures_every_batch_in_every_repeat(
    open_lab: OpenLab, said: list[str], monkeypatch: pytest.MonkeyPatch
):
    def seen(records: Digest) -> dict[int, list[PrefillStep]]:
        sizes = [tuple(int(part) for part in window.side.removeprefix("ISL ").split(" × ")) for window in records.windows]
        return {
            window.measurement: steps_of(prompts, isl, seed=window.repeat)
            for window, (isl, prompts) in zip(records.windows, sizes, strict=True)
        }

    monkeypatch.setattr(module, "prefill_steps", seen)
    with open_lab("1A") as lab:
        found = sweep_prefill(lab, [16], batches=(1, 2, 3, 4, 6, 8), most_tokens=128, steps=1, repeats=2)
        assert [window.side for window in lab.run.windows] == [f"ISL 16 × {n}" for n in (1, 2, 3, 4, 6, 8)] * 2
        seeds = [window.workload["seed"] for window in lab.run.windows]
        assert len(set(seeds)) == 12
        assert {(w.workload["concurrency"], w.workload["osl"]) for w in lab.run.windows} == {
            (n + 1, "1") for n in (1, 2, 3, 4, 6, 8)
        }
        assert lab.deployment.options.max_num_batched_tokens == 128  # type: ignore[union-attr]
        assert found.knee().prompts == 3
        assert lab.run.manifest["prefill_saturation"]["knees"]["16"]["prompts"] == 3
    assert "repeat 2 of 2: 6 batches" in said
    assert any(line.startswith("the sweep needs max_num_batched_tokens 128, max_num_seqs 9") for line in said)


def test_without_spans_no_knee_is_made_up(open_lab: OpenLab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SPANS_S", 0.1)
    with open_lab("1A") as lab:
        found = sweep_prefill(lab, [16], batches=(1, 2, 3), most_tokens=64, steps=1, repeats=1)
    assert found.knees == {}
    assert "show no plateau" in found.lacking[16]
    assert found.left_out[0] == "1 × 16 left out: a repeat saw steps of no prompts only"
    assert found.left_out[0] in str(found)


def test_several_workers_are_no_one_worker(open_lab: OpenLab):
    with open_lab("2A") as lab, pytest.raises(SpecError, match="no single worker to sweep"):
        sweep_prefill(lab, [16])


def test_advice_names_the_flags_and_the_conditions():
    roofline = RooflineFound("demo", PEAKS, 1, (), False)
    study = PrefillStudy(swept(), roofline, None, "tries = 0", dummy=True)
    assert "--max-num-batched-tokens 128 --max-num-seqs 1 (knee of ISL 128)" in study.advice
    assert "One prompt a step saturates the worker already" in study.advice
    assert "Not tried: tries = 0." in study.advice
    assert "demo on core 0 (dummy weights" in study.advice
    disturbed = PrefillStudy(swept(warnings=("other processes used a core",)), roofline, None)
    assert "repeat it when it is quiet: other processes used a core." in disturbed.advice
    nothing = PrefillStudy(replace(swept(), knees={}), roofline, None, "no knee")
    assert nothing.advice.startswith("Set nothing yet: no prompt length saturates")
    assert max(map(len, str(study).splitlines())) <= 100


def test_advice_is_kept_when_the_lab_is_closed(open_lab: OpenLab):
    study = PrefillStudy(swept(), RooflineFound("demo", PEAKS, 1, (), False), None, "tries = 0")
    with open_lab("1A") as lab:
        pass
    assert study.keep(lab.run) is study
    assert (lab.run.summary() or {})["verdict"] == study.advice


def test_a_sweep_is_suggested_for_the_node():
    sweep = suggest_sweep(node=fake_node(2))
    assert (sweep.model.name, sweep.isls, sweep.most_tokens) == ("demo", (32, 128, 512), 2048)
    assert suggest_sweep(fake_node(2)).vary(isls=[64], most_tokens=512).workload.longest == 320
