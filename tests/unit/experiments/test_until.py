from __future__ import annotations

import json
from typing import Any

import pytest

from labkit.errors import SpecError
from labkit.experiments.until import Narrow
from labkit.measure.statistics import Interval

WIDE, NARROW = Interval(0.5, 1.0, 1.6), Interval(0.95, 1.0, 1.05)
RULE = Narrow("itl_p99_s", within=0.1, most_repeats=6, budget_s=100)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"metric": "itl_p98_s"}, "unknown metric 'itl_p98_s'"),
        ({"within": 0}, "within = 0"),
        ({"within": 1.5}, "within = 1.5"),
        ({"most_repeats": 2}, "most_repeats = 2"),
        ({"budget_s": 0}, "budget_s = 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(SpecError, match=what):
        Narrow(**{"metric": "itl_p99_s", **fields})


@pytest.mark.parametrize(
    ("interval", "repeats", "spent_s", "why"),
    [
        (NARROW, 2, 10, ""),
        (NARROW, 3, 10, "ended after 3 repeats: the interval of itl_p99_s is within ±10% (±5%)"),
        (WIDE, 3, 10, ""),
        (None, 5, 10, ""),
        (WIDE, 6, 10, "ended after 6 repeats, the most allowed: itl_p99_s is known to ±60%, wanted ±10%"),
        (WIDE, 4, 79, ""),
        (
            WIDE, 4, 81,
            "ended after 4 repeats: the budget of 100 s holds no other repeat; itl_p99_s is known to ±60%, wanted ±10%",
        ),
        (
            None, 4, 99,
            "ended after 4 repeats: the budget of 100 s holds no other repeat; itl_p99_s is known to no ratio, wanted ±10%",
        ),
    ],
)  # fmt: skip
def test_why_it_ends(interval: Interval | None, repeats: int, spent_s: float, why: str) -> None:
    assert RULE.ended(interval, repeats, spent_s) == why


def test_without_a_budget_time_ends_nothing() -> None:
    assert Narrow("itl_p99_s").ended(WIDE, 4, 1e9) == ""


def test_where_it_stands() -> None:
    assert RULE.state(NARROW, 3) == "itl_p99_s after 3 repeats: ratio 1 [0.95, 1.05], ±5% (wanted ±10%)"
    assert RULE.state(None, 1) == "itl_p99_s after 1 repeat: no ratio yet (wanted ±10%)"
    assert RULE.state(Interval(0.5, 1.0, float("inf")), 1).endswith("±inf% (wanted ±10%)")


def test_what_is_kept_can_be_written() -> None:
    kept = json.loads(json.dumps(RULE.to_dict("ended after 3 repeats: narrow", 3)))
    assert kept["text"] == "repeats ended after 3 repeats: narrow; their number was decided while they ran"
    assert (kept["metric"], kept["repeats"], kept["within"]) == ("itl_p99_s", 3, 0.1)
