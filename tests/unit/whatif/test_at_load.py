"""A split under a given load: Little's law holds, and what prefill cannot take waits."""

from __future__ import annotations

import pytest

from labkit.spec import Role, Topology
from labkit.whatif.at_load import at_load
from labkit.whatif.projected import DECODE_SHARE, PREFILL_SHARE, TTFT_WAIT
from tests.support.projected import PROMPT_S, Law, decode_s, setting

WORKERS = Law().workers(setting())


def test_aggregated_workers_share_what_is_in_flight():
    found = at_load(WORKERS, Topology("2A@tp2"), concurrency=16)
    (point,) = [p for p in WORKERS.of(Role.AGGREGATED, (2,)) if p.batch == 8]
    assert found is not None
    assert (found.batch, found.tpot_s, found.request_hz) == pytest.approx((8, point.tpot_s, 2 * point.request_hz))


def test_a_rate_gives_the_batch_that_completes_it():
    (point,) = [p for p in WORKERS.of(Role.AGGREGATED, (2,)) if p.batch == 16]
    found = at_load(WORKERS, Topology("3A@tp2"), rate_hz=3 * point.request_hz)
    assert found is not None
    assert (found.batch, found.tpot_s) == pytest.approx((16, point.tpot_s))


def test_what_is_in_flight_is_rate_times_time():
    rate = 2 * DECODE_SHARE * 4 / (100 * decode_s(4, 1))
    ttft_s = TTFT_WAIT * 2000 * PROMPT_S
    found = at_load(WORKERS, Topology("4P2D"), concurrency=rate * (ttft_s + 99 * decode_s(4, 1)))
    assert found is not None
    assert (found.request_hz, found.ttft_s, found.tpot_s) == pytest.approx((rate, ttft_s, decode_s(4, 1)))


def test_beyond_what_prefill_takes_the_rate_stays_and_the_wait_grows():
    most = PREFILL_SHARE / (2000 * PROMPT_S)
    some, more = (at_load(WORKERS, Topology("1P3D"), concurrency=c) for c in (30, 60))
    assert some is not None
    assert more is not None
    assert some.request_hz == pytest.approx(most)
    assert more.request_hz == pytest.approx(most)
    assert (more.ttft_s - some.ttft_s) * most == pytest.approx(30), "all that is added waits"


def test_more_than_a_split_can_take_and_workers_that_nobody_projected_are_none():
    assert at_load(WORKERS, Topology("1A"), rate_hz=1e6) is None
    assert at_load(WORKERS, Topology("1A@tp16"), concurrency=1) is None
