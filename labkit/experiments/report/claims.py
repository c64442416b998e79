"""The claims under test, and how evidence for and against one becomes a verdict.

The claims are those published for NVIDIA Dynamo's disaggregated serving. Each is a hypothesis here. Evidence is one comparison,
or one finding of a run: it holds, it does not, or it cannot tell. A claim that holds in some places and not in others holds
*only when* what tells these places apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

_MOST_FACTS: Final = 3
#: Facts that are no condition of a result: what was drawn, and who wrote it down.
_NO_CAUSE: Final = ("git", "versions.", "source.", "workload.seed", "workload.warmup", "slo")


class Outcome(StrEnum):
    """What the runs say of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    ONLY_WHEN = "only when"
    UNDECIDED = "undecided"
    NOT_TESTED = "not tested"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim.

    Attributes:
        key: short, for code and links.
        text: the claim itself.
        test: what has to be measured to test it, for a reader whose runs do not.
    """

    key: str
    text: str
    test: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one comparison, or one finding, says of a claim.

    Attributes:
        holds: ``None`` where it cannot tell.
        where: split and load, short.
        words: the numbers.
        runs: ids.
        facts: its conditions by name, to tell places apart.
    """

    holds: bool | None
    where: str
    words: str
    runs: tuple[str, ...]
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim with what the runs say of it.

    Attributes:
        claim: the claim.
        outcome: the verdict.
        reason: how it came about, a sentence: counts, the condition of *only when*, or what is missing.
        evidence: what it rests on.
        aside: seen under other conditions than the claim's own; no part of the verdict.
    """

    claim: Claim
    outcome: Outcome
    reason: str
    evidence: tuple[Evidence, ...] = ()
    aside: tuple[Evidence, ...] = ()


CLAIMS: Final = (
    Claim(
        "bound",
        "Prefill is compute-bound and decode is memory-bound",
        "notebook 03 measures both phases on the device's roofline",
    ),
    Claim(
        "interference",
        "Prefill and decode on one accelerator disturb each other; separate workers remove it",
        "notebook 01 measures one aggregated and one disaggregated side under the same requests",
    ),
    Claim(
        "sub_50_ms",
        "Disaggregation sustains a token latency under 50 ms under load (TPOT p50 and p99, and ITL p99)",
        "notebook 01 measures a disaggregated side, at the loads that matter to you",
    ),
    Claim(
        "scaling",
        "Prefill and decode workers scale independently",
        "notebook 08 varies x and y of xPyD one at a time",
    ),
    Claim(
        "one_node",
        "Llama-70B on one node: at least 30 % more throughput per GPU",
        "it needs a Llama 70B on one node of GPUs, an aggregated and a disaggregated side as fast as they can go: a closed loop "
        "(`Workload(concurrency=…)`) or a split search (notebook 04)",
    ),
    Claim(
        "two_nodes",
        "Llama-70B on two nodes: more than twice the throughput per GPU",
        "it needs a Llama 70B on two nodes of GPUs; notebook 05 projects it",
    ),
    Claim(
        "gpt_oss",
        "gpt-oss-120b on one node of 8 GPUs gains as one prefill worker on 4 and one decode worker on 4",
        "it needs gpt-oss-120b as 1P@tp4+1D@tp4 against an aggregated split of the same 8 GPUs",
    ),
    Claim(
        "smallest_batch",
        "Prefill does best at the smallest batch that saturates the accelerator, which minimises TTFT",
        "notebook 03 finds that batch, sets it, and measures TTFT before and after",
    ),
    Claim(
        "large_models",
        "It works best for large models (70B and more) and high throughput",
        "it needs comparisons of one kind of hardware with models of several sizes",
    ),
)


def judge(claim: Claim, evidence: Sequence[Evidence], aside: Sequence[Evidence] = ()) -> Judged:
    """The verdict on a claim.

    Args:
        claim: the claim.
        evidence: under the conditions that the claim is made for.
        aside: under others; named, not counted.
    """
    found, beside = tuple(evidence), tuple(aside)
    pro, contra = ([one for one in found if one.holds is holds] for holds in (True, False))
    told, unclear = len(pro) + len(contra), len(found) - len(pro) - len(contra)
    besides = f"; {unclear} more cannot tell" if unclear else ""
    if not found:
        return Judged(claim, Outcome.NOT_TESTED, f"no run here tests it: {claim.test}", (), beside)
    if not told:
        return Judged(claim, Outcome.UNDECIDED, f"{_count(unclear)} cannot tell", found, beside)
    if not contra:
        return Judged(claim, Outcome.REPRODUCED, f"in {_all_of(told)}{besides}", found, beside)
    if not pro:
        return Judged(claim, Outcome.NOT_REPRODUCED, f"in {_none_of(told)}{besides}", found, beside)
    when = _when(pro, contra)
    return Judged(claim, Outcome.ONLY_WHEN, f"{when} ({len(pro)} of {told} places{besides})", found, beside)


def _when(pro: Sequence[Evidence], contra: Sequence[Evidence]) -> str:
    """What all places where a claim holds have, and none of the others: one fact, or several that differ together."""
    names = dict.fromkeys(name for one in (*pro, *contra) for name in one.facts if not name.startswith(_NO_CAUSE))
    apart = []
    for name in names:
        yes, no = ({one.facts.get(name, "") for one in side} for side in (pro, contra))
        if not yes & no:
            apart.append(f"{name.removeprefix('workload.')} is {' or '.join(sorted(yes))} (not {' or '.join(sorted(no))})")
    if not apart:
        return "in some places; no condition that the runs recorded tells them from the others"
    if len(apart) == 1:
        return apart[0]
    more = f", and {len(apart) - _MOST_FACTS} more facts" if len(apart) > _MOST_FACTS else ""
    return f"{', '.join(apart[:_MOST_FACTS])}{more}; these differ together, so the runs do not tell which of them it is"


def _count(places: int) -> str:
    return f"{places} place{'s' * (places != 1)}"


def _all_of(places: int) -> str:
    return "the one place that tests it" if places == 1 else f"all {places} places that test it"


def _none_of(places: int) -> str:
    return "the one place that tests it" if places == 1 else f"any of {places} places that test it"
