"""The load's form: it asks for what it was given until a field is changed, and has a place for every load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ipywidgets.widgets.widget import _instances

from labkit.dashboard.load_form import LoadForm
from labkit.spec import Workload

BASE: dict[str, Any] = {"isl": 16, "osl": 8, "duration_s": 60.0, "seed": 3}


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:00,100,10\n2023-11-16 18:15:09,50,10\n")
    return str(path)


def form(workload: Workload) -> LoadForm:
    return LoadForm(workload, lambda: None)


@pytest.mark.parametrize(
    "load",
    [
        {"arrivals": "burst:10@5/20", "burstiness": 0.5},
        {"arrivals": "ramp:1-8"},
        {"arrivals": "step:0=1,30=4"},
        {"rate": 0.001},
        {"concurrency": 4, "turns": 3, "think_s": 1.5, "warmup_s": 2.0},
        {"rate": 2.0, "arrivals": "gamma", "burstiness": 0.25},
    ],
)
def test_what_nobody_changed_is_asked_for_as_it_is(load: dict[str, Any]):
    given = Workload.from_dict({**BASE, **load})
    shown = form(given)
    assert shown.workload is given
    shown._osl.value = "9"
    asked = shown.workload
    assert asked is not None
    assert (str(asked.osl), asked.arrivals, asked.burstiness, asked.seed) == ("9", given.arrivals, given.burstiness, 3)
    shown._osl.value = "8"
    assert shown.workload is given, "changed back"


def test_edits_leave_no_widget_behind():
    before = len(_instances)
    shown = form(Workload(rate=2.0, **BASE))
    there = len(_instances)
    for kind in ("gamma", "poisson", "constant", "poisson"):
        shown._arrivals.value = kind
        shown._rate.value += 1.0
    assert len(_instances) == there
    shown.close()
    assert len(_instances) == before


def test_a_trace_keeps_what_the_fields_have_no_place_for(trace: str):
    for load in ({"time_scale": 0.5}, {"rate": 2.0}, {"concurrency": 4}, {"osl": 12}):
        given = Workload.from_dict({"trace": trace, **load})
        shown = form(given)
        assert shown.workload is given
        assert shown._arrivals.value.startswith("trace trace.csv")
        shown._osl.value = "5"
        asked = shown.workload
        assert asked is not None
        assert asked.to_dict() == {**given.to_dict(), "osl": "5"}
    plain = form(Workload(trace=trace))
    assert plain._arrivals.value == "trace"
    assert plain._arrivals.options[-1] == "trace"


def test_rates_that_change_can_be_left_and_taken_again():
    shown = form(Workload(**BASE, arrivals="burst:10@5/20"))
    assert (shown._arrivals.value, shown._arrivals.options[-1]) == ("burst:10@5/20", "burst:10@5/20")
    assert shown._amount.children == ()
    shown._arrivals.value = "constant"
    asked = shown.workload
    assert asked is not None
    assert (asked.arrivals, asked.rate) == ("constant", 1.0)
    shown._arrivals.value = "burst:10@5/20"
    assert shown.workload == Workload(**BASE, arrivals="burst:10@5/20")


def test_another_load_is_shown_with_one_word_of_it():
    told: list[str] = []
    shown = LoadForm(Workload(**BASE, arrivals="ramp:1-8"), lambda: told.append("changed"))
    other = Workload(isl=32, osl=4, concurrency=6, requests=10)
    shown.show(other)
    assert (shown._arrivals.value, shown._concurrency.value, shown._isl.value) == ("closed loop", 6, "32")
    assert shown._arrivals.options[-1] == "trace", "the ramp is another load's"
    assert shown.workload is other
    assert told == ["changed"]


def test_what_cannot_be_meant_is_said():
    shown = form(Workload(**BASE, rate=1.0))
    shown._isl.value = "uniform:8-1"
    assert shown.workload is None
    assert shown._line.text
