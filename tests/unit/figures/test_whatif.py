"""Figures of a what-if: every place has its box and its number, and what is projected is drawn dashed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labkit.figures.draw import export
from labkit.figures.marks import Dots, Figure, Line, Rects, Text
from labkit.figures.whatif import whatif_figures
from labkit.whatif import NoCalibration, Question, WhatIf, project
from tests.support.projected import Law


@pytest.fixture(scope="module")
def found() -> WhatIf:
    asked = Question.of(
        "llama-3.1-8b", isl=2000, osl=100, ttft_s=1.0, tpot_s=0.010, isls=[512, 8192], osls=[16, 512],
        ttfts_s=[0.01, 0.1, 1.0], tpots_s=[0.0005, 0.004, 0.010], models=["llama-3.1-8b"],
    )  # fmt: skip
    return project(asked, Law().workers, NoCalibration("a test"), tell=lambda text: None)


@pytest.fixture(scope="module")
def figures(found: WhatIf) -> dict[str, Figure]:
    return {figure.name: figure for figure in whatif_figures(found)}


def test_every_place_of_a_map_has_one_box_and_one_number(found: WhatIf, figures: dict[str, Figure]):
    (panel,) = figures["projected_limits"].panels
    boxes = [mark for mark in panel.marks if isinstance(mark, Rects)]
    centres = sorted((round(x + 0.48), round(y + 0.47)) for mark in boxes for x, y in zip(mark.x0, mark.y0, strict=True))
    assert centres == [(x, y) for x in range(3) for y in range(3)]
    words = {(mark.x, mark.y): mark.text for mark in panel.marks if isinstance(mark, Text)}
    for at, duel in enumerate(found.maps[0].duels):
        text = words[at % 3, at // 3]
        assert text == (f"{duel.gain:.2f}" if duel.gain is not None else {"aggregated": "A only"}.get(duel.winner, "–"))
    assert "–" in words.values(), "nothing is so fast as 0.5 ms"


def test_projected_lines_are_dashed_and_dots_tell_the_split(figures: dict[str, Figure]):
    for panel in (*figures["projected_frontiers"].panels, *figures["projected_claims"].panels):
        assert {mark.dash for mark in panel.marks if isinstance(mark, Line)} <= {"dashed", "dotted"}
        assert all("projected" in tip for mark in panel.marks if isinstance(mark, Dots) for tip in mark.tips)


def test_the_best_splits_stand_in_the_frontiers(found: WhatIf, figures: dict[str, Figure]):
    words = [mark.text for mark in figures["projected_frontiers"].panels[0].marks if isinstance(mark, Text)]
    assert found.aggregated is not None
    assert found.disaggregated is not None
    assert words == [str(found.aggregated.topology), str(found.disaggregated.topology)]


def test_a_place_with_a_kind_that_was_not_projected_has_no_winner(found: WhatIf):
    why = "no disaggregated split was measured"
    (first, *others) = found.maps
    unknown = tuple(replace(duel, disaggregated=None, unknown={"disaggregated": why}) for duel in first.duels)
    figures = whatif_figures(replace(found, maps=(replace(first, duels=unknown), *others)))
    (panel,) = next(figure for figure in figures if figure.name == "projected_limits").panels
    (boxes,) = [mark for mark in panel.marks if isinstance(mark, Rects)]
    assert boxes.label == "not projected"
    assert all(tip.endswith(f"disaggregated not projected: {why}") for tip in boxes.tips)
    assert {mark.text for mark in panel.marks if isinstance(mark, Text)} == {"?"}


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_both_faces_draw_them(figures: dict[str, Figure], tmp_path: Path, kind: str):
    for figure in figures.values():
        assert export(figure, tmp_path / f"{figure.name}.{kind}").stat().st_size > 5000
