"""Steps on a roofline with round peaks: what is bound by what, and why."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from labkit.experiments.roofline import RooflineFound, decode_points, faster_than_peak, phase_verdict, prefill_points
from labkit.measure.roofline import Step, step_bytes, step_flops
from labkit.measure.steps import DecodeSteps
from labkit.spec.architecture import Architecture
from tests.support.prefill import PEAKS, swept

#: The bundled demo: 26 M parameters, 105 MB in float32.
DEMO = Architecture.of(
    {
        "model_type": "qwen3", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 64, "intermediate_size": 1536, "vocab_size": 4096, "tie_word_embeddings": True,
    }
)  # fmt: skip


def decodes(batch: int, step_s: float) -> DecodeSteps:
    return DecodeSteps(batch, 144.4, np.full(20 * batch, step_s))


def found(*, decode_s: float = 0.008) -> RooflineFound:
    points = [*prefill_points(swept(), DEMO, PEAKS, 1), *decode_points([decodes(n, decode_s) for n in (1, 2, 4)], DEMO, PEAKS, 1)]
    return RooflineFound("demo", PEAKS, 1, tuple(points), False, ("a note",))


def test_points_are_the_formulas_over_the_measured_time():
    (point,) = decode_points([decodes(4, 0.01)], DEMO, PEAKS, 1)
    step = Step.decode([144] * 4)
    assert (point.flops, point.bytes_moved) == (step_flops(DEMO, step).total, step_bytes(DEMO, step, 4, 4).total)
    assert point.mfu == pytest.approx(point.flops / (0.01 * 100e9))
    assert point.mbu == pytest.approx(point.bytes_moved / (0.01 * 20e9))
    assert (point.batch, point.tokens, point.context, point.steps) == (4, 4, 144, 20)
    assert point.flop_s == pytest.approx(point.intensity * point.bytes_moved / 0.01)
    (shared,) = decode_points([decodes(4, 0.01)], DEMO, PEAKS, 2)
    assert shared.mbu == pytest.approx(point.mbu / 2)


def test_each_phase_says_what_bounds_it_and_why():
    roofline = found()
    assert {point.bound for point in roofline.of("decode")} == {"memory-bound"}
    assert phase_verdict(roofline, "decode").startswith("Decode is memory-bound at 1 to 4 requests a step, because it moves 6")
    large = [point for point in roofline.of("prefill") if point.tokens >= 64]
    assert {point.bound for point in large} == {"compute-bound"}
    words = phase_verdict(roofline, "prefill")
    assert "compute-bound at 32 to 1,024 tokens a step, because it reaches" in words
    assert "of the device's 100.0 GFLOP/s" in words


def test_what_reaches_half_of_nothing_is_bound_by_neither():
    roofline = found(decode_s=0.05)
    words = phase_verdict(roofline, "decode")
    assert words.startswith("Decode is neither at 1 to 4 requests a step, because it reaches")
    assert "of 50.0 ms arithmetic or memory explain" in words
    assert "4 times the tokens take 1 times as long" in words


def test_a_step_that_beats_the_peak_says_that_the_benchmark_was_disturbed():
    points = found().points
    assert faster_than_peak(DEMO, points) == []
    slow = replace(PEAKS, flop_s=PEAKS.flop_s / 3)
    (said,) = faster_than_peak(DEMO, prefill_points(swept(), DEMO, slow, 1))
    most = max(point.mfu for point in prefill_points(swept(), DEMO, slow, 1))
    assert said.startswith(f"steps reached {most:.0%} of its FLOP/s: no step beats a peak")
    assert faster_than_peak(replace(DEMO, quantisation="fp8"), prefill_points(swept(), DEMO, slow, 1)) == [], "another arithmetic"


def test_the_table_has_a_line_for_each_batch_and_can_be_kept():
    roofline = found()
    lines = str(roofline).splitlines()
    assert sum(line.split()[0] in ("prefill", "decode") for line in lines if line.startswith((" ", "prefill"))) == len(
        roofline.points
    )
    assert lines[-1] == "! a note"
    assert "ridge at 5 FLOP per byte" in lines[0]
    kept = json.loads(json.dumps(roofline.to_dict(), allow_nan=False))
    assert kept["points"][-1]["bound"] == "memory-bound"
    assert str(replace(roofline, points=())).splitlines()[0] == lines[0]


def test_the_table_names_what_step_times_are_read_from():
    roofline = found()
    (line,) = [line for line in str(roofline).splitlines() if line.startswith("Step times ")]
    assert "of prefill by the engine's own clock (request spans of the sweep)" in line
    assert "of decode by the client's gaps between tokens" in line
    alone = replace(roofline, points=tuple(roofline.of("decode")))
    assert alone.clocks == "Step times of decode by the client's gaps between tokens (with what passes between steps)."
    assert roofline.to_dict()["clocks"].keys() == {"prefill", "decode"}
