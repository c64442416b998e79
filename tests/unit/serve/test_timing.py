"""Timing profiles: what is read is what was written, what lies between points is interpolated, what cannot be is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labkit.errors import SpecError
from labkit.serve.timing import TimingProfile, load_timing, save_timing, timing_file
from tests.support.profiles import handmade_profile


def test_times_lie_between_the_points() -> None:
    profile = handmade_profile()
    assert profile.prefill(1000) == pytest.approx(0.110)
    assert profile.itl(50_000, 777) == pytest.approx(0.020)
    slanted = handmade_profile(
        active_kv_tokens=np.array([0.0, 100.0]),
        context_tokens=np.array([0.0, 10.0]),
        itl_s=np.array([[0.01, 0.02], [0.03, 0.04]]),
    )
    assert slanted.itl(50, 5) == pytest.approx(0.025), "bilinear"
    assert slanted.itl(1e9, 1e9) == pytest.approx(0.04), "the nearest corner"


def test_a_file_holds_everything_and_the_mockers_arrays_in_milliseconds(tmp_path: Path) -> None:
    profile = handmade_profile(kv_transfer_bytes_s=50e9, error="ITL 3%", extrapolate=True)
    folder = save_timing([profile, handmade_profile(tp=4)], tmp_path / "timing")
    with np.load(timing_file(folder, 1)) as held:
        assert {"prefill_isl", "prefill_ttft_ms", "decode_active_kv_tokens", "decode_context_length", "decode_itl"} < set(held)
        assert held["prefill_ttft_ms"][0] == pytest.approx(10.0)
        assert held["decode_itl"].shape == (2, 2)
    back = load_timing(folder)
    assert set(back) == {1, 4}
    assert back[1].about() == profile.about()
    assert np.array_equal(back[1].itl_s, profile.itl_s)
    with pytest.raises(SpecError, match=r"no timing profile of TP 2 \(it has tp1, tp4\)"):
        timing_file(folder, 2)


def test_a_digest_tells_profiles_apart_by_their_times() -> None:
    assert handmade_profile().digest == handmade_profile(error="another sentence").digest
    assert handmade_profile().digest != handmade_profile().stretched(2.0).digest


def test_slow_motion_lengthens_everything_alike() -> None:
    slow = handmade_profile(kv_transfer_bytes_s=40e9).stretched(4)
    assert slow.prefill(1000) == pytest.approx(0.440)
    assert slow.itl(50_000, 100) == pytest.approx(0.080)
    assert (slow.kv_transfer_bytes_s, slow.stretch) == (10e9, 4.0)
    assert "times × 4" in str(slow)


def test_what_lies_beyond_the_range_is_named() -> None:
    profile = handmade_profile()
    assert profile.beyond(prompt_tokens=8192, active_kv_tokens=100, context_tokens=100) == []
    found = profile.beyond(prompt_tokens=9000, active_kv_tokens=300_000, context_tokens=100)
    assert found == ["a prefill of 9,000 tokens (to 8,192)", "active KV of 300,000 tokens (to 200,000)"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prefill_tokens": np.array([2.0, 1.0])}, "prefill_tokens is not two or more ascending"),
        ({"prefill_s": np.array([0.1])}, "not one positive time for each of prefill_tokens"),
        ({"itl_s": np.full((2, 2), np.nan)}, "not one positive time for each of active_kv_tokens"),
        ({"itl_s": np.full((2, 2), 0.0005)}, "0.5 ms is shorter than the mocker's shortest"),
        ({"kv_tokens": 0}, "kv_tokens = 0"),
    ],
)
def test_arrays_that_no_worker_has_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        handmade_profile(**given)


def test_another_file_is_no_profile(tmp_path: Path) -> None:
    (tmp_path / "tp1.npz").write_bytes(b"nothing of the kind")
    with pytest.raises(SpecError, match="is no timing profile"):
        TimingProfile.load(tmp_path / "tp1.npz")
    with pytest.raises(SpecError, match="holds no timing profile"):
        load_timing(tmp_path / "nowhere")
    save_timing([handmade_profile(), handmade_profile(tp=2, gpu="h200_sxm")], tmp_path / "mixed")
    with pytest.raises(SpecError, match="different models or GPUs"):
        load_timing(tmp_path / "mixed")
