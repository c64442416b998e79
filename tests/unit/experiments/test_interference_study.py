"""The study on stand-ins: what is measured in which order, what restarts, and what the text says of known worlds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from labkit.errors import ComparisonError, SpecError
from labkit.experiments import interference_study as module
from labkit.experiments.chunking import Chunking
from labkit.experiments.interference_sides import TOLD, Ratio, SideFound
from labkit.experiments.interference_study import InterferenceStudy, study_interference
from labkit.lab.presets import suggest_interference
from labkit.measure.overlap import overlaps
from labkit.measure.statistics import Interval
from labkit.serve.engines.base import EngineOptions, StepLimits
from labkit.spec import Slo, Workload
from labkit.store import open_run
from tests.support import synthetic
from tests.support.fake_engine import fake_node
from tests.support.open_lab import OpenLab
from tests.support.worlds import engine, heavy

WORK = Workload(isl="uniform:8-24", osl=4, rate=40, duration_s=0.5, arrivals="constant")
ISLS = (64, 512, 200, 900, 330, 128, 700, 420)


def test_splits_are_measured_in_turn_and_the_other_setting_restarts_the_workers_once(
    open_lab: OpenLab, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SPANS_S", 0.1)
    first = Chunking(16).options(EngineOptions())
    started: list[str] = []
    with open_lab("2A", workload=WORK, slo=Slo(tpot_s=0.05), options=first, kind="interference") as lab:
        change = lab.change

        def noted(*args: object, **options: object):
            done = change(*args, **options)  # type: ignore[arg-type]
            started.extend(place.name for place in done.plan.starts)
            return done

        monkeypatch.setattr(lab, "change", noted)
        study = study_interference(lab, chunk=16, repeats=2)
        assert [(w.side, w.repeat) for w in lab.run.windows] == [
            (f"{split} ({setting})", repeat)
            for setting in ("chunks of 16", "whole prompts")
            for repeat in (0, 1)
            for split in ("2A", "1P1D")
        ]
        assert started == ["w0", "w1"]
        assert [w.workload["seed"] for w in lab.run.windows] == [0, 0, 1, 1] * 2
    assert [one.side for one in study.sides] == [
        "2A (chunks of 16)", "1P1D (chunks of 16)", "2A (whole prompts)", "1P1D (whole prompts)",
    ]  # fmt: skip
    assert [(ratio.above, ratio.below) for ratio in study.ratios] == [
        ("1P1D (chunks of 16)", "2A (chunks of 16)"),
        ("1P1D (whole prompts)", "2A (whole prompts)"),
        ("2A (chunks of 16)", "2A (whole prompts)"),
        ("1P1D (chunks of 16)", "1P1D (whole prompts)"),
    ]
    study.keep(lab.run)
    run = open_run(lab.run.path)
    kept = run.manifest["interference"]
    assert [side["chunking"]["tokens"] for side in kept["sides"]] == [16, 16, None, None]
    assert json.loads(json.dumps(kept))["verdict"] == study.verdict == (run.summary() or {})["verdict"]
    assert "undefined on the same worker: dedicated decode workers never prefill" in study.verdict
    assert "no request spans" in study.verdict, "stand-ins send none, and nothing is made up"
    assert any("1P1D (whole prompts)" in line for line in said)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"chunk": 64}, SpecError, "chunks of 64 tokens cut no prompt of up to 24 tokens"),
        ({"chunk": None, "whole": False}, SpecError, "nothing to measure"),
        ({"topologies": ("2A", "1P2D"), "chunk": 8}, ComparisonError, "1P2D holds 3"),
        ({"repeats": 0}, SpecError, "0 repeats"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_is_sent(
    open_lab: OpenLab, arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    with open_lab("2A", workload=WORK) as lab:
        with pytest.raises(error, match=words):
            study_interference(lab, **{"chunk": 16, **arguments})  # type: ignore[arg-type]
        assert not lab.run.windows


def found(side: str, topology: str, chunking: Chunking, scopes, **told: float | None) -> SideFound:
    latencies = {key: told.get(key) for key in reversed(TOLD)}
    return SideFound(side, topology, chunking, scopes, latencies, 375.0, 90, 0)


@pytest.fixture(scope="module")
def study() -> InterferenceStudy:
    """An aggregated worker where a token of a prompt costs 0.6 ms, in chunks and whole; one where it costs nothing; 1P1D."""
    whole, chunks = Chunking(None), Chunking(128)
    worlds = {
        "1A (whole prompts)": engine(1, 0.0, isls=ISLS, per_token_s=6e-4),
        "1A (chunks of 128)": engine(2, 0.0, isls=ISLS, per_token_s=6e-4, chunk=100, rate=1.0),
        "1A (nothing)": engine(2, 0.0, isls=ISLS, noise=heavy),
    }
    scopes = overlaps({side: world.measured for side, world in worlds.items()})
    records, _ = synthetic.run(("1P1D",), duration_s=60)
    scopes |= overlaps({"1P1D (whole prompts)": [(records, records.windows[0])]})
    sides = (
        *(
            found(side, "1A", chunks if "chunks" in side else whole, scopes[side], itl_p99_s=0.3, ttft_p50_s=0.4)
            for side in worlds
        ),
        found("1P1D (whole prompts)", "1P1D", whole, scopes["1P1D (whole prompts)"], itl_p99_s=0.03, ttft_p50_s=0.5),
    )
    ratios = (
        Ratio(
            "1P1D (whole prompts)", "2A (whole prompts)",
            {"itl_p99_s": Interval(0.09, 0.1, 0.12), "ttft_p50_s": Interval(0.9, 1.1, 1.3)},
        ),
        Ratio("a", "b", {"itl_p99_s": None, "ttft_p50_s": Interval(1.2, 1.3, 1.4)}),
    )  # fmt: skip
    return InterferenceStudy(sides, ratios, 2, "1.5 req/s; equal hardware (2 cores each)", ("1A: other processes used a core",))


def line_of(study: InterferenceStudy, begin: str) -> str:
    (line,) = [line for line in study.verdict.splitlines() if line.startswith(begin)]
    return line


def test_a_known_effect_is_said_with_its_price_and_what_it_does_to_the_median_prompt(study: InterferenceStudy) -> None:
    line = line_of(study, "1A (whole prompts)")
    assert "a prefill on the same worker: a token's gap is +" in line
    assert "% [" in line
    assert "It grows by 601 ms per 1,000 prefill tokens [600, 602]. In all, a stream's tokens come later by 601 ms" in line
    assert "A prompt of 375 tokens, the median here, adds 225 ms [" in line
    assert line.endswith("] to each gap that waits for it.")
    cut = line_of(study, "1A (chunks of 128)")
    assert "It does not grow in proportion to the tokens: the median gap is " in cut
    assert "In all, a stream's tokens come later by " in cut
    assert "A prompt of" not in cut, "no line, no reading off it"
    (row,) = [line for line in str(study).splitlines() if line.startswith("  1A (chunks of 128) ") and "same worker" in line]
    assert "no line" in row


def test_no_effect_is_a_result_and_undefined_is_not_zero(study: InterferenceStudy) -> None:
    nothing = line_of(study, "1A (nothing)")
    assert "no difference shown, " in nothing
    assert "per 1,000 prefill tokens" not in nothing
    assert "A prompt of" not in nothing
    split = line_of(study, "1P1D (whole prompts): ")
    assert "undefined on the same worker: dedicated decode workers never prefill." in split
    assert "Prefills anywhere in the deployment: no difference shown, " in split


def test_ratios_say_what_they_show_and_the_conditions_what_they_rest_on(study: InterferenceStudy) -> None:
    assert line_of(study, "1P1D (whole prompts) against") == (
        "1P1D (whole prompts) against 2A (whole prompts): p99 ITL × 0.1 [0.09, 0.12], "
        "no difference of p50 TTFT shown (× 1.1 [0.9, 1.3])."
    )
    assert line_of(study, "a against b") == "a against b: p99 ITL unknown (too few values), p50 TTFT × 1.3 [1.2, 1.4]."
    assert "one after the other" in study.verdict
    assert "360 requests, 0 failed, 2 repeats a side" in study.verdict
    *_, warning, last = study.verdict.splitlines()
    assert warning == "! 1A: other processes used a core"
    assert last.startswith("What to do: 1A (whole prompts): prefills interfere")
    assert "1A (nothing): nothing" in last or "1A (nothing): no advice" in last
    alone = replace(study, sides=study.sides[:1], repeats=1)
    assert "one after the other" not in alone.verdict
    assert "one repeat knows nothing" in alone.verdict
    text = str(study)
    assert max(map(len, text.splitlines())) <= 100
    assert "a stream later by" in text
    (row,) = [line for line in text.splitlines() if line.startswith("  1P1D (whole prompts)  ") and "anywhere" not in line]
    assert row.split()[-4:] == ["–", "30.0", "500", "–"], "in the order of the heads"


class TestChunking:
    def test_chunks_and_whole_prompts_are_flags_of_every_worker(self) -> None:
        base = EngineOptions(max_num_seqs=8, prefill=StepLimits(max_num_seqs=1), extra_args=("--swap-space", "4"))
        on, off = Chunking(128).options(base), Chunking(None).options(base, 1024)
        assert (on.max_num_batched_tokens, on.prefill, on.extra_args[-1]) == (128, None, "--enable-chunked-prefill")
        assert (off.max_num_batched_tokens, off.max_num_seqs, off.extra_args[-1]) == (None, 8, "--no-enable-chunked-prefill")
        assert on.extra_args[:2] == off.extra_args[:2] == ("--swap-space", "4")
        again = Chunking(64).options(off)
        assert again.extra_args == ("--swap-space", "4", "--enable-chunked-prefill")

    def test_whole_prompts_fit_into_a_step(self) -> None:
        small = EngineOptions(max_num_batched_tokens=128)
        assert Chunking(None).options(small, 1024).max_num_batched_tokens == 1024
        assert Chunking(None).options(replace(small, max_num_batched_tokens=4096), 1024).max_num_batched_tokens == 4096


def test_a_study_is_suggested_for_the_node() -> None:
    preset = suggest_interference(fake_node(2))
    assert [str(split) for split in preset.topologies] == ["2A", "1P1D"]
    Chunking(preset.chunk).check(preset.workload)
    varied = preset.vary(chunk=32, side_b="1P3D", isl="uniform:64-128", rate=None)
    assert (varied.chunk, str(varied.topologies[1]), varied.workload.rate) == (32, "1P3D", preset.workload.rate)
    assert str(varied).startswith("demo (dummy weights): 2A and 1P3D, prompts in chunks of 32 tokens and whole; ")
