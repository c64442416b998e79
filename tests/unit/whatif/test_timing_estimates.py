"""Profiles of projected steps: the law that is asked stands in them, in slow motion or corrected."""

from __future__ import annotations

import pytest

from labkit.errors import ProjectionError
from labkit.whatif.timing_estimates import timing_from_estimates
from tests.support.projected import PROMPT_S, Law, decode_s


def test_projected_steps_stand_in_the_profile() -> None:
    profile = timing_from_estimates("llama-3.1-8b", tp=2, longest=3000, estimator=Law())
    assert profile.prefill(2048) == pytest.approx(2048 * PROMPT_S / 2)
    assert profile.itl(16 * 2048, 2048) == pytest.approx(decode_s(16, 2), rel=0.02)
    assert profile.itl(64 * 512, 512) == pytest.approx(decode_s(64, 2), rel=0.02), "shorter contexts, more requests"
    assert profile.kv_transfer_bytes_s == 2 * 50e9, "a link a GPU"
    assert (profile.tp, profile.kv_tokens, profile.gpu) == (2, 400_000, "h100_sxm")
    assert profile.source == "projected by a law; KV transfer assumed at 50 GB/s a GPU"
    assert profile.beyond(prompt_tokens=3000, active_kv_tokens=100_000, context_tokens=3000) == []


def test_a_calibration_corrects_prefill_and_decode_apart() -> None:
    plain, corrected = (
        timing_from_estimates("llama-3.1-8b", estimator=Law(), factors=factors, error=error)
        for factors, error in (((1.0, 1.0), ""), ((1.5, 0.8), "ITL 3% mean"))
    )
    assert corrected.prefill(1024) == pytest.approx(1.5 * plain.prefill(1024))
    assert corrected.itl(10_000, 2048) == pytest.approx(0.8 * plain.itl(10_000, 2048))
    assert "ITL 3% mean" in str(corrected)


def test_a_gpu_without_timings_is_refused_with_those_that_have_some() -> None:
    with pytest.raises(ProjectionError, match="no timings on 'h77'"):
        timing_from_estimates("llama-3.1-8b", "h77", estimator=Law())
