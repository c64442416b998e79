"""Maps of where disaggregation wins, and the claims recomputed, under a known law."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.errors import ProjectionError
from labkit.spec import Slo
from labkit.whatif.calibration import Calibration, calibrate
from labkit.whatif.claimed import _place, claimed_places
from labkit.whatif.winning import EVEN, WINNERS, Duel, duel, map_of_lengths, map_of_limits, map_of_models
from labkit.whatif.workers import Setting, Workers
from tests.support.projected import Law, setting
from tests.unit.whatif.test_calibration import TPOT, measured


def test_the_gain_is_of_the_best_of_each_kind():
    workers = Law().workers(setting())
    met = duel(workers, 8, Slo(ttft_s=1.0, tpot_s=0.004))
    assert met.aggregated is not None
    assert met.disaggregated is not None
    assert met.gain == pytest.approx(met.disaggregated.request_hz / met.aggregated.request_hz)
    assert met.winner == "aggregated"


@pytest.mark.parametrize(("factor", "winner"), [(EVEN + 0.01, "disaggregated"), (1.0, "even"), (1 / EVEN - 0.01, "aggregated")])
def test_a_small_gain_is_none(factor: float, winner: str):
    a = duel(Law().workers(setting()), 8, Slo()).aggregated
    assert a is not None
    d = type(a)(a.topology, a.gpus, a.concurrency, a.batch, a.ttft_s, a.tpot_s, a.request_hz * factor, a.osl)
    assert Duel("", "", a, d).winner == winner
    assert Duel("", "", a, None).winner == "aggregated"
    assert Duel("", "", None, None).winner == "neither"


def test_a_map_has_a_duel_in_each_place_row_by_row():
    law = Law()
    found = map_of_lengths(law.workers, setting(), 8, Slo(ttft_s=1.0, tpot_s=0.005), (512, 2048), (16, 64, 256))
    assert [(one.x, one.y) for one in found.duels] == [(x, y) for y in ("16", "64", "256") for x in ("512", "2048")]
    alone = duel(law.workers(setting(isl=2048, osl=64)), 8, Slo(ttft_s=1.0, tpot_s=0.005))
    assert found.duels[3].gain == alone.gain
    assert sum(found.count(kind) for kind in ("disaggregated", "aggregated", "even", "neither")) == 6
    limits = map_of_limits(law.workers(setting()), 8, (0.05, 0.5), (0.002, 0.005, 0.010))
    assert limits.xs == ("2", "5", "10")
    assert limits.ys == ("50", "500")
    assert limits.duels[5].gain == duel(law.workers(setting()), 8, Slo(ttft_s=0.5, tpot_s=0.010)).gain


def test_a_place_that_cannot_be_projected_says_why():
    def ask(one: Setting) -> Workers:
        if one.model == "gpt-oss-20b" or one.isl == 512:
            raise ProjectionError("no data", remedy="none")
        return Law().workers(one)

    lengths = map_of_lengths(ask, setting(), 8, Slo(), (512, 2048), (64,))
    assert [one.reason for one in lengths.duels] == ["no data", ""]
    models = map_of_models(ask, setting(), 8, Slo(), ("gpt-oss-20b", "llama-3.1-8b"), (0.005, 0.010))
    assert [one.reason for one in models.duels] == ["no data", "no data", "", ""]
    assert [one.winner for one in models.duels[:2]] == ["unknown", "unknown"], "which is not that no split meets the SLO"


AGGREGATED_ALONE = "no disaggregated split was measured"


@pytest.fixture(scope="module")
def one_kind() -> Calibration:
    """Fitted to aggregated splits of TP 2 with 2 to 50 requests in flight a worker, and to nothing else."""
    found = calibrate([measured("a", concurrency=4, isl=3000), measured("b", concurrency=100)], Law().workers)
    assert isinstance(found, Calibration)
    return replace(found, range=replace(found.range, osl={"aggregated": (100, 150)}))


def test_a_kind_that_was_not_measured_is_unknown_and_loses_nothing(one_kind: Calibration):
    workers = one_kind.applied(Law().workers(setting()))
    found = duel(workers, 8, Slo(ttft_s=1.0, tpot_s=0.010))
    assert found.aggregated is not None
    assert (found.disaggregated, found.winner) == (None, "unknown")
    assert found.unknown == {"disaggregated": AGGREGATED_ALONE}
    assert found.to_dict()["unknown"] == found.unknown
    limits = map_of_limits(workers, 8, (0.5, 1.0), (0.005, 0.010))
    assert limits.count("unknown") == 4
    assert sum(limits.count(winner) for winner in WINNERS) == 4


def test_a_kind_that_was_measured_elsewhere_is_unknown_where_there_would_be_a_split_within_the_limits(one_kind: Calibration):
    workers = one_kind.applied(Law().workers(setting()))
    other_tp = duel(workers, 8, Slo(ttft_s=1.0, tpot_s=0.020), tps=(4,))
    assert other_tp.aggregated is None
    told = "measured only with aggregated TP 2, ISL 2000 to 3000, OSL 100 to 150, 2 to 50 requests in flight a worker"
    assert told in other_tp.unknown["aggregated"]
    one_at_a_time = duel(workers, 8, Slo(ttft_s=1.0, tpot_s=TPOT * 0.0036), tps=(2,))
    assert "aggregated" in one_at_a_time.unknown, "a batch of 1, which was not measured, may be fast enough"
    beyond_all = duel(workers, 8, Slo(ttft_s=1.0, tpot_s=0.0001), tps=(2,))
    assert "aggregated" not in beyond_all.unknown, "no batch is so fast, measured or not"
    too_few = duel(workers, 1, Slo(ttft_s=1.0, tpot_s=0.010))
    assert "disaggregated" not in too_few.unknown, "one GPU is no disaggregated split, measured or not"


def test_a_claim_about_a_kind_that_was_not_measured_cannot_be_told(one_kind: Calibration):
    places = claimed_places(lambda asked: one_kind.applied(Law().workers(asked)), ttfts_s=(1.0,), tpots_s=(0.010,))
    assert {one.claim for one in places} == {"one_node", "two_nodes", "gpt_oss", "large_models"}
    for place in places:
        assert place.holds is None
        assert AGGREGATED_ALONE in place.unknown
        if place.claim == "one_node":
            assert place.short == "?"
            assert place.words.startswith(f"gain unknown (disaggregated not projected: {AGGREGATED_ALONE}): 4A@tp2")


def test_every_claim_is_held_against_its_own_number():
    places = claimed_places(Law().workers, ttfts_s=(0.2, 1.0), tpots_s=(0.004, 0.010))
    counts = {claim: sum(one.claim == claim for one in places) for claim in ("one_node", "two_nodes", "gpt_oss", "large_models")}
    assert counts == {"one_node": 4, "two_nodes": 4, "gpt_oss": 12, "large_models": 4}
    for one in places:
        gain = Duel("", "", one.aggregated, one.disaggregated).gain
        if one.claim in ("one_node", "two_nodes") and gain is not None:
            assert one.holds == (gain >= 1.3 if one.claim == "one_node" else gain > 2.0)
        if one.claim == "large_models":
            assert one.holds is False, "the law knows no size: the gain is the same"
        assert one.to_dict()["projected"] is True
        assert "projected" in one.words
        assert str(one.slo) in one.where
    split = [one for one in places if one.claim == "gpt_oss"]
    assert {str(one.disaggregated.topology) for one in split if one.disaggregated} == {"1P@tp4+1D@tp4"}
    assert {str(one.aggregated.topology) for one in split if one.aggregated} == {"1A@tp8", "2A@tp4", "8A"}


@pytest.mark.parametrize(
    ("claim", "promised", "exactly"), [("one_node", 1.3, True), ("two_nodes", 2.0, False), ("gpt_oss", 1.0, False)]
)
def test_at_least_holds_at_the_number_itself_and_more_than_does_not(claim: str, promised: float, exactly: bool):
    a = duel(Law().workers(setting()), 8, Slo()).aggregated
    assert a is not None
    a = replace(a, request_hz=1.0)
    for gain, holds in ((promised, exactly), (promised * 1.001, True), (promised * 0.999, False)):
        met = Duel("", "", a, replace(a, request_hz=gain))
        assert met.gain == pytest.approx(gain)
        assert _place(claim, setting(), Slo(), met, "").holds is holds, gain


def test_a_claim_whose_kind_cannot_meet_the_limits_does_not_hold():
    (place, *_) = claimed_places(Law(tps=(8,)).workers, ttfts_s=(1.0,), tpots_s=(0.010,))
    assert place.claim == "one_node"
    assert place.disaggregated is None, "one worker of eight GPUs leaves none for another"
    assert place.holds is False
    assert place.short == "A only"
