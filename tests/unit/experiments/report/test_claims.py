"""How evidence becomes a verdict."""

from __future__ import annotations

import pytest

from labkit.experiments.report.claims import CLAIMS, Evidence, Outcome, judge

CLAIM = CLAIMS[0]


def seen(holds: bool | None, **facts: str) -> Evidence:
    return Evidence(holds, "1P1D", "numbers", ("a",), {name.replace("__", "."): text for name, text in facts.items()})


@pytest.mark.parametrize(
    ("holds", "outcome", "reason"),
    [
        ((), Outcome.NOT_TESTED, "no run here tests it: notebook 03"),
        ((True,), Outcome.REPRODUCED, "in the one place that tests it"),
        ((True, True, None), Outcome.REPRODUCED, "in all 2 places that test it; 1 more cannot tell"),
        ((False, False), Outcome.NOT_REPRODUCED, "in any of 2 places that test it"),
        ((None, None), Outcome.UNDECIDED, "2 places cannot tell"),
    ],
)
def test_places_that_agree_give_a_plain_verdict(holds, outcome, reason):
    found = judge(CLAIM, [seen(each) for each in holds])
    assert found.outcome is outcome
    assert found.reason.startswith(reason)
    assert len(found.evidence) == len(holds)


def test_only_when_names_the_one_fact_that_tells_places_apart():
    places = [
        seen(True, workload__rate="1.5", model="demo", git="a"),
        seen(True, workload__rate="2", model="demo", git="b"),
        seen(False, workload__rate="4", model="demo", git="c"),
    ]
    found = judge(CLAIM, places)
    assert (found.outcome, found.reason) == (Outcome.ONLY_WHEN, "rate is 1.5 or 2 (not 4) (2 of 3 places)")


def test_facts_that_differ_together_are_not_taken_for_causes():
    found = judge(CLAIM, [seen(True, topology="1P1D", workload__isl="512"), seen(False, topology="1P3D", workload__isl="64")])
    assert "topology is 1P1D (not 1P3D), isl is 512 (not 64); these differ together" in found.reason


def test_places_that_nothing_tells_apart_are_said_to_be_that():
    found = judge(
        CLAIM, [seen(True, model="demo", workload__seed="1"), seen(False, model="demo", workload__seed="2"), seen(None)]
    )
    assert found.outcome is Outcome.ONLY_WHEN
    assert "no condition that the runs recorded tells them from the others (1 of 2 places; 1 more cannot tell)" in found.reason


def test_what_lies_beside_a_claim_does_not_count():
    found = judge(CLAIM, [], [seen(True)])
    assert (found.outcome, len(found.aside)) == (Outcome.NOT_TESTED, 1)


def test_claims_are_told_apart_by_their_keys():
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS) == 9
