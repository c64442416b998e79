"""A second opinion: how much of a split is simulated, what is said of it, and that it is kept; the simulation itself is e2e."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import ProjectionError, SpecError
from labkit.figures.draw import export
from labkit.figures.marks import Dots, HLine
from labkit.figures.second_opinion import second_opinion_figure
from labkit.spec import Slo, Topology
from labkit.whatif import (
    Calibration,
    Question,
    SecondOpinion,
    WhatIf,
    ask_whatif,
    calibrate,
    kept_opinion,
    project,
    second_opinion,
)
from labkit.whatif.projected import Projected
from labkit.whatif.second_opinion import Opinion, part_of, profiles_of
from tests.support.profiles import handmade_profile
from tests.support.projected import PROMPT_S, Law, decode_s
from tests.unit.whatif.test_calibration import TPOT, TTFT, measured

ONE = Opinion(
    topology="8A", simulated="4A", share=0.5, stretch=2.0, request_hz=4.0, requests=120, static_ttft_s=0.2, static_tpot_s=0.010,
    ttft_p50_s=0.25, ttft_p99_s=1.5, tpot_p50_s=0.012, tpot_p99_s=0.019, attained=0.93, run="r1", notes=("busy",),
)  # fmt: skip
OTHER = Opinion(
    topology="6P2D", simulated="6P2D", share=1.0, stretch=1.0, request_hz=9.0, requests=200, static_ttft_s=None,
    static_tpot_s=None, ttft_p50_s=0.3, ttft_p99_s=None, tpot_p50_s=0.011, tpot_p99_s=None, attained=1.0, run="r2",
)  # fmt: skip
SAID = "Projected by a law, not measured. Error on held-out runs. Aggregated: TTFT 9% mean, 12% worst of 4."
FOUND = SecondOpinion(0.8, Slo(ttft_s=1.0, tpot_s=0.02), (ONE, OTHER), said=SAID)


def projected(split: str, request_hz: float) -> Projected:
    topology = Topology(split)
    return Projected(topology, topology.accelerators, 64, 8, 0.3, 0.01, request_hz, 100)


@pytest.mark.parametrize(
    ("split", "request_hz", "part", "stretch"),
    [
        ("8A", 10.0, "8A", 1.0),
        ("8A", 120.0, "5A", 1.0),  # 9,600 tokens/s at 80 %, where 6,000 are carried with room to spare
        ("6P2D", 120.0, "3P1D", 1.0),  # in its own proportion
        ("5P2D", 120.0, "5P2D", 1.75),  # which this one has in no smaller size
    ],
)
def test_what_the_machine_carries_is_simulated_and_the_rest_scaled(
    split: str, request_hz: float, part: str, stretch: float
) -> None:
    found = part_of(projected(split, request_hz), 1000, 100, {1: handmade_profile()}, 2.0, 0.8)
    assert (str(found.topology), found.stretch) == (part, stretch)
    assert found.share == pytest.approx(Topology(part).accelerators / Topology(split).accelerators)


def test_a_worker_that_no_slow_motion_makes_small_enough_is_refused() -> None:
    with pytest.raises(ProjectionError, match="too many for this machine's 2 cores"):
        part_of(projected("1A", 1000.0), 1000, 100, {1: handmade_profile()}, 2.0, 0.8)


def calibrated(*splits: str) -> WhatIf:
    """Projected, and corrected by runs of a law with known factors."""
    runs = [measured(f"{split}{concurrency}", split, concurrency=concurrency) for split in splits for concurrency in (2, 30)]
    asked = Question.of("llama-3.1-8b", isl=2000, osl=100, claims=False, isls=[], models=[], tpots_s=[])
    return project(asked, Law().workers, calibrate(runs, Law().workers), tell=lambda text: None)


def test_the_factor_of_a_queue_does_not_lengthen_the_prefill_steps_that_requests_queue_for() -> None:
    found = calibrated("1P3D")
    assert isinstance(found.error, Calibration)
    assert found.error.factors["disaggregated"]["ttft"] == pytest.approx(TTFT), "fitted to 1.8 steps"
    assert found.disaggregated is not None
    profile = profiles_of(found, "disaggregated", found.disaggregated, Law())[1]
    assert profile.prefill(2048) == pytest.approx(2048 * PROMPT_S)
    assert profile.itl(16 * 2048, 2048) == pytest.approx(TPOT * decode_s(16, 1), rel=0.02)
    assert "Simulated prefill steps are not corrected" in profile.error


def test_steps_of_aggregated_workers_are_corrected_as_the_projection_is() -> None:
    found = calibrated("2A@tp2")
    assert found.aggregated is not None
    profile = profiles_of(found, "aggregated", found.aggregated, Law())[2]
    assert profile.prefill(2048) == pytest.approx(TTFT * 2048 * PROMPT_S / 2)
    assert profile.itl(16 * 2048, 2048) == pytest.approx(TPOT * decode_s(16, 2), rel=0.02)
    assert "not corrected" not in profile.error


def test_the_table_says_what_is_simulated_and_what_stands_for_it() -> None:
    said = str(FOUND)
    assert said.startswith("Second opinion, simulated and not measured: Poisson arrivals at 80%")
    assert f"Static estimate: p{SAID[1:]}" in " ".join(said.split())
    assert "8A is too large for this machine: 4A at the same load per worker instead." in said
    assert "8A ran 2 times slower" in said
    rows = {line[:22].strip(): line[22:].split("  ") for line in said.splitlines()}
    cells = [cell.strip() for cell in rows["TTFT, simulated p99"] if cell.strip()]
    assert cells == ["1.5 s", "–"], "too few requests for a p99 is no number"
    assert SecondOpinion.from_dict(FOUND.to_dict()) == FOUND


def test_the_figure_has_both_beside_each_other(tmp_path: Path) -> None:
    figure = second_opinion_figure(FOUND)
    assert figure is not None
    assert "not measured" in figure.subtitle
    assert "8A as 4A" in figure.subtitle
    assert figure.subtitle.endswith(SAID)
    ttft, tpot = figure.panels
    static = [mark for mark in ttft.marks if isinstance(mark, Dots) and mark.marker == "cross"]
    assert [float(mark.y[0]) for mark in static] == [200.0], "what the static estimate cannot take is no dot"
    assert [mark.y for mark in (*ttft.marks, *tpot.marks) if isinstance(mark, HLine)] == [1000.0, 20.0]
    for kind in ("png", "html"):
        assert export(figure, tmp_path / f"opinion.{kind}").stat().st_size > 5000
    assert second_opinion_figure(SecondOpinion(0.8, Slo(), ())) is None


def test_what_was_asked_for_0_seconds_is_kept_as_not_simulated(tmp_path: Path) -> None:
    asked = Question.of("llama-3.1-8b", isl=2000, osl=100, ttft_s=1.0, tpot_s=0.01, claims=False, isls=[], models=[], tpots_s=[])
    run, found = ask_whatif(asked, results=tmp_path, estimator=Law(), tell=lambda text: None)
    assert kept_opinion(run) is None
    opinion = second_opinion(run, found, seconds=0, estimator=Law())
    assert (opinion.sides, opinion.left_out) == ((), ("asked for 0 s",))
    assert kept_opinion(run) == opinion
    assert opinion.said == "Projected by a law, not measured. " + found.error.words
    run.update(second_opinion={key: value for key, value in opinion.to_dict().items() if key != "said"})
    assert kept_opinion(run) == opinion, "earlier labkits kept the error with the projection alone"
    assert "Not simulated: asked for 0 s." in run.manifest["answer"]
    unknown = {"disaggregated": "no disaggregated split was measured"}
    opinion = second_opinion(run, replace(found, aggregated=None, disaggregated=None, unknown=unknown), estimator=Law())
    assert opinion.left_out == (
        "aggregated: no split meets the SLO", "disaggregated: not projected, no disaggregated split was measured",
    )  # fmt: skip
    with pytest.raises(SpecError, match="is no share of the projected rate"):
        second_opinion(run, found, load=1.5)
