"""Which engines the live lab offers: simulated workers and real ones do not meet in one exploration."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.dashboard.deployment_form import DeploymentForm
from labkit.errors import SpecError


def form(engine: str, asked: list[tuple[str, str]] | None = None) -> tuple[DeploymentForm, Any]:
    def plan(model: str, wanted: str) -> str:
        if wanted == "dynamo":
            raise SpecError("no dynamo here", remedy="stay")
        return f"launches {model} on {wanted}"

    made = DeploymentForm("demo", engine, plan, lambda *wish: (asked or []).append(wish))
    return made, made._engine


@pytest.mark.parametrize(
    ("engine", "offered", "said"),
    [
        ("vllm", ("vllm", "dynamo"), "Simulated workers (mocker) need times and a lab of their own"),
        ("mocker", ("mocker",), "they take the times of a profile, of this model alone"),
        ("other", ("other", "vllm", "dynamo"), "Simulated workers (mocker)"),
    ],
)
def test_the_engines_that_can_take_its_place_are_offered_and_the_others_explained(
    engine: str, offered: tuple[str, ...], said: str
) -> None:
    _, chooser = form(engine)
    assert chooser.options == offered
    assert said in chooser.tooltip


def test_a_simulated_lab_is_launched_again_and_what_is_impossible_is_not() -> None:
    asked = [("", "")]
    made, _ = form("mocker", asked)
    made.launch.click()
    assert asked[-1] == ("demo", "mocker")
    real, chooser = form("vllm")
    chooser.value = "dynamo"
    assert real.launch.disabled
    assert "no dynamo here" in real.line.widget.value
