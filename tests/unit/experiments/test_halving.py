from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import SpecError
from labkit.experiments.halving import Ask, Ranked, Rung, halve
from labkit.experiments.peak import Peak

RUNGS = (Rung(8, 0.5), Rung(16, 0.2), Rung(30, 0.1))
SPLITS = ("4A", "1P3D", "2P2D", "3P1D")


def run(truth: Mapping[str, float], rungs: tuple[Rung, ...] = RUNGS, noise: float = 0.0, seed: int = 0, **options: object):
    rng = random.Random(seed)
    asked: list[Ask[str]] = []
    search = halve(list(truth), rungs, first_rate=2.0, **options)  # type: ignore[arg-type]
    try:
        asked.append(next(search))
        while True:
            ask = asked[-1]
            asked.append(search.send(ask.rate <= truth[ask.candidate] * rng.lognormvariate(0, noise)))
    except StopIteration as stop:
        ranked: Ranked[str] = stop.value
        return ranked, asked


@given(st.lists(st.floats(0.5, 20), min_size=1, max_size=9))
def test_the_best_is_found_where_trials_do_not_lie(peaks: list[float]):
    truth = {f"c{number}": peak for number, peak in enumerate(peaks)}
    ranked, _ = run(truth)
    best, peak = ranked.best
    assert peak.served is not None
    assert peak.served <= truth[best] < (peak.failed or float("inf"))
    names = [best, *(one for one, _ in ranked.equal)]
    top = max(truth.values())
    assert any(truth[name] == top for name in names) or top < truth[best] * 1.5  # lost in the first round, by its width at most
    assert {one for one, _ in (*ranked.last, *ranked.dropped)} == set(truth)


def test_each_round_halves_and_takes_longer():
    _, asked = run(dict(zip(SPLITS, (3.0, 4.2, 5.1, 1.4), strict=True)))
    rounds = [{ask.candidate for ask in asked if ask.rung == number} for number in range(3)]
    assert rounds == [set(SPLITS), {"1P3D", "2P2D"}, {"2P2D"}]
    assert [{ask.seconds for ask in asked if ask.rung == number} for number in range(3)] == [{8}, {16}, {30}]


def test_the_best_of_each_kind_goes_on_whatever_its_rank():
    truth = dict(zip(SPLITS, (1.0, 4.2, 5.1, 9.0), strict=True))
    ranked, _ = run(truth, protected=[["4A"], SPLITS[1:]])
    assert [one for one, _ in ranked.last] == ["3P1D", "2P2D", "4A"]
    assert [one for one, _ in ranked.dropped] == ["1P3D"]
    assert "4A" not in [ask.candidate for ask in run(truth)[1] if ask.rung]


def test_whoever_served_as_much_as_the_last_to_go_on_goes_on_too():
    _, asked = run({"a": 4.2, "b": 4.3, "c": 4.4, "d": 1.0}, (Rung(8, 0.5), Rung(16, 0.02)))
    assert {ask.candidate for ask in asked if ask.rung} == {"a", "b", "c"}


def test_a_search_of_four_splits_takes_some_thirty_trials_and_finds_the_best_under_noise():
    truth = dict(zip(SPLITS, (3.0, 4.2, 5.6, 1.4), strict=True))
    found = [run(truth, noise=0.08, seed=seed, protected=[["4A"], SPLITS[1:]]) for seed in range(40)]
    assert max(len(asked) for _, asked in found) <= 40
    assert sum(sum(ask.seconds for ask in asked) for _, asked in found) / 40 <= 500
    assert sum(ranked.best[0] == "2P2D" for ranked, _ in found) >= 39


def test_candidates_whose_brackets_overlap_are_not_told_apart():
    assert [one for one, _ in run({"a": 4.0, "b": 4.1, "c": 1.0}, (Rung(8, 0.3),))[0].equal] != []
    assert run({"a": 4.0, "b": 9.0, "c": 1.0})[0].equal == ()


def test_where_nothing_serves_it_says_so():
    ranked, asked = run({"a": 0.001, "b": 0.001})
    assert ranked.best == ("a", Peak(None, 2.0 / 8))
    assert ranked.equal == ()
    assert [ask.rate for ask in asked if ask.rung] == [2.0 / 8] * 4


@pytest.mark.parametrize(("candidates", "rungs"), [([], RUNGS), (["a"], ())])
def test_there_must_be_something_to_search(candidates: list[str], rungs: tuple[Rung, ...]):
    with pytest.raises(SpecError, match="nothing to search"):
        next(halve(candidates, rungs, first_rate=1.0))
