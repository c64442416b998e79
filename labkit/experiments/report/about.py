"""What a report says of how its runs were measured: conditions, method, warm-up and versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Final, get_args

from labkit.experiments.differences import Differences, Facts, complete_workload, fact_text
from labkit.measure.records import Window
from labkit.spec import Workload
from labkit.spec.workload import Warmup

_FIRST: Final = (
    "TTFT is from the real send of a request to its first token, as the client saw both (limits of an SLO count from the send "
    "that the schedule asked for); ITL is the gap between two tokens, TPOT a request's mean gap. Percentiles are of all values "
    "of a side's repeats together.",
    "Intervals hold 95 %: bootstrap over repeats, then requests; Wilson's score interval for shares; the spread of arrivals for "
    "the totals of an open loop. Ratios are of sides with the same requests on as many accelerators.",
    "A claim is reproduced where the whole interval says so, not reproduced where the whole interval says the contrary, and "
    "undecided where the interval holds both. Different places make it 'only when'.",
)
_LAST: Final = "What disturbed a measurement is listed with the runs."
_PACKAGES: Final = ("versions.labkit", "versions.python", "versions.platform")
#: Facts that say nothing where they are so: what was not asked for, and fields of a workload at their defaults.
_NOTHING: Final = frozenset({"none", "no"})
_USUAL: Final[Mapping[str, str]] = {f"workload.{one.name}": fact_text(one.default) for one in fields(Workload)}
_BETWEEN: Final = " / "
_BETWEEN_RUNS: Final = " | "
_MOST_VALUES: Final = 4
#: Stands for a fact that a run does not state.
NOT_RECORDED: Final = "not recorded"
PARTLY: Final = "Not recorded in all runs"


def method(windows: Sequence[Window]) -> tuple[str, ...]:
    """How the figures of these measurements came about, in sentences."""
    return (*_FIRST, *([warmup_text(windows)] if windows else []), _LAST)


def warmup_text(windows: Sequence[Window]) -> str:
    """What the measurements left out as warm-up: as they were given it, as MSER-5 found it, or both."""
    told = [(window, complete_workload(window.workload)) for window in windows]
    known = [
        (window, work)
        for window, work in told
        if isinstance(work.get("warmup_s"), int | float) and work.get("warmup") in get_args(Warmup)
    ]
    lacking = len(windows) - len(known)
    if not known:
        return "What was left out as warm-up is not recorded in these runs."
    seconds = sorted({round(float(work["warmup_s"]), 1) for _, work in known})
    searched = [window for window, work in known if work["warmup"] == "auto"]
    span = f"{seconds[0]:g} s" if len(seconds) == 1 else f"{seconds[0]:g} to {seconds[-1]:g} s"
    said = f"a given warm-up of {span} before each measurement is left out" if seconds[-1] else "no warm-up was given"
    said += f"; {_searched(searched, len(known), more=bool(seconds[-1]))}"
    return f"Warm-up: {said}.{f' Of {_measurements(lacking)} it is not recorded.' if lacking else ''}"


def _searched(windows: Sequence[Window], of: int, *, more: bool) -> str:
    beyond = "more" if more else "one"
    if not windows:
        return f"no stationarity test looked for {beyond}"
    where = "all measurements" if len(windows) == of else f"{len(windows)} of {of} measurements"
    cut, unsettled = sum(window.first_index > 0 for window in windows), sum(window.settled is False for window in windows)
    found = f"left out the first requests of {cut}" if cut else "found none"
    drifting = f" ({unsettled} had no stationary part)" if unsettled else ""
    return f"a stationarity test (MSER-5) looked for {beyond} in {where} and {found}{drifting}"


def _measurements(count: int) -> str:
    return f"{count} measurement{'s' * (count != 1)}"


def versions_text(facts: Facts) -> str:
    """``labkit 0.1.0, vllm 0.31``, of what served and measured; empty where none is stated."""
    return ", ".join(f"{name.split('.', 1)[1]} {text}" for name, text in facts.items() if is_version(name))


def is_version(name: str) -> bool:
    """Whether a fact is one."""
    return name in _PACKAGES or name.startswith("engines.")


def about(facts: Differences) -> tuple[str, ...]:
    """Conditions and versions in short, a line each: what is unusual of what all runs state, what differs, what some lack."""
    return tuple(_about(facts))


def _about(facts: Differences) -> Iterator[str]:
    same = [f"{name} {text}" for name, text in facts.same.items() if _tells(name, text) and not is_version(name)]
    if same:
        yield f"The same in all runs: {'; '.join(same)}."
    if facts.differs:
        yield f"What differs between runs: {'; '.join(f'{name} {_values(texts)}' for name, texts in facts.differs.items())}."
    partly = [f"{name} {text}" for name, text in facts.partly.items() if _tells(name, text)]
    if partly:
        yield f"{PARTLY}: {'; '.join(partly)}."
    if versions := versions_text(facts.same):
        yield f"Versions in all runs: {versions}."


def _tells(name: str, text: str) -> bool:
    return text not in _NOTHING and text != _USUAL.get(name)


def _values(texts: Sequence[str | None]) -> str:
    return _few([*dict.fromkeys(NOT_RECORDED if text is None else short(text) for text in texts)], _BETWEEN_RUNS)


def short(text: str) -> str:
    """Of many values of a run, as a sweep has them, the first and the last."""
    return _few(text.split(_BETWEEN), _BETWEEN)


def _few(values: Sequence[str], between: str) -> str:
    if len(values) <= _MOST_VALUES:
        return between.join(values)
    return f"{between.join(values[:2])} … {values[-1]} ({len(values)} values)"
