"""Ratios of pairs of the same request: what they take out of the interval, and what they do not."""

from __future__ import annotations

import numpy as np
import pytest

from labkit.experiments.compare import ratio_of
from labkit.experiments.paired import only, paired
from labkit.experiments.sides import sides_of
from labkit.measure.statistics import Repeat, bootstrap, weighted_percentile
from labkit.spec import Slo
from tests.support.queues import queued

LABELS = ("1P1D", "1P2D")


def test_a_latency_that_no_request_saw_change_is_known_to_be_the_same():
    records, _ = queued(LABELS, repeats=2)
    apart = ratio_of(records, *LABELS, "ttft_p50_s", resamples=100)
    together = paired(LABELS, sides_of(records, *LABELS), "ttft_p50_s", resamples=100).ratio
    assert apart is not None
    assert together is not None
    assert together.estimate == pytest.approx(apart.estimate)
    assert (together.low, together.high) == (1.0, 1.0)
    assert apart.spread > 0.1, "drawn apart, either side may have got the slower requests"


def test_a_part_of_the_load_is_of_the_requests_scheduled_in_it():
    records, _ = queued(LABELS, repeats=1, length_s=30.0)
    sides = sides_of(records, *LABELS)
    whole = paired(LABELS, sides, "ttft_p50_s", resamples=20)
    part = paired(LABELS, sides, "ttft_p50_s", between_s=(10.0, 20.0), resamples=20)
    assert whole.a is not None
    assert part.a is not None
    sent = records.requests.filter(records.requests["measurement"].to_numpy() == 0)["scheduled_ns"].to_numpy()
    since_s = (sent - sides[0][0][1].measure_ns) / 1e9
    assert part.a.n == np.count_nonzero((since_s >= 10) & (since_s < 20)) < whole.a.n


def test_what_needs_an_slo_or_more_values_is_none():
    records, _ = queued(LABELS, repeats=1, length_s=10.0)
    sides = sides_of(records, *LABELS)
    assert paired(LABELS, sides, "ttft_p99_s", resamples=20).ratio is None
    assert paired(LABELS, sides, "slo_attainment", resamples=20).a is None
    share = paired(LABELS, sides, "slo_attainment", slo=Slo(ttft_s=5.0), resamples=20).a
    assert share is not None
    assert 0 < share.estimate <= 1


def test_values_of_some_requests_in_an_order():
    values = Repeat(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 2, 1]))
    picked = only(values, np.array([2, 1, 0]))
    assert (picked.values.tolist(), picked.counts.tolist()) == ([2.0, 3.0, 1.0], [2, 0, 1])


def test_requests_drawn_together_still_hold_how_their_ratios_scatter():
    rng = np.random.default_rng(0)
    of_a = rng.lognormal(0, 1, 200)
    sides = [Repeat.of(of_a)], [Repeat.of(of_a * rng.lognormal(np.log(2), 0.2, 200))]
    apart, together = (
        bootstrap(*sides, weighted_percentile(50), resamples=300, paired=True, same_requests=same).ratio for same in (False, True)
    )
    assert apart is not None
    assert together is not None
    assert together.low < 2 < together.high
    assert together.spread < 0.7 * apart.spread
