"""Prefill steps by a profile: what it holds, where larger steps no longer pay, and that nothing of it is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labkit.experiments import prefill_study
from labkit.experiments.prefill_profile import ProfileSteps
from labkit.experiments.prefill_study import study_prefill
from labkit.figures.show import draw_saturation
from labkit.lab.engines import ENGINES
from labkit.lab.presets import suggest_sweep
from labkit.serve.engines.base import EngineOptions
from labkit.serve.timing import save_timing
from tests.support.fake_engine import FakeEngine, fake_node
from tests.support.open_lab import OpenLab
from tests.support.profiles import handmade_profile


def test_the_smallest_step_that_is_nearly_as_good_as_the_best() -> None:
    found = ProfileSteps.of(handmade_profile(), [4096, 100, 8192, 1000, 1000, 20_000])
    assert [tokens for tokens, _ in found.steps] == [100, 1000, 4096, 8192], "no larger than the profile reaches"
    assert found.enough == 4096, "4096 / 419.6 ms is 98 % of 8192 / 829.2 ms, and 1000 / 110 ms is 92 %"
    said = str(found)
    assert said.startswith("Simulated, not measured")
    assert "a step of 4,096 tokens gives within 5% of the best" in said
    assert "110.0" in said
    growing = ProfileSteps.of(handmade_profile(), [10, 100])
    assert growing.enough is None
    assert "throughput still grows" in str(growing)


def test_a_study_of_simulated_workers_measures_nothing_and_says_why(
    open_lab: OpenLab, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(ENGINES, "mocker", lambda _: engine)
    monkeypatch.setattr(prefill_study, "sweep_prefill", lambda *_, **__: pytest.fail("nothing is to be measured"))
    options = EngineOptions(timing=save_timing([handmade_profile()], tmp_path / "timing"))
    with open_lab("1A", engine="mocker", options=options, node=fake_node(2)) as lab:
        study = study_prefill(lab, suggest_sweep(fake_node(2)).vary(isls=[32, 512]))
    assert (study.roofline, study.tried, study.saturation.knees) == (None, None, {})
    assert "send no spans" in study.advice
    assert "2,048" in str(study)
    assert study.keep(lab.run) is study
    drawn = draw_saturation(lab.run, study.saturation, study.roofline, study.tried, formats=("svg",))
    text = " ".join(re.findall(r">([^<]+)</text>", drawn[0].read_text()))
    assert "Simulated, not measured" in text
    assert "send no spans" in text
