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
