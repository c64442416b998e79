"""Words beside the marks across the charts, from the events that a lab notes."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.dashboard.marks import label
from labkit.lab.loads import endless, in_words
from labkit.live.sample import EventKind, LiveEvent
from labkit.spec import Workload


@pytest.mark.parametrize(
    ("workload", "short"),
    [
        ({"rate": 1.5}, "1.5 req/s"),
        ({"osl": "empirical:8,9", "rate": 2, "arrivals": "gamma"}, "2 req/s gamma (burstiness 1)"),
        ({"concurrency": 8}, "8 concurrent"),
        ({"arrivals": "ramp:1-8"}, "ramp:1-8/60 req/s"),
        ({"rate": 0.5, "turns": 4, "think_s": 1}, "0.5 conversations/s"),
    ],
)
def test_a_load_is_told_by_how_much_is_asked(workload: dict[str, Any], short: str):
    asked = Workload.from_dict({"isl": 512, "osl": 32, "duration_s": 60.0, **workload})
    assert label(LiveEvent(0.0, "load", f"load on exploration: {in_words(endless(asked))}")) == short


@pytest.mark.parametrize(
    ("kind", "text", "short"),
    [
        ("load", "load 1 sends nothing more", "load ends"),
        ("load", "load by hand", "load by hand"),
        ("note", "3 requests not sent: the load was stopped", "3 requests not sent"),
        ("resplit", "2A → 1P1D: new split took requests after 1.50 s, old router drained after 3.2 s", "2A → 1P1D"),
        ("note", "exploration #2 is saturated: arrivals 1.4/s, completions 0.66/s", "saturated"),
        ("fault", "w1: killed by signal 9", "w1: killed by signal 9"),
        ("pin", "pin 3: 1P1D", "pin 3"),
        ("pin", "pin my best: so far", "pin my best: so far"),
    ],
)
def test_the_rest_is_told_in_short_but_a_fault_with_its_cause(kind: EventKind, text: str, short: str):
    assert label(LiveEvent(0.0, kind, text)) == short
