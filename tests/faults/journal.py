"""A campaign on disk, a line a case: one that was cut off goes on where it was, and who doubts its table finds each case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.faults.campaign import Outcome
from tests.faults.oracle import Verdict
from tests.faults.plan import Case


def read_journal(path: Path, plan: Sequence[Case]) -> list[Outcome]:
    """The cases of a plan that were played, in its order; none where there is no such file.

    Raises:
        SystemExit: it tells of another plan.
    """
    if not path.exists():
        return []
    lines = {line["number"]: line for line in map(json.loads, path.read_text().splitlines())}
    done = list[Outcome]()
    for case in plan:
        if (line := lines.get(case.number)) is None:
            continue
        if line["case"] != str(case):
            raise SystemExit(
                f"{path} is of another plan: its case {case.number} is {line['case']}, now it is {case}; name a new file"
            )
        verdict = Verdict(line["ending"], line["status"], line["counts"], tuple(line["findings"]))
        done.append(Outcome(case, verdict, line["hit"], line["seconds"], None, line["impossible"]))
    return done


def note(path: Path, outcome: Outcome) -> None:
    """Write a case that was played behind the others."""
    verdict = outcome.verdict
    line = {
        "number": outcome.case.number,
        "case": str(outcome.case),
        "hit": outcome.hit,
        "seconds": round(outcome.seconds, 1),
        "ending": verdict.ending,
        "status": verdict.status,
        "counts": verdict.counts,
        "findings": verdict.findings,
        "impossible": outcome.impossible,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
