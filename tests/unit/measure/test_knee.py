"""The finder of the knee against engines whose knee is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from labkit.errors import SpecError
from labkit.measure.knee import Batch, find_knee

ISL = 32
PER_TOKEN_S = 6e-4
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


def roofline(floor_s: float, overhead_s: float = 0.0) -> Callable[[float], float]:
    """t = max(a, b n) + c: weights are read once, or tokens are computed."""
    return lambda n: max(floor_s, PER_TOKEN_S * n) + overhead_s


def smooth(floor_s: float, overhead_s: float = 0.0) -> Callable[[float], float]:
    """The same with a round corner."""
    return lambda n: (floor_s**4 + (PER_TOKEN_S * n) ** 4) ** 0.25 + overhead_s


def affine(overhead_s: float) -> Callable[[float], float]:
    return lambda n: overhead_s + PER_TOKEN_S * n


def true_knee(step_s: Callable[[float], float]) -> int:
    """By counting upwards; the plateau is what a huge batch gives."""
    plateau = 1e7 / step_s(1e7)
    return next(n for n in range(1, 10_000) if n / step_s(n) >= 0.95 * plateau)


def measured(
    step_s: Callable[[float], float], seed: int, *, batches: tuple[int, ...] = BATCHES, noise: float = 0.03, repeats: int = 3
) -> list[Batch]:
    """Five steps a repeat with log-normal noise; a repeat drifts by 2 %, one step in 20 is stalled to three times its length."""
    rng = np.random.default_rng(seed)
    drift = 1 + 0.02 * rng.standard_normal(repeats)
    found = []
    for prompts in batches:
        times = [
            step_s(ISL * prompts) * d * np.exp(noise * rng.standard_normal(5)) * np.where(rng.random(5) < 0.05, 3, 1)
            for d in drift
        ]
        found.append(Batch(ISL * prompts, prompts, tuple(times), tuple(t + 0.004 for t in times)))
    return found


@pytest.mark.parametrize(
    "engine",
    [roofline(0.06), roofline(0.06, 0.002), smooth(0.04, 0.002), affine(0.004)],
    ids=["roofline", "roofline and overhead", "smooth", "overhead alone"],
)
def test_a_known_knee_is_found_with_an_interval_that_holds_it(engine: Callable[[float], float]):
    true, knees = true_knee(engine), [find_knee(measured(engine, seed), resamples=200) for seed in range(30)]
    assert {knee.kind for knee in knees} == {"found"}
    estimates = [knee.tokens.estimate for knee in knees if knee.tokens]
    assert true * 0.85 <= np.median(estimates) <= true * 1.2
    assert sum(knee.tokens.low <= true <= knee.tokens.high for knee in knees if knee.tokens) >= 27
    for knee in knees:
        assert knee.plateau_tok_s is not None
        assert knee.plateau_tok_s.estimate == pytest.approx(1 / PER_TOKEN_S, rel=0.1)


def test_the_time_to_first_token_at_the_knee_is_that_of_its_batch():
    engine = roofline(0.06)
    knee = find_knee(measured(engine, 1, noise=0.005), resamples=200)
    assert knee.ttft_s is not None
    assert knee.ttft_s.estimate == pytest.approx(0.064, rel=0.06)
    assert knee.ttft_s.low * 0.97 <= 0.064 <= knee.ttft_s.high * 1.03  # the repeats drift
    assert knee.prompts == 3
    assert knee.isl == ISL
    point = knee.points[2]
    assert (point.tokens, point.prompts, point.steps) == (96, 3, 15)
    assert point.tok_s.estimate == pytest.approx(96 / 0.06, rel=0.05)


def test_without_a_plateau_in_the_range_none_is_invented():
    for seed in range(10):
        flat = find_knee(measured(roofline(0.06), seed, batches=(1, 2, 3)), resamples=200)
        assert (flat.kind, flat.tokens, flat.prompts, flat.ttft_s) == ("none", None, None, None)
        assert flat.plateau_tok_s is None
        rising = find_knee(measured(affine(0.05), seed, batches=(1, 2, 4, 8, 16)), resamples=200)
        assert rising.kind == "none"
        assert rising.reached < 0.95
        assert rising.still_gains is not None
        assert rising.still_gains > 0.05


def test_a_plateau_from_the_first_batch_on_is_said_to_be_one():
    for seed in range(10):
        knee = find_knee(measured(affine(1e-4), seed, batches=(1, 2, 4, 8, 16)), resamples=200)
        assert knee.kind == "first"
        assert knee.tokens is not None
        assert knee.tokens.estimate == knee.tokens.low == ISL
        assert knee.prompts == 1


def test_throughput_that_falls_off_again_is_left_out_and_told():
    def thrashing(n: float) -> float:
        return max(0.06, PER_TOKEN_S * n) * (1.3 if n > 400 else 1.0)

    knee = find_knee(measured(thrashing, 2, noise=0.01), resamples=200)
    assert knee.kind == "found"
    assert knee.falls_from == 384
    assert knee.tokens is not None
    assert knee.tokens.estimate == pytest.approx(true_knee(roofline(0.06)), rel=0.15)
    steeper = find_knee(measured(lambda n: PER_TOKEN_S * n**1.3, 2, noise=0.01), resamples=200)
    assert (steeper.kind, steeper.falls_from) == ("first", ISL)


def test_more_noise_makes_the_interval_wider_and_one_repeat_is_told():
    quiet, noisy = (find_knee(measured(smooth(0.06), 3, noise=noise), resamples=300).tokens for noise in (0.005, 0.1))
    assert quiet is not None
    assert noisy is not None
    assert noisy.high - noisy.low > quiet.high - quiet.low
    assert quiet.over == "repeats and steps"
    single = find_knee(measured(smooth(0.06), 3, repeats=1), resamples=100).tokens
    assert single is not None
    assert (single.over, single.repeats) == ("steps", 1)


def test_neighbours_that_take_the_core_move_neither_plateau_nor_knee():
    rng = np.random.default_rng(5)
    quiet = measured(roofline(0.06), 5, noise=0.01)
    busy = [
        Batch(
            batch.tokens,
            batch.prompts,
            tuple(part * np.where(rng.random(5) < 0.6, 1 + rng.exponential(1.0, 5), 1) for part in batch.step_s),
            batch.ttft_s,
        )
        for batch in quiet
    ]
    calm, stirred = (find_knee(batches, resamples=200) for batches in (quiet, busy))
    assert calm.disturbed < 0.05
    assert stirred.disturbed > 0.2
    for knee in (calm, stirred):
        assert knee.plateau_tok_s is not None
        assert knee.plateau_tok_s.estimate == pytest.approx(1 / PER_TOKEN_S, rel=0.05)
        assert knee.prompts in (3, 4)


def test_one_disturbed_batch_does_not_tilt_the_plateau():
    batches = measured(roofline(0.02), 6, batches=(1, 2, 4, 6, 8, 12, 16), noise=0.01)
    spoilt = [
        Batch(b.tokens, b.prompts, tuple(part * (1.6 if b.prompts == 6 else 1) for part in b.step_s), b.ttft_s) for b in batches
    ]
    knee = find_knee(spoilt, resamples=200)
    assert knee.plateau_tok_s is not None
    assert knee.plateau_tok_s.estimate == pytest.approx(1 / PER_TOKEN_S, rel=0.1)


def test_what_cannot_show_a_knee_is_refused():
    three = measured(roofline(0.06), 0, batches=(1, 2, 4))
    with pytest.raises(SpecError, match="show no plateau"):
        find_knee(three[:2])
    with pytest.raises(SpecError, match="show no plateau"):
        find_knee([*three, three[0]])
    with pytest.raises(SpecError, match="different numbers of repeats"):
        find_knee([*three, *measured(roofline(0.06), 0, batches=(8,), repeats=2)])
    with pytest.raises(SpecError, match="different lengths"):
        find_knee([*three, Batch(640, 10, three[0].step_s, three[0].ttft_s)])
    with pytest.raises(SpecError, match="no part of a plateau"):
        find_knee(three, within=5)
    with pytest.raises(SpecError, match="without steps, or a step without a time"):
        Batch(32, 1, (np.array([0.1, np.nan]),), (np.array([0.1]),))
    with pytest.raises(SpecError, match="without steps"):
        Batch(32, 1, (np.zeros(0),), (np.array([0.1]),))
