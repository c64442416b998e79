from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from labkit.measure.metrics import of_measurement, summarise
from labkit.measure.records import Records, Window
from labkit.measure.timing import request_metrics
from labkit.measure.warmup import LEAST, aligned, begin_at, cut_warmup, find_warmup
from labkit.spec import Workload
from tests.support.handmade import MS, SECOND, records, request, steady, window

COUNT = 100
LONG = window(stop_ns=COUNT * SECOND, end_ns=(COUNT + 1) * SECOND)


def of_ttft(ttft_ms: np.ndarray, **fields) -> Records:
    return records([steady(n, first_ms=max(int(value), 1), **fields) for n, value in enumerate(ttft_ms)])


def noise(seed: int, count: int = COUNT) -> np.ndarray:
    return 200 * np.random.default_rng(seed).lognormal(0, 0.2, count)


def mser_by_hand(values: np.ndarray) -> int:
    """White's definition, written out: the d up to n/2 with the smallest Σ(Yᵢ − Ȳ)² / (n − d)², over means of five."""
    means = [np.mean(values[at : at + 5]) for at in range(0, len(values) - 4, 5)]
    scores = [np.sum((np.array(means[d:]) - np.mean(means[d:])) ** 2) / (len(means) - d) ** 2 for d in range(len(means) // 2 + 1)]
    return 5 * int(np.argmin(scores))


@pytest.mark.parametrize("seed", range(5))
def test_a_transient_is_cut_where_mser_5_says(seed: int):
    ttft_ms = noise(seed) * (1 + 4 * np.exp(-np.arange(COUNT) / 5))
    found = find_warmup(of_ttft(ttft_ms), LONG)
    assert found.first_index == mser_by_hand(np.trunc(ttft_ms))
    assert 10 <= found.first_index <= COUNT // 2
    assert found.settled is True
    assert f"the first {found.first_index} requests left out (MSER-5 of TTFT)" in found.text


def test_a_few_cold_requests_are_cut():
    ttft_ms = noise(0) * np.where(np.arange(COUNT) < 3, 12, 1)
    assert 5 <= find_warmup(of_ttft(ttft_ms), LONG).first_index <= 50


def test_steady_requests_lose_none_or_few():
    lost = [find_warmup(of_ttft(noise(seed)), LONG) for seed in range(40)]
    assert all(found.settled for found in lost)
    assert np.mean([found.first_index / COUNT for found in lost]) < 0.05
    assert sum(found.first_index == 0 for found in lost) >= 35


def test_requests_in_flight_show_a_batch_that_fills_though_ttft_does_not():
    """Answers of 12 s: TTFT is the same from the beginning, the number in flight is not."""
    rows = [request(n, [(n * SECOND + 300 * MS, 1, True), (n * SECOND + 12 * SECOND, 1, True)]) for n in range(COUNT)]
    found = find_warmup(records(rows), LONG)
    assert 10 <= found.first_index <= 20
    assert "requests in flight" in found.text


def test_in_flight_counts_the_warm_up_that_was_sent():
    """The same load after a warm-up of 20 s that filled the batch: nothing is left to cut."""
    rows = [
        request(
            n, [(n * SECOND + 300 * MS, 1, True), (n * SECOND + 12 * SECOND, 1, True)],
            phase="warmup" if n < 20 else "measure", index=-1 - n if n < 20 else n - 20,
        )
        for n in range(COUNT)
    ]  # fmt: skip
    assert find_warmup(records(rows), replace(LONG, measure_ns=20 * SECOND)).first_index == 0


@pytest.mark.parametrize("seed", range(5))
def test_without_a_stationary_part_nothing_is_cut_and_it_is_said(seed: int):
    growing = noise(seed) * (1 + np.arange(COUNT) / 20)
    found = find_warmup(of_ttft(growing), LONG)
    assert (found.first_index, found.settled) == (0, False)
    assert found.text == "no stationary part was found: nothing left out"


def test_a_rest_that_drifts_is_not_made_a_window_by_cutting_its_beginning():
    rising = noise(0, 300) * (1 + np.arange(300) / 300)
    found = find_warmup(of_ttft(rising * np.where(np.arange(300) < 10, 60, 1)), replace(LONG, stop_ns=300 * SECOND))
    assert (found.first_index, found.settled) == (0, False)


def test_too_few_requests_are_left_as_they_are():
    found = find_warmup(of_ttft(np.r_[[5000.0] * 5, noise(0, LEAST - 6)]), LONG)
    assert (found.first_index, found.settled) == (0, None)
    assert f"needs {LEAST}" in found.text


def test_failed_requests_have_no_ttft_and_at_most_half_is_cut():
    rows = [steady(n, outcome="refused") for n in range(45)]
    rows += [steady(n, first_ms=3000 if n < 60 else 200 + n % 7) for n in range(45, COUNT)]
    assert find_warmup(records(rows), LONG).first_index <= COUNT // 2


def test_the_window_says_which_requests_count_and_the_rows_keep_their_phase():
    ttft_ms = noise(1) * np.where(np.arange(COUNT) < 10, 10, 1)
    made = of_ttft(ttft_ms)
    cut = cut_warmup(made, LONG)
    assert (cut.measure_ns, cut.settled) == (cut.first_index * SECOND, True)
    assert set(made.requests["phase"].to_pylist()) == {"measure"}
    seen = of_measurement(made, cut).requests
    assert seen["phase"].to_pylist() == ["warmup"] * cut.first_index + ["measure"] * (COUNT - cut.first_index)
    summary = summarise(made, cut)
    assert summary["requests"] == COUNT - cut.first_index
    assert summary["ttft_max_s"] < 1
    assert summary["window_s"] == pytest.approx((LONG.stop_ns - cut.measure_ns) / 1e9)
    assert Window.from_dict(cut.to_dict()) == cut


def test_a_window_of_an_older_run_counts_everything():
    data = LONG.to_dict()
    for name in ("first_index", "cut", "settled", "stopped"):
        del data[name]
    assert Window.from_dict(data) == LONG


def test_a_pair_begins_at_the_later_of_both():
    made = of_ttft(noise(0))
    early, late = begin_at(made, LONG, 5, "found"), begin_at(made, LONG, 20, "found")
    a, b = aligned([(made, early), (made, late)])
    assert (a.first_index, a.measure_ns, b) == (20, 20 * SECOND, late)
    assert "the first 20 requests left out, as on the other side" in a.cut
    assert aligned([(made, late), (made, late)]) == [late, late]


def test_a_slower_side_of_a_closed_loop_keeps_half_of_its_requests():
    closed = replace(LONG, workload=Workload(concurrency=2, duration_s=100, isl=8, osl=5).to_dict())
    fast, slow = of_ttft(noise(0)), of_ttft(noise(1, 40))
    a, b = aligned([(fast, begin_at(fast, closed, 50, "found")), (slow, closed)])
    assert a.first_index == b.first_index == 20
    kept = [int(request_metrics(of_measurement(made, one)).measured.sum()) for made, one in ((fast, a), (slow, b))]
    assert kept == [80, 20]
