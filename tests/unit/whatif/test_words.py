"""What is said of an answer: no gain that the errors of its kinds could make up, and no kind that nobody projected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.figures.whatif import whatif_figures
from labkit.spec import Slo
from labkit.whatif import Calibration, Question, WhatIf, calibrate, project
from labkit.whatif.calibration import HeldOutError
from tests.support.projected import Law
from tests.unit.whatif.test_calibration import measured

ASKED = Question.of(
    "llama-3.1-8b", isl=2000, osl=100, gpus=4, isls=[], models=[], ttfts_s=[1.0], tpots_s=[0.010], claims=False
)  # fmt: skip


def answered(throughput: dict[str, float]) -> tuple[str, WhatIf]:
    """With these worst errors of throughput by kind, under a law whose best splits are held against each other."""
    runs = [measured(f"{split}{c}", split, concurrency=c) for split in ("2A@tp2", "1P3D") for c in (1, 100)]
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
    assert "1 place projected: unknown in 1. unknown: disaggregated not projected: no disaggregated split was measured." in text
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
