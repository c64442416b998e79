"""The sliding window over handmade batches: what is in it, what is forgotten, and what is not claimed when events are lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from labkit.live.window import LiveWindow
from labkit.load.feed import Batch, packed
from labkit.measure.records import REQUESTS
from labkit.spec import Slo
from tests.support.handmade import MS, SECOND, request


def batch(until_ms: int, chunks: list[tuple[int, int, int]] = (), **fields: Any) -> Batch:  # type: ignore[assignment]
    """``chunks``: request, instant in ms, tokens (-1: not told)."""
    table = np.array(chunks, np.int64).reshape(-1, 3)
    columns = {
        "request": table[:, 0], "t_ns": table[:, 1] * MS, "tokens": table[:, 2].astype(np.int16),
        "text": np.ones(len(table), np.bool_),
    }  # fmt: skip
    given = {"watch": 1, "shard": 0, "since_ns": 0, "running": True, "closed_loop": [], "in_flight": 1, "oldest": 0, "failed": 0}
    return Batch(**{**given, **packed(columns), "until_ns": until_ms * MS, **fields})


def ended(number: int, end_ms: int, **fields: Any) -> tuple[Any, ...]:
    row = request(number, [], end_ns=end_ms * MS, **{"output_tokens": 3, "scheduled_ns": 0, **fields})
    return tuple(row.get(name) for name in REQUESTS.names)


def test_rates_and_latencies_are_of_the_events_inside():
    window = LiveWindow(1.0)
    window.add(batch(1000, [(0, 100, 1), (0, 130, 2), (1, 900, 1)], sent=[(0, 50 * MS), (1, 880 * MS)]))
    stats = window.tick(SECOND, accelerators=4).stats
    assert (stats.requests, stats.gaps, stats.sent_hz, stats.output_tok_s, stats.output_tok_s_per_accelerator) == (2, 1, 2, 4, 1)
    assert (stats.ttft_p50_s, stats.ttft_p99_s) == (pytest.approx(0.035), None)
    assert stats.itl_p50_s == pytest.approx(0.015)  # a gap of 30 ms, and 0 for the second token of its chunk
    assert stats.tok_s_per_user is None  # no request has ended
    window.add(batch(1500, [(1, 1000, 1)]))
    later = window.tick(1500 * MS).stats
    assert (later.requests, later.gaps, later.output_tok_s) == (1, 1, 2)
    assert later.itl_p50_s == pytest.approx(0.1)  # the chunk before it came with an earlier batch


def test_a_window_that_is_empty_says_zero_of_rates_and_nothing_of_latencies():
    stats = LiveWindow(2.0).tick(10 * SECOND).stats
    assert (stats.output_tok_s, stats.sent_hz, stats.done_hz, stats.goodput_hz, stats.in_flight) == (0, 0, 0, 0, 0)
    assert stats.ttft_p50_s is stats.itl_p50_s is stats.tok_s_per_user is stats.output_tok_s_per_accelerator is None


def test_the_window_does_not_reach_back_before_the_watch():
    window = LiveWindow(5.0, since_ns=9 * SECOND)
    window.add(batch(10_000, [(0, 9_500, 1)], since_ns=9 * SECOND))
    stats = window.tick(10 * SECOND).stats
    assert (stats.window_s, stats.output_tok_s) == (1.0, 1.0)


def test_of_a_request_that_was_under_way_before_only_gaps_are_known():
    window = LiveWindow(5.0, slo=Slo(tpot_s=0.05))
    sent = [(0, 100 * MS)]
    window.add(batch(2000, [(0, 1500, 1), (0, 1520, 1)], since_ns=SECOND, sent=sent, ended=[ended(0, 1530)]))
    stats = window.tick(2 * SECOND).stats
    assert (stats.requests, stats.gaps, stats.sent_hz, stats.done_hz) == (0, 1, 0, 1)
    assert stats.goodput_hz is None


def test_tokens_per_user_are_those_of_the_requests_that_ended_inside_stalls_included():
    chunks = [(0, 100, 1), (0, 110, 1), (0, 310, 1), (1, 200, 1), (1, 240, 1), (1, 280, 1), (2, 300, 1), (2, 302, 1), (2, 304, 1)]
    rows = [ended(0, 320), ended(1, 290), ended(2, 310, outcome="cut")]
    window = LiveWindow(1.0)
    window.add(batch(1000, chunks, sent=[(n, 90 * MS) for n in range(3)], ended=rows))
    stats = window.tick(SECOND).stats
    assert stats.tok_s_per_user == pytest.approx(1 / ((0.105 + 0.040) / 2))  # the one that was cut does not count
    assert window.tick(1315 * MS).stats.tok_s_per_user == pytest.approx(1 / 0.105)


def test_tokens_per_user_are_not_known_of_requests_seen_in_part_or_uncounted():
    part = LiveWindow(5.0)
    part.add(batch(2000, [(0, 1500, 1), (0, 1520, 1)], since_ns=SECOND, sent=[(0, 100 * MS)], ended=[ended(0, 1530)]))
    assert part.tick(2 * SECOND).stats.tok_s_per_user is None
    uncounted = LiveWindow(1.0)
    chunks = [(0, 100, -1), (0, 150, -1), (1, 200, 1), (1, 210, 2)]
    rows = [ended(0, 160, output_tokens=None), ended(1, 220)]
    uncounted.add(batch(1000, chunks, sent=[(0, 0), (1, 0)], ended=rows))
    assert uncounted.tick(SECOND).stats.tok_s_per_user is None


def test_a_lost_batch_makes_rates_unknown_and_no_false_gap():
    window = LiveWindow(1.0)
    window.add(batch(500, [(0, 400, 1), (0, 420, 1)], sent=[(0, 300 * MS)]))
    window.add(batch(1500, [(0, 1400, 1), (0, 1430, 1), (9, 1450, 1)], lost=2))
    stats = window.tick(1500 * MS).stats
    assert (stats.lost, stats.output_tok_s, stats.sent_hz, stats.goodput_hz) == (2, None, None, None)
    assert (stats.gaps, stats.itl_p50_s, stats.requests) == (1, pytest.approx(0.03), 0)
    window.add(batch(2600, [(0, 2550, 1)], lost=2))
    assert window.tick(2600 * MS).stats.output_tok_s == 1


def test_uncounted_chunks_leave_token_rates_unknown():
    window = LiveWindow(1.0)
    window.add(batch(1000, [(0, 100, -1), (0, 150, -1)], sent=[(0, 0)]))
    stats = window.tick(SECOND).stats
    assert (stats.requests, stats.gaps, stats.output_tok_s, stats.itl_p50_s) == (1, 1, None, None)


def test_goodput_follows_the_slo_from_the_schedule_in_open_loop_and_from_the_send_in_closed():
    for closed_loop, good in (([], 0.0), ([0], 1.0)):
        window = LiveWindow(1.0, slo=Slo(ttft_s=0.1, tpot_s=None))
        rows = [ended(0, 900, sent_ns=500 * MS)]
        window.add(batch(1000, [(0, 550, 1)], sent=[(0, 500 * MS)], ended=rows, closed_loop=closed_loop))
        assert window.tick(SECOND).stats.goodput_hz == good


def test_dots_are_the_slowest_few_beyond_the_limit_and_told_once():
    window = LiveWindow(5.0, slo=Slo(ttft_s=1, tpot_s=0.05), origin_ns=SECOND)
    slow = [(n, 1000 + 40 + n, 1) for n in range(20)]
    window.add(batch(2000, [(n, 1000, 1) for n in range(20)] + slow, sent=[(n, 990 * MS) for n in range(20)]))
    ticked = window.tick(2 * SECOND)
    assert ticked.slow_ttft == ()
    assert [(dot.request, dot.value_s, dot.t_s) for dot in ticked.slow_itl] == [
        (n, pytest.approx((40 + n) / 1e3), pytest.approx((40 + n) / 1e3)) for n in (19, 18, 17, 16)
    ]
    assert window.tick(2100 * MS).slow_itl == ()


def test_where_nothing_else_says_what_is_slow_a_first_token_is_that_takes_twice_the_usual():
    def told(ttfts_ms: list[int], slo: Slo, *, every_ms: int = 700) -> list[int]:
        """The requests that became dots, at a tick a request."""
        window, found = LiveWindow(5.0, slo=slo), []
        for number, ttft_ms in enumerate(ttfts_ms):
            at_ms = (number + 1) * every_ms
            sent = [(number, (at_ms - ttft_ms) * MS)]
            window.add(batch(at_ms + 1, [(number, at_ms, 1)], sent=sent, ended=[ended(number, at_ms + 1)], oldest=number + 1))
            found += [dot.request for dot in window.tick((at_ms + 1) * MS).slow_ttft]
        return found

    ttfts_ms = [100, 105, 95, 110, 100, 190, 300, 100, 120, 90, 500, 100]
    no_limit = Slo(ttft_s=None, tpot_s=None)
    assert told(ttfts_ms, no_limit) == [6, 10]
    assert told(ttfts_ms, no_limit, every_ms=6000) == [6, 10], "with one request in the window, too"
    assert told([100, 105, 300, 110], no_limit) == [], "of so few nothing is known to be usual"
    assert told([100 + n for n in range(40)], no_limit) == [], "what is usual is no dot"
    assert told(ttfts_ms, Slo(ttft_s=0.4, tpot_s=None)) == [10], "an SLO says it by itself"
    assert told([100] * 8 + [300] * 12, no_limit, every_ms=10_000) == [8, 9], "the median is of the last minute"


def test_the_horizon_is_what_every_running_shard_has_told():
    window = LiveWindow()
    assert window.horizon_ns(10 * SECOND) == 10 * SECOND
    window.add(batch(9800))
    window.add(batch(9500, shard=1))
    assert window.horizon_ns(10 * SECOND) == 9500 * MS
    assert window.horizon_ns(20 * SECOND) == 18 * SECOND  # a shard that hangs is not waited for
    window.add(batch(9600, shard=1, running=False))
    assert window.horizon_ns(10 * SECOND) == 9800 * MS
    window.tick(9900 * MS)
    assert window.horizon_ns(10 * SECOND) == 9900 * MS  # it never goes back


def test_memory_is_that_of_the_window_and_of_what_is_under_way():
    window = LiveWindow(1.0)
    for number in range(200):
        at = number * 100
        rows = [(number, at + 10, 1), (number, at + 20, 1)]
        done = [ended(number, at + 30)] if number % 2 else []  # the end of every other request is lost
        window.add(batch(at + 100, rows, sent=[(number, at * MS)], ended=done, oldest=number + 1, in_flight=0))
        window.tick((at + 100) * MS)
    assert len(window._open) == 0
    for trail in (window._sent, window._chunks, window._firsts, window._ends):
        assert len(trail._parts) <= 11


def test_the_tails_of_now_are_of_what_happened_since_and_go_back_a_minute():
    window = LiveWindow(1.0)
    window.add(
        batch(4_000, [(0, 1_100, 1), (0, 1_130, 2), (1, 3_200, 1), (1, 3_250, 1)], sent=[(0, 1_050 * MS), (1, 3_000 * MS)])
    )
    window.tick(4 * SECOND)
    tails = window.tails(0)
    assert {name: tail.n for name, tail in tails.items()} == {"ttft": 2, "itl": 3}, "a second token of a chunk waited for nothing"
    assert tails["ttft"].value_s[0] <= 0.05 < tails["ttft"].value_s[-1] <= 0.2
    since = window.tails(2 * SECOND)
    assert {name: tail.n for name, tail in since.items()} == {"ttft": 1, "itl": 1}
    window.add(batch(5_000, [(1, 4_300, -1)]))
    window.tick(5 * SECOND)
    assert set(window.tails(2 * SECOND)) == {"ttft"}, "a chunk may have held any number of tokens"
