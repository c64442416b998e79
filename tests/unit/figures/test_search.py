from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labkit.experiments.candidates import Candidate
from labkit.experiments.halving import Ranked
from labkit.experiments.peak import Peak
from labkit.experiments.split_search import SplitSearch
from labkit.experiments.trials import Trial
from labkit.figures.draw import export
from labkit.figures.marks import Dots, Rects
from labkit.figures.search import search_figure
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Slo, Topology


def trial(candidate: Candidate, rate: float, served: bool, rung: int = 0) -> Trial:
    return Trial(
        key="k", candidate=str(candidate), rate=rate, seconds=8.0, rung=rung, served=served, attainment=1.0 if served else 0.2,
        goodput_hz=rate, requests=40, stopped="", run="a-run", measurement=0,
    )  # fmt: skip


@pytest.fixture
def found() -> SplitSearch:
    a, b, c = Candidate(Topology("1P1D")), Candidate(Topology("2A"), 512), Candidate(Topology("2A"))
    trials = (
        trial(a, 2.0, True),
        trial(a, 4.0, False),
        trial(a, 3.0, True, 1),
        trial(b, 2.0, True),
        trial(b, 4.0, False),
        trial(c, 2.0, False),
    )
    ranked = Ranked(((a, Peak(3.0, 4.0)), (b, Peak(2.0, 4.0))), ((c, Peak(None, 2.0)),))
    return SplitSearch(ranked, trials, Slo(), 0.9, 2, "core", "demo", EngineOptions())


def test_every_trial_is_a_dot_in_the_row_of_its_split(found: SplitSearch):
    (panel,) = search_figure(found).panels
    dots = {mark.label: mark for mark in panel.marks if isinstance(mark, Dots)}
    assert dots["served"].x.tolist() == [2.0, 3.0, 2.0]
    assert dots["not served"].x.tolist() == [4.0, 4.0, 2.0]
    assert np.rint(dots["not served"].y).tolist() == [0.0, -1.0, -2.0]
    assert dots["served"].y[0] > 0 > dots["served"].y[1], "the first round above the second"
    assert "round 2 of 2, run a-run" in dots["served"].tips[1]


def test_the_bracket_reaches_from_what_was_served_to_what_was_not(found: SplitSearch):
    (panel,) = search_figure(found).panels
    boxes = [mark for mark in panel.marks if isinstance(mark, Rects)]
    assert [(mark.x0[0], mark.x1[0]) for mark in boxes] == [(3.0, 4.0), (2.0, 4.0)]
    assert panel.y_ticks is not None
    assert panel.y_ticks_right is not None
    assert [name for _, name in panel.y_ticks] == ["1P1D", "2A (chunks of 512)", "2A"]
    assert [text for _, text in panel.y_ticks_right] == ["3 req/s (not 4)", "2 req/s (not 4)", "below 2 req/s"]
    assert panel.x_ticks is not None
    assert {text for _, text in panel.x_ticks} >= {"2", "3"}


@pytest.mark.parametrize("kind", ["png", "html"])
def test_it_is_drawn_and_without_trials_says_so(found: SplitSearch, kind: str, tmp_path: Path):
    assert export(search_figure(found, caption="here"), tmp_path / f"search.{kind}").stat().st_size > 5_000
    empty = SplitSearch(Ranked(((Candidate(Topology("2A")), Peak()),)), (), Slo(), 0.9, 2, "core", "demo", EngineOptions())
    assert search_figure(empty).panels[0].note == "no trial was made"
