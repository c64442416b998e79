"""What a report says of how its runs were measured, in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.experiments.differences import differences
from labkit.experiments.report import report
from labkit.experiments.report.about import about, method, short, warmup_text
from labkit.measure.records import UNRECORDED, Window
from labkit.spec import Workload
from tests.support.handmade import window
from tests.support.saved_runs import saved_run

WORK = Workload(isl=512, osl=32, rate=1.5, duration_s=40)


def measured(warmup_s: float = 0.0, warmup: str = "given", **options: Any) -> Window:
    return replace(window(workload=replace(WORK, warmup_s=warmup_s, warmup=warmup)), **options)  # type: ignore[arg-type]


UNKNOWN = replace(window(workload=WORK), workload={**WORK.to_dict(), "warmup_s": UNRECORDED, "warmup": UNRECORDED})


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ([measured()], "Warm-up: no warm-up was given; no stationarity test looked for one."),
        (
            [measured(2.0), measured(2.0)],
            "Warm-up: a given warm-up of 2 s before each measurement is left out; no stationarity test looked for more.",
        ),
        (
            [measured(0.0, "auto", first_index=9), measured(0.0, "auto", settled=False)],
            "Warm-up: no warm-up was given; a stationarity test (MSER-5) looked for one in all measurements and left out "
            "the first requests of 1 (1 had no stationary part).",
        ),
        (
            [measured(2.0), measured(4.00023, "auto"), UNKNOWN],
            "Warm-up: a given warm-up of 2 to 4 s before each measurement is left out; a stationarity test (MSER-5) looked for "
            "more in 1 of 2 measurements and found none. Of 1 measurement it is not recorded.",
        ),
        ([UNKNOWN], "What was left out as warm-up is not recorded in these runs."),
    ],
)
def test_the_method_says_what_these_runs_left_out_as_warmup(windows: list[Window], words: str) -> None:
    assert warmup_text(windows) == words
    assert words in method(windows)
    assert method(windows)[-1] == "What disturbed a measurement is listed with the runs."


def test_without_a_measurement_there_is_no_warmup_to_tell_of() -> None:
    assert not any("arm-up" in one for one in method([]))


def test_conditions_in_short_leave_out_what_was_not_asked_for() -> None:
    one = {"model": "demo", "workload.burstiness": "1", "workload.trace": "none", "workload.rate": "2", "slo": "x"}
    one |= {"options.prefix_caching": "no", "engines.vllm": "0.31", "versions.labkit": "0.1.0"}
    other = {**one, "workload.rate": "3", "hardware.driver": "580.1"}
    del other["slo"], other["engines.vllm"]
    assert about(differences([one, other])) == (
        "The same in all runs: model demo.",
        "What differs between runs: workload.rate 2 | 3.",
        "Not recorded in all runs: slo x; engines.vllm 0.31; hardware.driver 580.1.",
        "Versions in all runs: labkit 0.1.0.",
    )
    lacking = about(differences([{"a": "1"}, {}, {"a": "2"}, {"a": "1"}]))
    assert lacking == ("What differs between runs: a 1 | not recorded | 2.",)
    swept = about(differences([{"a": "1 / 2 / 3 / 4 / 5"}, {"a": "1 / 2"}, *({"a": str(more)} for more in range(6, 9))]))
    assert swept == ("What differs between runs: a 1 / 2 … 5 (5 values) | 1 / 2 … 8 (5 values).",)
    assert about(differences([{}])) == ()


def test_many_values_are_told_by_the_first_and_the_last() -> None:
    assert short("1 / 2 / 3 / 4") == "1 / 2 / 3 / 4"
    assert short("1 / 2 / 3 / 4 / 5") == "1 / 2 … 5 (5 values)"


def test_the_text_of_a_report_has_conditions_and_method(tmp_path: Path) -> None:
    found = report([saved_run(tmp_path, "one", ("2A",))], resamples=50)
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100
    conditions, rest = text.split("\nConditions\n")[1], text.split("\nMethod\n")[1]
    said = " ".join(conditions.split())
    assert said.startswith("The same in all runs: topology 2A; accelerators 2 cores; ")
    assert "model labkit-demo" in said
    assert "workload.burstiness" not in said, "at its default"
    assert "Versions in all runs: labkit " in said
    assert "a given warm-up of 2 s before each measurement is left out" in " ".join(rest.split())
    kept = found.to_dict()
    assert (kept["conditions"], kept["method"]) == ([*found.about], [*found.method])
