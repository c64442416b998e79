"""ITL against overlapping prefill tokens as a figure: what it is made of, and what it says where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labkit.figures import export, figures_of, style
from labkit.figures.interference import interference, interference_figure
from labkit.figures.marks import Band, Dots, Figure, HLine, Line, Panel, Text
from labkit.measure.overlap import overlaps
from labkit.measure.records import SPANS
from tests.support.worlds import engine, heavy, scattered
from tests.unit.figures.conftest import Case

ISLS = (64, 512, 200, 900, 330, 128, 700, 420)


def lines(panel: Panel) -> dict[str, Line]:
    return {mark.label.split(":")[0]: mark for mark in panel.marks if isinstance(mark, Line) and mark.label}


def of(demo: Case) -> Figure:
    figure = interference(demo[2], {"slo": {"tpot_s": 0.05}})
    assert figure is not None
    return figure


def test_aggregated_gaps_grow_with_the_tokens_beside_them_and_a_decode_worker_says_why_not(demo: Case) -> None:
    figure = of(demo)
    worker, anywhere, *_ = figure.panels
    line = lines(worker)["2A"]
    assert line.x.tolist() == [0, 512]
    assert line.y[0] == pytest.approx(17, abs=2)
    assert line.y[1] > 300
    assert line.label.startswith("2A: +")
    assert line.label.endswith("]")
    nothing = lines(worker)["1P1D"]
    assert nothing.label == "1P1D: undefined"
    assert np.isnan(nothing.y).all()
    assert "1P1D: undefined on the same worker, dedicated decode workers never prefill." in figure.subtitle
    assert lines(anywhere)["1P1D"].y[1] < 25
    assert {line.color for line in lines(anywhere).values()} == {style.AGGREGATED, style.DISAGGREGATED}


def test_slo_count_of_gaps_and_price_are_there(demo: Case) -> None:
    figure = of(demo)
    worker, _, counts, _ = figure.panels
    assert [(mark.y, mark.text) for mark in worker.marks if isinstance(mark, HLine)] == [(50.0, "SLO 50 ms")]
    (slope,) = [mark.text for mark in worker.marks if isinstance(mark, Text)]
    assert slope.endswith("ms a gap per 1,000 tokens")
    (dots,) = [mark for mark in counts.marks if isinstance(mark, Dots)]
    (tips,) = [mark.tips for mark in worker.marks if isinstance(mark, Dots) and len(mark.tips) == 2]
    assert tips[0].startswith("2A · no prefill: p50 ")
    assert tips[1].startswith("2A · 512 prefill tokens: p50 ")
    assert f"{int(dots.y[1]):,} gaps" in tips[1]
    assert interference(demo[2], {}) is not None
    assert not [mark for panel in (interference(demo[2], {}) or figure).panels for mark in panel.marks if isinstance(mark, HLine)]


def test_an_effect_stands_above_what_shifted_prefills_show_and_none_within() -> None:
    worlds = {
        "effect": engine(1, 0.0, isls=ISLS, per_token_s=6e-4),
        "none": scattered(2, noise=heavy, streams=lambda _: 3, isls=ISLS),
    }
    found = overlaps({side: world.measured for side, world in worlds.items()})
    for side in worlds:
        figure = interference_figure({side: found[side]}, {side: style.AGGREGATED})
        (null,) = [
            mark for mark in figure.panels[0].marks if isinstance(mark, Band) and mark.color == style.QUEUE and not mark.label
        ]
        line = lines(figure.panels[0])[side]
        assert null.x.tolist() == line.x.tolist()
        assert np.mean(line.y[1:] > null.high[1:]) == (1.0 if side == "effect" else pytest.approx(0.0, abs=0.35))
        slopes = [mark for mark in figure.panels[0].marks if isinstance(mark, Text)]
        assert bool(slopes) == (side == "effect"), "no slope is drawn where none is shown"


def test_a_run_without_spans_has_none_and_one_of_decode_workers_alone_says_so(make: Callable[..., Case]) -> None:
    records, manifest, context, _ = make(("1P1D",), duration_s=30.0)
    figure = interference(context, manifest)
    assert figure is not None
    assert figure.panels[0].note == figure.panels[2].note.replace(
        "undefined", "undefined: dedicated decode workers never prefill"
    )
    assert lines(figure.panels[1])["1P1D"].label.startswith("1P1D: ")
    assert not figure.panels[1].note
    silent = replace(records, spans=SPANS.empty_table())
    assert "interference" not in [one.name for one in figures_of(silent, manifest)]
    assert [one.name for one in figures_of(records, manifest, only=("interference",))] == ["interference"]


@pytest.mark.parametrize("kind", ["png", "svg", "html"])
def test_both_faces_draw_it(demo: Case, kind: str, tmp_path: Path) -> None:
    file = export(of(demo), tmp_path / f"interference.{kind}")
    assert file.stat().st_size > 5_000
    if kind != "png":
        assert "overlapping prefill tokens" in file.read_text()
