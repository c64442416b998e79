"""Points on a Pareto chart: each with its intervals, and the frontier joins those that no other beats."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from labkit.experiments.candidates import Candidate
from labkit.experiments.halving import Ranked
from labkit.experiments.peak import Peak
from labkit.experiments.points import points_of_trials
from labkit.experiments.split_search import SplitSearch
from labkit.experiments.trials import Trial, side_of_trial
from labkit.figures import draw_search
from labkit.figures.draw import export
from labkit.figures.marks import Dots, Figure, Line, Panel
from labkit.figures.pins import pins_figure
from labkit.live.pin import Estimate, Pin
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Slo, Topology
from tests.support.saved_runs import saved_run

RATE = 1.5
Ends = tuple[float, float, float, float]


def pin(topology: str, per_user: Estimate, per_accelerator: Estimate, ttft: Estimate) -> Pin:
    metrics = {"tok_s_per_user": per_user, "output_tok_s_per_accelerator": per_accelerator, "ttft_p50_s": ttft}
    return Pin(topology, topology, "1.5 req/s", "a-run", "0", 0.0, 30.0, metrics)


def whiskers(panel: Panel) -> set[Ends]:
    """From where to where each interval is drawn: x, x, y, y."""
    lines = [mark for mark in panel.marks if isinstance(mark, Line) and mark.dash != "dashed"]
    return {(*map(float, line.x), *map(float, line.y)) for line in lines}


def of(pins: list[Pin], metric: str, scale: float) -> set[Ends]:
    """What a panel has to draw, both ways through every point."""
    found: set[Ends] = set()
    for one in pins:
        x, y = one.metrics[metric], one.metrics["output_tok_s_per_accelerator"]
        assert None not in (x.low, x.high, y.low, y.high)
        found.add((x.low * scale, x.high * scale, y.value, y.value))  # type: ignore[operator]
        found.add((x.value * scale, x.value * scale, y.low, y.high))  # type: ignore[arg-type]
    return found


def test_each_point_has_both_intervals_and_the_frontier_leaves_out_what_is_beaten() -> None:
    good = pin("2A", Estimate(20.0, 18.0, 23.0), Estimate(30.0, 28.0, 33.0), Estimate(0.4, 0.3, 0.6))
    fast = pin("1P1D", Estimate(40.0, 35.0, 44.0), Estimate(20.0, 19.0, 22.0), Estimate(0.2, 0.1, 0.3))
    beaten = pin("4A", Estimate(10.0, 9.0, 12.0), Estimate(15.0, 14.0, 16.0), Estimate(0.9, 0.8, 1.1))
    users, first = pins_figure([good, fast, beaten], accelerator="core").panels
    assert whiskers(users) == of([good, fast, beaten], "tok_s_per_user", 1.0)
    assert whiskers(first) == of([good, fast, beaten], "ttft_p50_s", 1e3)
    for panel, x in ((users, [20.0, 40.0]), (first, [200.0, 400.0])):
        (edge,) = [mark for mark in panel.marks if isinstance(mark, Line) and mark.dash == "dashed"]
        assert sorted(edge.x.tolist()) == x
        assert panel.y_label == "output tok/s per core"


def test_an_interval_that_is_not_known_is_not_drawn() -> None:
    point = pin("2A", Estimate(20.0), Estimate(30.0, 28.0, 33.0), Estimate(0.4))
    users, _ = pins_figure([point], accelerator="GPU").panels
    assert whiskers(users) == {(20.0, 20.0, 28.0, 33.0)}


def trial(topology: str, served: bool, run: str) -> Trial:
    return Trial(
        key="k", candidate=topology, rate=RATE, seconds=30.0, rung=0, served=served, attainment=1.0, goodput_hz=RATE,
        requests=40, stopped="", run=run, measurement=0,
    )  # fmt: skip


def test_a_search_draws_what_was_served_with_its_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved_run(tmp_path, "searched", ("2A", "1P1D", "1P2D"), duration_s=30.0, manifest={"kind": "search"})
    for window in run.windows:
        run.add_window(replace(window, side=side_of_trial(window.side, RATE)))
    trials = (trial("2A", True, run.id), trial("1P1D", True, run.id), trial("1P2D", False, run.id))
    ranked = Ranked(tuple((Candidate(Topology(one.candidate)), Peak(RATE, 2.0)) for one in trials), ())
    found = SplitSearch(ranked, trials, Slo(), 0.9, 2, "core", "demo", EngineOptions())
    drawn: dict[str, Figure] = {}

    def noted(figure: Figure, path: Path) -> Path:
        drawn[figure.name] = figure
        return export(figure, path)

    monkeypatch.setattr(import_module("labkit.figures.show"), "export", noted)  # its name is that of a function, too
    files = draw_search(run, found, formats=("svg",))
    assert {path.name for path in files} == {"search.svg", "search_pareto.svg"}
    points = points_of_trials(trials, run.path.parent)
    assert [point.topology for point in points] == ["2A", "1P1D"]
    users, first = drawn["search_pareto"].panels
    assert {mark.label for mark in users.marks if isinstance(mark, Dots)} == {"2A", "1P1D"}
    assert whiskers(users) == of(points, "tok_s_per_user", 1.0)
    ttft = "ttft_p99_s" if "p99" in first.x_label else "ttft_p50_s"
    assert whiskers(first) == of(points, ttft, 1e3)
