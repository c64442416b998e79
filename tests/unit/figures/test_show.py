from __future__ import annotations

from pathlib import Path

import IPython.display
import pytest

from labkit.experiments import compare_sides
from labkit.figures import comparison_rows, draw_run, show
from labkit.store.run import Run
from tests.support.saved_runs import saved_run

NAMES = {"comparison", "distributions", "interference", "stages", "timeline", "workers", "transfer", "gantt"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return saved_run(tmp_path_factory.mktemp("results"), "shown")


def test_figures_land_in_the_folder_of_the_run(run: Run) -> None:
    comparison = compare_sides(run, resamples=50)
    paths = draw_run(run, comparison, formats=("svg",))
    assert {path.parent for path in paths} == {run.path / "figures"}
    assert {path.stem for path in paths} == NAMES
    assert {path.stem for path in draw_run(run, formats=("svg",))} == NAMES - {"comparison"}


def test_the_static_ones_are_displayed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[IPython.display.Image] = []
    monkeypatch.setattr(IPython.display, "display", seen.append)
    show(run, compare_sides(run, resamples=50))
    assert {Path(image.filename).stem for image in seen} == NAMES
    assert all(image.data.startswith(b"\x89PNG") for image in seen)
    for image in seen:  # the same scale for all of them, and pixels to spare for a dense screen
        assert image.width == round(int.from_bytes(image.data[16:20]) * 0.6)


def test_rows_of_the_plot_carry_the_units_of_the_screen(run: Run) -> None:
    comparison = compare_sides(run, resamples=50)
    rows = {row.name: row for row in comparison_rows(comparison)}
    tail, stalled = comparison.row("itl_p99_s"), comparison.row("stalled_fraction")
    assert tail.a is not None
    assert stalled.a is not None
    assert (rows[tail.label].a_value, rows[tail.label].unit) == (pytest.approx(tail.a * 1e3), "ms")
    assert (rows[stalled.label].a_value, rows[stalled.label].unit) == (pytest.approx(stalled.a * 100), "%")
    assert rows[tail.label].better == "lower"
    assert rows[comparison.row("output_tok_s").label].better == "higher"
