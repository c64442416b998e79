"""The split's form: it turns to what serves, with all that its workers were started with, and leaves nothing behind."""

from __future__ import annotations

import pytest
from ipywidgets.widgets.widget import _instances

from labkit.dashboard.split_form import SplitForm
from labkit.serve.engines.base import EngineOptions
from labkit.spec.topology import Role, Topology

TWO = Topology("2A")
ROLES = {"w0": Role.AGGREGATED, "w1": Role.AGGREGATED}


def form(told: list[str], options: EngineOptions) -> SplitForm:
    made = SplitForm(TWO, ROLES, options, lambda: told.append("wish"), most=4)
    told.clear()
    return made


@pytest.mark.parametrize("topology", ["2A", "1P1D"])
def test_the_flags_shown_are_those_that_serve(topology: str):
    told: list[str] = []
    shown = form(told, EngineOptions(max_num_batched_tokens=512))
    now = EngineOptions(max_num_batched_tokens=128, max_num_seqs=4)
    split = Topology(topology)
    shown.show(split, dict(zip(ROLES, (role for role, _ in split.workers), strict=True)), now)
    assert (shown._chunk.value, shown._seqs.value) == ("128", "4")
    assert (shown.topology, shown.options) == (split, now), "nothing else is wished for"
    assert told == ["wish"] * (topology != "2A"), "once at most, when all of it is there"


def test_another_pool_leaves_no_picker_of_the_one_before():
    shown = form([], EngineOptions())
    shown._workers.value = 3
    there = len(_instances)
    for workers in (2, 3, 2, 3):
        shown._workers.value = workers
    assert len(_instances) == there


def test_a_row_of_buttons_turns_to_the_splits_of_another_pool_and_a_slider_gives_way():
    told: list[str] = []
    shown = form(told, EngineOptions())
    buttons = shown._picker
    three = Topology("3A")
    shown.show(three, {f"w{n}": Role.AGGREGATED for n in range(3)}, EngineOptions())
    assert shown._picker is buttons, "as after a death and a restart"
    assert buttons.options == ("3A", "1P2D", "2P1D")
    assert list(buttons.tooltips) == ["3 aggregated", "1 prefill, 2 decode", "2 prefill, 1 decode"]
    assert (shown.topology, told) == (three, ["wish"])
    buttons.value = "1P2D"
    assert (shown.topology, told) == (Topology("1P2D"), ["wish"] * 2), "a click counts as ever"
    shown._workers.value = 6
    slider = shown._picker
    assert slider is not buttons
    assert shown.topology == Topology("2P4D"), "the nearest"
    shown.show(Topology("6A"), {f"w{n}": Role.AGGREGATED for n in range(6)}, EngineOptions())
    assert shown._picker is slider, "the same splits"
    shown._workers.value = 7
    assert shown._picker is not slider
    assert shown._picker.options[0] == "7A"
