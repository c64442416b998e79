"""Splits composed of workers: held against every split there is, by brute force."""

from __future__ import annotations

import pytest

from labkit.errors import InfeasibleSlo, SpecError
from labkit.spec import Role, Slo, Topology
from labkit.whatif.projected import (
    DECODE_SHARE,
    PREFILL_SHARE,
    TTFT_WAIT,
    best,
    deployment,
    frontier,
    missed_by,
    nearest,
    require,
)
from labkit.whatif.workers import Workers
from tests.support.projected import PROMPT_S, Law, decode_s, setting

LIMITS = [Slo(ttft_s=ttft, tpot_s=tpot) for ttft in (0.05, 0.15, 0.5, None) for tpot in (0.002, 0.004, 0.008, None)]


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Law().workers(setting())


def most_by_hand(workers: Workers, gpus: int, slo: Slo) -> float:
    """Requests a second of the best xPyD, every x and y of every pair of workers tried."""
    most = 0.0
    for p in workers.of(Role.PREFILL):
        for d in workers.of(Role.DECODE):
            if (slo.ttft_s and p.ttft_s * TTFT_WAIT > slo.ttft_s) or (slo.tpot_s and d.tpot_s > slo.tpot_s):
                continue
            for x in range(1, gpus // p.tp + 1):
                y = (gpus - x * p.tp) // d.tp
                if y:
                    most = max(most, min(x * p.request_hz * PREFILL_SHARE, y * d.request_hz * DECODE_SHARE))
    return most


@pytest.mark.parametrize("gpus", [2, 3, 7, 8, 16, 33])
@pytest.mark.parametrize("slo", LIMITS, ids=str)
def test_the_best_disaggregated_split_is_the_best_of_all(workers: Workers, gpus: int, slo: Slo):
    found, most = best(workers, gpus, slo, disaggregated=True), most_by_hand(workers, gpus, slo)
    assert (found is None) == (most == 0)
    if found is not None:
        assert found.request_hz == pytest.approx(most)
        assert found.topology.accelerators <= gpus
        assert missed_by(found, slo) == 1


@pytest.mark.parametrize("gpus", [1, 3, 8, 1000])
def test_the_best_aggregated_split_fills_the_gpus_and_counts_those_that_idle(workers: Workers, gpus: int):
    slo = Slo(ttft_s=None, tpot_s=0.004)
    found = best(workers, gpus, slo, disaggregated=False)
    by_hand = [point.request_hz * (gpus // point.tp) for point in workers.of(Role.AGGREGATED) if point.tpot_s <= 0.004]
    if gpus == 1:
        assert found is None, "no worker of one GPU is so fast"
        return
    assert found is not None
    assert found.request_hz == pytest.approx(max(by_hand))
    assert found.tok_s_per_gpu == pytest.approx(found.request_hz * 100 / gpus)


def test_decode_workers_hold_no_more_than_prefill_workers_hand_on(workers: Workers):
    found = best(workers, 8, Slo(ttft_s=1.0, tpot_s=0.010), disaggregated=True)
    assert found is not None
    (d,) = [group for group in found.topology.groups if group.role is Role.DECODE]
    fewer = [p for p in workers.of(Role.DECODE, (d.tp,)) if p.batch < found.batch]
    assert all(p.request_hz * d.count * DECODE_SHARE < found.request_hz for p in fewer)


def test_a_named_split_is_projected_from_its_own_workers(workers: Workers):
    found = deployment(workers, Topology("1P@tp4+1D@tp4"), Slo(ttft_s=None, tpot_s=None))
    assert found is not None
    rate = min(PREFILL_SHARE / (2000 * PROMPT_S / 4), DECODE_SHARE * 128 / (100 * decode_s(128, 4)))
    assert found.request_hz == pytest.approx(rate)
    assert found.ttft_s == pytest.approx(TTFT_WAIT * 2000 * PROMPT_S / 4)
    assert deployment(workers, Topology("1P@tp4+1D@tp4"), Slo(ttft_s=0.01)) is None
    with pytest.raises(SpecError, match="different TP"):
        deployment(workers, Topology("1A@tp4+1A@tp2"), Slo())


def test_a_frontier_falls_and_keeps_the_limit_of_ttft(workers: Workers):
    for kind in (False, True):
        found = frontier(workers, 8, Slo(ttft_s=0.1, tpot_s=None), disaggregated=kind)
        assert len(found) > 3
        assert all(one.ttft_s <= 0.1 and one.topology.is_disaggregated == kind for one in found)
        users, gpus = [one.tok_s_per_user for one in found], [one.tok_s_per_gpu for one in found]
        assert users == sorted(users)
        assert gpus == sorted(gpus, reverse=True)


def test_an_slo_that_nothing_meets_names_the_nearest(workers: Workers):
    slo = Slo(ttft_s=0.001, tpot_s=0.002)
    with pytest.raises(InfeasibleSlo) as raised:
        require(workers, 8, slo)
    near = nearest(workers, 8, slo, disaggregated=False)
    assert near is not None
    assert str(near.topology) == "1A@tp8"
    assert f"nearest: {near}" in raised.value.remedy
    assert "no split of 8 GPUs meets TTFT ≤ 1 ms" in raised.value.what
    assert missed_by(near, slo) == pytest.approx(near.ttft_s / 0.001)


def test_one_kind_may_meet_what_the_other_cannot(workers: Workers):
    a, d = require(workers, 8, Slo(ttft_s=0.08, tpot_s=0.010))
    assert a is not None
    assert d is not None
    a, d = require(workers, 1, Slo(ttft_s=None, tpot_s=0.010))
    assert a is not None
    assert d is None, "one GPU has no room for two workers"


@pytest.mark.parametrize("gpus", [0, -1, 1001, 2.5, True])
def test_a_number_of_gpus_that_cannot_be_meant_is_refused(workers: Workers, gpus: object):
    with pytest.raises(SpecError, match="cannot be projected"):
        best(workers, gpus, Slo(), disaggregated=True)  # type: ignore[arg-type]


def test_everything_that_is_written_down_says_that_it_is_projected(workers: Workers):
    found = best(workers, 8, Slo(), disaggregated=True)
    assert found is not None
    assert found.to_dict()["projected"] is True
    assert "projected" in str(found)
