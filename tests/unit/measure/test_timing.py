import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.measure.metrics import chunk_gaps, itl_s, request_metrics, summarise
from labkit.measure.records import Records
from tests.support.handmade import MS, SECOND, records, request, steady, unscheduled, window

chunk_lists = st.lists(st.tuples(st.integers(0, 300), st.sampled_from([None, 0, 1, 1, 2, 7]), st.booleans()), max_size=8).map(
    lambda steps: [(sum(gap for gap, _, _ in steps[: i + 1]) * MS, k, text) for i, (_, k, text) in enumerate(steps)]
)
runs = st.lists(chunk_lists, min_size=1, max_size=8).map(
    lambda answers: [
        request(n, [(n * SECOND + 2 * MS + t, k, text) for t, k, text in chunks]) for n, chunks in enumerate(answers)
    ]
)


def test_gaps_name_their_request_and_its_row():
    made = records([steady(7, tokens=3), steady(5, tokens=2, phase="warmup", outcome="cut")])
    gaps = chunk_gaps(made)
    assert gaps.request.tolist() == [7, 7, 5]
    assert gaps.row.tolist() == [0, 0, 1]
    assert gaps.measured.tolist() == [True, True, False]
    assert gaps.ok.tolist() == [True, True, False]
    assert gaps.gap_s == pytest.approx(0.020)
    assert gaps.start_ns[0] == 7 * SECOND + 101 * MS
    assert gaps.end_ns[0] == 7 * SECOND + 121 * MS


def test_rows_keep_the_order_of_the_requests_table():
    made = records(
        [steady(9, first_ms=90), steady(2, first_ms=20), request(4, outcome="refused", sent_ns=None, output_tokens=None)]
    )
    found = request_metrics(made)
    assert found.request.tolist() == [9, 2, 4]
    assert found.ttft_s[:2] == pytest.approx([0.09, 0.02])
    assert np.isnan(found.ttft_s[2])
    assert np.isnan(found.send_lag_s[2])
    assert np.isnan(found.output_tokens[2])
    assert found.ok.tolist() == [True, True, False]


def test_chunks_of_requests_that_the_table_lacks_are_left_out():
    made = records([steady(1), steady(2)])
    torn = Records(made.requests.slice(1), made.chunks)
    assert request_metrics(torn).request.tolist() == [2]
    assert set(chunk_gaps(torn).request.tolist()) == {2}
    empty = Records(made.requests.slice(2), made.chunks)
    assert len(request_metrics(empty)) == len(chunk_gaps(empty)) == 0


def test_instants_keep_their_nanoseconds_after_years_of_uptime():
    start = 2**56
    made = records([request(0, [(start + 2, 1, True), (start + 3, 1, True)], scheduled_ns=start, sent_ns=start + 1)])
    found = request_metrics(made)
    assert found.ttft_s[0] == pytest.approx(1e-9, rel=1e-6)
    assert found.e2e_s[0] == pytest.approx(2e-9, rel=1e-6)
    assert found.tpot_s[0] == pytest.approx(1e-9, rel=1e-6)


def test_without_a_recorded_schedule_nothing_counts_from_it():
    made = records([steady(1), steady(2)])
    found, known = request_metrics(unscheduled(made)), request_metrics(made)
    assert np.isnan(found.send_lag_s).all()
    assert np.isnan(found.ttft_from_schedule_s).all()
    assert found.ttft_s.tolist() == known.ttft_s.tolist()
    assert (found.scheduled_ns - known.scheduled_ns).tolist() == [MS, MS], "the real send stands in for the order of requests"


def test_itl_of_an_uncounted_chunk_is_undefined():
    made = records([request(0, [(1, 1, True), (2, None, True), (5, 3, True)])])
    assert np.isnan(itl_s(chunk_gaps(made))).tolist() == [True, False, False, False]


@given(runs)
@settings(max_examples=60)
def test_itl_of_a_request_adds_up_to_its_tpot(rows):
    counted = [row for row in rows if all(k is not None for _, k, _ in row["chunks"])]
    made = records(counted or [steady(0)])
    gaps, found = chunk_gaps(made), request_metrics(made)
    for row in range(len(found)):
        mine = itl_s(gaps.select(gaps.row == row))
        if np.isfinite(found.tpot_s[row]):
            assert mine.mean() == pytest.approx(found.tpot_s[row], rel=1e-9, abs=1e-12)
            assert mine.sum() == pytest.approx((found.last_token_ns[row] - found.first_token_ns[row]) / 1e9, abs=1e-7)
            assert mine.max() == gaps.gap_s[gaps.row == row].max()


@given(runs, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_order_of_rows_does_not_matter(rows, rng):
    made = records(rows)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    other = records(shuffled)
    # instants of one request stay in order where they are equal: the order of arrival is what is stored
    assert dict(summarise(made, window())) == pytest.approx(dict(summarise(other, window())), nan_ok=True)


@given(runs, st.integers(0, 10**15))
@settings(max_examples=40)
def test_the_origin_of_the_clock_does_not_matter(rows, shift):
    moved = [
        {
            **row,
            **{name: row[name] + shift for name in ("scheduled_ns", "sent_ns", "end_ns")},
            "chunks": [(t + shift, k, text) for t, k, text in row["chunks"]],
        }
        for row in rows
    ]
    bounds = window(measure_ns=shift, stop_ns=shift + 10 * SECOND)
    assert dict(summarise(records(moved), bounds)) == pytest.approx(dict(summarise(records(rows), window())))


@given(runs)
@settings(max_examples=40)
def test_windows_that_divide_a_run_share_out_its_tokens(rows):
    made = records(rows)
    whole = summarise(made, window(stop_ns=20 * SECOND))["output_tokens"]
    halves = [
        summarise(made, window(measure_ns=start * SECOND, stop_ns=stop * SECOND))["output_tokens"]
        for start, stop in ((0, 3), (3, 20))
    ]
    if None not in halves:
        assert whole == sum(halves)
