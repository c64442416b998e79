"""What is said of an answer: no gain that the errors of its kinds could make up, and no kind that nobody projected."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
