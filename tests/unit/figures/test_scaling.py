from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from labkit.experiments.load_step import LoadStep, Shift, load_step
from labkit.experiments.scaling import Scaling, scaling, scaling_axes
from labkit.figures import draw_scaling
from labkit.figures.draw import export
from labkit.figures.load_step import load_step_figure
from labkit.figures.marks import Line, Panel, VLine, VSpan
from labkit.figures.scaling import scaling_figure
from labkit.spec import Slo
from tests.support.queues import queued, stepped
from tests.support.saved_runs import saved_run


@pytest.fixture(scope="module")
def found() -> Scaling:
    records, manifest = queued(("1P1D", "2P1D", "1P2D"), shared=0.2, repeats=3)
    return scaling(records, scaling_axes(3), slo=Slo(ttft_s=0.5), manifest=manifest, resamples=50)


@pytest.fixture(scope="module")
def step() -> LoadStep:
    shifts = (Shift(0, "2P2D", 15.0, 1.5, 2.0), Shift(0, "1P3D", 40.0, 1.0, 1.0))
    return load_step(stepped(), (15.0, 40.0), ("1P3D", "2P2D"), slo=Slo(ttft_s=0.8), shifts=shifts, bucket_s=5.0, resamples=50)


def curves(panel: Panel) -> dict[str, list[float]]:
    return {mark.label: mark.y.tolist() for mark in panel.marks if isinstance(mark, Line) and mark.label}


def test_each_column_varies_one_role_and_both_have_one_scale(found: Scaling):
    figure = scaling_figure(found, caption="here")
    ttft_x, ttft_y, itl_x, *_ = figure.panels
    assert ttft_x.x_ticks == ((1.0, "1 (1P1D)"), (2.0, "2 (2P1D)"))
    assert ttft_y.x_ticks == ((1.0, "1 (1P1D)"), (2.0, "2 (1P2D)"))
    assert ttft_x.y_range == ttft_y.y_range
    base = found.point("1P1D").figures["ttft_p50_s"].value
    assert base is not None
    assert curves(ttft_x)["p50"][0] == curves(ttft_y)["p50"][0] == pytest.approx(base * 1e3)
    assert curves(itl_x)["p50"][1] > curves(itl_x)["p50"][0], "they share cores"
    assert figure.title == "Independent scaling: not reproduced"
    assert "share core" in figure.warnings[0]


def test_the_step_is_shaded_and_switches_are_marked_where_requests_went_elsewhere(step: LoadStep):
    sent, share, goodput = load_step_figure(step).panels
    for panel in (sent, share, goodput):
        assert [(mark.x0, mark.x1) for mark in panel.marks if isinstance(mark, VSpan)] == [(15.0, 40.0)]
        assert [mark.x for mark in panel.marks if isinstance(mark, VLine)] == [16.5, 41.0]
    lines = curves(goodput)
    assert set(lines) == {"1P3D stays", "1P3D → 2P2D → 1P3D"}
    assert lines["1P3D stays"][::2] == [bucket.goodput_hz for bucket in step.courses["stays"]]
    assert np.nanmax(curves(share)["1P3D → 2P2D → 1P3D"]) <= 100
    assert len(curves(sent)) == 1, "both were sent the same"


@pytest.mark.parametrize("kind", ["png", "html"])
def test_both_faces_draw_them(found: Scaling, step: LoadStep, kind: str, tmp_path: Path):
    for figure in (scaling_figure(found, caption="here"), load_step_figure(step, caption="here")):
        assert export(figure, tmp_path / f"{figure.name}.{kind}").stat().st_size > 5_000


def test_files_lie_in_the_folder_of_the_run(found: Scaling, step: LoadStep, tmp_path: Path):
    run = saved_run(tmp_path, "scaled")
    files = draw_scaling(run, found, step, formats=("svg",))
    assert [file.name for file in files] == ["scaling.svg", "load_step.svg"]
    assert [file.name for file in draw_scaling(run, found, formats=("svg",))] == ["scaling.svg"]
    assert {file.parent for file in files} == {run.path / "figures"}
