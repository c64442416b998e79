"""What is said of an answer: no gain that the errors of its kinds could make up, and no kind that nobody projected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.figures.whatif import whatif_figures
from labkit.spec import Slo
from labkit.whatif import Calibration, NoCalibration, Question, WhatIf, calibrate, project
from labkit.whatif.calibration import HeldOutError
from labkit.whatif.workers import Setting, Workers
from tests.support.projected import Law
from tests.unit.whatif.test_calibration import measured

ASKED = Question.of(
    "llama-3.1-8b", isl=2000, osl=100, gpus=4, isls=[], models=[], ttfts_s=[1.0], tpots_s=[0.010], claims=False
)  # fmt: skip


def answered(throughput: dict[str, float]) -> tuple[str, WhatIf]:
    """With these worst errors of throughput by kind, under a law whose best splits are held against each other."""
    runs = [measured(f"{split}{c}", split, concurrency=c) for split in ("2A@tp2", "3P1D") for c in (1, 100)]
    fitted = calibrate(runs, Law().workers)
    assert isinstance(fitted, Calibration)
    errors = {kind: {"throughput": HeldOutError(worst, worst, 2)} for kind, worst in throughput.items()}
    found = project(ASKED, Law().workers, replace(fitted, errors=errors), tell=lambda text: None)
    return " ".join(str(found).split()), found


def test_a_kind_that_nobody_measured_is_not_said_to_miss_the_slo():
    fitted = calibrate([measured("a", concurrency=4), measured("b", concurrency=100)], Law().workers)
    asked = replace(ASKED, slo=Slo(ttft_s=1.0, tpot_s=0.010))
    found = project(asked, Law().workers, fitted, tell=lambda text: None)
    text = " ".join(str(found).split())
    assert "Disaggregated: not projected, no disaggregated split was measured." in text
    assert "Do: measure disaggregated splits there; whether 2A@tp2 is the better kind is not known until then" in text
    assert "1 place: unknown in 1. unknown: disaggregated not projected: no disaggregated split was measured." in text
    assert "meets the SLO" not in text
    frontiers, *_ = whatif_figures(found)
    assert "Disaggregated not projected: no disaggregated split was measured." in frontiers.subtitle


def test_an_slo_that_the_measured_kind_misses_is_not_infeasible_while_the_other_is_unknown():
    fitted = calibrate([measured("a", concurrency=2), measured("b", concurrency=100)], Law().workers)
    found = project(replace(ASKED, slo=Slo(ttft_s=1.0, tpot_s=0.0001)), Law().workers, fitted, tell=lambda text: None)
    text = " ".join(str(found).split())
    assert found.infeasible == ""
    assert "Aggregated: no split meets the SLO. Disaggregated: not projected, no disaggregated split was measured." in text
    assert "whether any split meets the SLO is not known until then" in text


def test_models_that_no_run_was_of_are_named_wherever_the_error_is_told():
    fitted = calibrate(
        [measured(f"{split}{c}", split, concurrency=c) for split in ("2A@tp2", "3P1D") for c in (1, 100)],
        Law().workers, extrapolate=True,
    )  # fmt: skip
    models = ("llama-3.1-8b", "gpt-oss-20b")
    own = project(replace(ASKED, models=models, claims=True), Law().workers, fitted, tell=lambda text: None)
    text = " ".join(str(own).split())
    assert text.count("Calibrated by runs of llama-3.1-8b alone: of gpt-oss-20b the error is unknown.") == 1, (
        "at the map of models"
    )
    assert text.count("alone: of llama-3.1-70b-fp8 the error is unknown.") == 2, "at two claims of a Llama 70B"
    assert "alone: of gpt-oss-120b the error is unknown." in text
    assert "alone: of llama-3.1-8b-fp8, llama-3.1-70b-fp8 the error is unknown." in text
    told = {figure.name: figure.subtitle.partition(" alone: of ")[2] for figure in whatif_figures(own)}
    assert told == {
        "projected_frontiers": "", "projected_limits": "", "projected_models": "gpt-oss-20b the error is unknown.",
        "projected_claims": "llama-3.1-70b-fp8, gpt-oss-120b, llama-3.1-8b-fp8 the error is unknown.",
    }  # fmt: skip
    other = replace(ASKED, setting=replace(ASKED.setting, model="gpt-oss-20b"))
    found = project(other, Law().workers, fitted, tell=lambda text: None)
    text = " ".join(str(found).split())
    assert text.count("alone: of gpt-oss-20b the error is unknown.") == 1
    assert "The error of gpt-oss-20b is unknown: measure both before you decide." in text
    assert "Missing: runs of gpt-oss-20b; it is corrected by those of llama-3.1-8b" in text
    assert all("alone: of gpt-oss-20b the error is unknown." in figure.subtitle for figure in whatif_figures(found))


@pytest.mark.parametrize(("system", "engine", "whose"), [
    ("h100_sxm", "vllm", ":"), ("h200_sxm", "vllm", " (claimed of h100_sxm with vllm):"),
    ("h100_sxm", "trtllm", " (claimed of h100_sxm with vllm):"),
])  # fmt: skip
def test_claims_say_what_they_were_recomputed_on(system: str, engine: str, whose: str):
    def ask(one: Setting) -> Workers:
        return replace(Law().workers(replace(one, system="h100_sxm")), setting=one)

    asked = replace(ASKED, setting=replace(ASKED.setting, system=system, engine=engine), claims=True)
    found = project(asked, ask, NoCalibration("a test"), tell=lambda text: None)
    text = " ".join(str(found).split())
    assert f"Claim 5, Llama 70B on two nodes, more than 2 times, on {system} with {engine}{whose} projected to hold" in text
    (figure,) = [figure for figure in whatif_figures(found) if figure.name == "projected_claims"]
    assert figure.title == f"The published claims, projected on {system} with {engine}{whose[:-1]}"
    for one in found.to_dict()["claims"]:
        assert (one["facts"]["GPU"], one["facts"]["engine"]) == (system, engine)
        assert f" on {system}, " in one["where"]


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        ({"aggregated": 0.01, "disaggregated": 0.01}, ""),
        ({"aggregated": 0.01, "disaggregated": 0.60}, "errors of throughput (aggregated 1%, disaggregated 60%): measure both"),
        ({"aggregated": 0.60, "disaggregated": 0.01}, "errors of throughput (aggregated 60%, disaggregated 1%): measure both"),
        ({"aggregated": 0.01}, "The error of disaggregated throughput is unknown: measure both"),
        ({}, "The error of aggregated and disaggregated throughput is unknown: measure both"),
    ],
)
def test_a_gain_is_weighed_by_the_errors_of_the_kinds_that_it_compares(errors: dict[str, float], says: str):
    text, found = answered(errors)
    assert found.met.gain is not None
    assert not 1 / 1.1 < found.met.gain < 1.1
    assert says in text
    assert ("measure both before you decide" in text) == bool(says)
