"""Maps of where disaggregation wins, and the claims recomputed, under a known law."""

from __future__ import annotations

import pytest

from labkit.errors import ProjectionError
from labkit.spec import Slo
from labkit.whatif.claimed import claimed_places
from labkit.whatif.winning import EVEN, Duel, duel, map_of_lengths, map_of_limits, map_of_models
from labkit.whatif.workers import Setting, Workers
from tests.support.projected import Law, setting


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
    assert [one.winner for one in models.duels[:2]] == ["neither", "neither"]


def test_every_claim_is_held_against_its_own_number():
    places = claimed_places(Law().workers, ttfts_s=(0.2, 1.0), tpots_s=(0.004, 0.010))
    counts = {claim: sum(one.claim == claim for one in places) for claim in ("one_node", "two_nodes", "gpt_oss", "large_models")}
    assert counts == {"one_node": 4, "two_nodes": 4, "gpt_oss": 12, "large_models": 4}
    for one in places:
        gain = Duel("", "", one.aggregated, one.disaggregated).gain
        if one.claim in ("one_node", "two_nodes") and gain is not None:
            assert one.holds == (gain >= {"one_node": 1.3, "two_nodes": 2.0}[one.claim])
        if one.claim == "large_models":
            assert one.holds is False, "the law knows no size: the gain is the same"
        assert one.to_dict()["projected"] is True
        assert "projected" in one.words
        assert str(one.slo) in one.where
    split = [one for one in places if one.claim == "gpt_oss"]
    assert {str(one.disaggregated.topology) for one in split if one.disaggregated} == {"1P@tp4+1D@tp4"}
    assert {str(one.aggregated.topology) for one in split if one.aggregated} == {"1A@tp8", "2A@tp4", "8A"}


def test_a_claim_whose_kind_cannot_meet_the_limits_does_not_hold():
    (place, *_) = claimed_places(Law(tps=(8,)).workers, ttfts_s=(1.0,), tpots_s=(0.010,))
    assert place.claim == "one_node"
    assert place.disaggregated is None, "one worker of eight GPUs leaves none for another"
    assert place.holds is False
    assert place.short == "A only"
