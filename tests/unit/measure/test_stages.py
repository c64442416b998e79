from __future__ import annotations

import numpy as np
import pytest

from labkit.measure.digest import digest
from labkit.measure.stages import STAGES, differences, stages_of
from labkit.measure.timing import request_metrics
from tests.support.handmade import unscheduled
from tests.support.staged import CALM, SPLIT, SideOf, staged, without_spans


@pytest.mark.parametrize(("topology", "seconds"), [("2A", CALM), ("1P1D", SPLIT), ("2P3D", SPLIT)])
def test_every_stage_is_what_it_was_made_of(topology: str, seconds: dict[str, float]):
    made, _ = staged(SideOf(topology, seconds), requests=20, spread=0.3)
    found = stages_of(digest(made), made.windows[0])
    factors = found.of("prefill") / seconds["prefill"]
    assert len(set(factors.round(6))) == 20
    for stage in STAGES:
        assert found.of(stage) == pytest.approx(seconds[stage] * factors, abs=2e-8)
    assert found.untold == 0


def test_they_add_up_to_the_time_of_the_request_from_its_schedule():
    made, _ = staged(SideOf("2A", CALM), SideOf("1P1D", SPLIT), requests=12)
    taken = digest(made)
    for window in made.windows:
        found, metrics = stages_of(taken, window), request_metrics(taken.of(window))
        assert found.seconds.sum(axis=1) == pytest.approx(metrics.e2e_s + metrics.send_lag_s, abs=1e-7)
        assert found.seconds[:, :-1].sum(axis=1) == pytest.approx(metrics.ttft_from_schedule_s, abs=1e-7)


def test_what_no_worker_told_of_and_what_failed_or_was_warm_up_is_left_out():
    made, _ = staged(SideOf("1P1D", SPLIT), requests=10)
    rows = made.requests.to_pylist()
    rows[0]["phase"], rows[1]["outcome"] = "warmup", "cut"
    made = without_spans(
        type(made)(
            type(made.requests).from_pylist(rows, schema=made.requests.schema),
            made.chunks,
            spans=made.spans,
            windows=made.windows,
        ),
        [4, 5],
    )
    found = stages_of(digest(made), made.windows[0])
    assert found.request.tolist() == [2, 3, 6, 7, 8, 9]
    assert found.untold == 2


def test_nothing_is_known_without_spans_or_without_a_schedule():
    made, _ = staged(SideOf("2A", CALM), requests=3)
    silent = without_spans(made, range(3))
    for one in (silent, unscheduled(made)):
        found = stages_of(digest(one), one.windows[0])
        assert (len(found), found.untold, found.seconds.shape) == (0, 3, (0, len(STAGES)))


def test_the_interval_of_a_difference_holds_the_truth_at_least_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(200):
        sides = [[rng.lognormal(0, 0.5, (60, 2)) * scale for _ in range(3)] for scale in (1.0, 1.3)]
        found = differences(*sides, seed=trial)
        truth = 0.3 * np.exp(0.125)
        held += int(found.low[0] <= truth <= found.high[0])
        assert found.difference == pytest.approx(found.b - found.a)
    assert held / 200 >= 0.95


def test_repeats_that_differ_widen_it():
    rng = np.random.default_rng(2)

    def side(shift: float) -> list[np.ndarray]:
        return [rng.normal(1 + shift * k, 0.01, (50, 1)) for k in range(4)]

    alike, apart = differences(side(0), side(0)), differences(side(0.2), side(0.2))
    assert (apart.high - apart.low)[0] > 5 * (alike.high - alike.low)[0]


def test_a_single_request_has_no_spread_of_its_own():
    found = differences([np.array([[1.0]])], [np.array([[3.0]])])
    assert (found.difference[0], found.low[0], found.high[0]) == (2.0, 2.0, 2.0)
