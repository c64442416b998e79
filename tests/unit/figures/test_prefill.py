"""Saturation and roofline as figures: what is drawn, and that both faces draw it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labkit.experiments.prefill_saturation import PrefillSaturation
from labkit.experiments.roofline import RooflineFound
from labkit.figures.draw import export
from labkit.figures.marks import Dots, Figure, Line, bounds
from labkit.figures.roofline import roofline_figure
from labkit.figures.saturation import saturation_figure
from tests.support.prefill import PEAKS, swept
from tests.unit.experiments.test_roofline import found as roofline


@pytest.fixture(scope="module")
def sweep() -> PrefillSaturation:
    return swept()


def marks(figure: Figure, panel: int, kind: type) -> list[object]:
    return [mark for mark in figure.panels[panel].marks if isinstance(mark, kind)]


def test_each_length_has_its_curve_plateau_and_knee(sweep: PrefillSaturation) -> None:
    figure = saturation_figure(sweep, caption="model demo")
    assert figure.panels[0].legend == ("ISL 16", "ISL 32", "ISL 128")
    crosses = [mark for mark in marks(figure, 0, Dots) if isinstance(mark, Dots) and mark.marker == "cross"]
    knees = [sweep.knees[isl].tokens for isl in (16, 32, 128)]
    assert [float(cross.x[0]) for cross in crosses] == [knee.estimate for knee in knees if knee]
    dashed = [mark for mark in marks(figure, 0, Line) if isinstance(mark, Line) and mark.dash == "dashed"]
    assert len(dashed) == 3
    assert "within 5% of the plateau" in figure.subtitle
    assert [panel.note for panel in figure.panels] == [""] * 4


def test_without_a_knee_the_panel_says_so(sweep: PrefillSaturation) -> None:
    none = replace(sweep.knee(16), tokens=None, prompts=None, ttft_s=None, plateau_tok_s=None)
    figure = saturation_figure(replace(sweep, knees={16: none, 32: replace(none, points=sweep.knee(32).points)}))
    assert figure.panels[2].note == "no prompt length saturates in the range that was swept"
    assert not [mark for mark in marks(figure, 0, Dots) if isinstance(mark, Dots) and mark.marker == "cross"]
    assert len(saturation_figure(replace(sweep, knees={16: none})).panels) == 2  # one length is no curve over lengths
    empty = saturation_figure(replace(sweep, knees={}, lacking={16: "no spans"}))
    assert "no spans" in empty.panels[0].note


def test_a_bound_beyond_the_range_ends_at_the_range(sweep: PrefillSaturation) -> None:
    knee = sweep.knee(16)
    assert knee.tokens is not None
    open_ended = replace(knee, tokens=replace(knee.tokens, high=np.inf))
    figure = saturation_figure(replace(sweep, knees={16: open_ended, 32: sweep.knee(32)}))
    assert all(np.isfinite(bounds(figure.panels[2])))


def test_the_roof_has_its_ridge_and_every_point_lies_below(sweep: PrefillSaturation) -> None:
    found = roofline()
    figure = roofline_figure(found)
    (roof,) = (mark for mark in marks(figure, 0, Line) if isinstance(mark, Line) and mark.label == "roof (measured)")
    assert roof.x[1] == PEAKS.ridge
    assert roof.y[1] == roof.y[2] == pytest.approx(PEAKS.flop_s / 1e9)
    drawn = [mark for mark in marks(figure, 0, Dots) if isinstance(mark, Dots)]
    assert sum(len(mark.x) for mark in drawn) == len(found.points)
    for mark in drawn:
        assert (mark.y <= np.minimum(mark.x * PEAKS.copy_bytes_s, PEAKS.flop_s) / 1e9).all()
    assert "Step times of prefill by the engine's own clock" in figure.subtitle
    assert "of decode by the client's gaps between tokens" in figure.subtitle
    nothing = roofline_figure(RooflineFound("demo", PEAKS, 1, (), False))
    assert [panel.note for panel in nothing.panels] == [
        "no steps were measured", "no prefill steps were measured", "no decode steps were measured",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["png", "html"])
def test_both_faces_draw_them(sweep: PrefillSaturation, tmp_path: Path, kind: str) -> None:
    for figure in (saturation_figure(sweep), roofline_figure(roofline())):
        assert export(figure, tmp_path / f"{figure.name}.{kind}").stat().st_size > 10_000
