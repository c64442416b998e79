"""The fault campaign itself: its plan, its processes by role, and a few of its cases on stand-ins."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest

from tests.bench.report import Value
from tests.faults.campaign import Outcome, play
from tests.faults.injection import registered
from tests.faults.journal import note, read_journal
from tests.faults.oracle import Verdict
from tests.faults.plan import ALL, ENGINES, Case, cases, planned
from tests.faults.report import soak_text, write_report
from tests.faults.stage import ROOT, Moment

KNOWN = registered()


def test_injections_are_named_alike_and_strike_at_moments_that_there_are() -> None:
    for name, one in KNOWN.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), name
        assert one.what
        assert one.moments
        assert set(one.moments) <= set(get_args(Moment))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_plan_is_the_seeds_and_deals_every_blow_before_it_repeats_one(engine: str) -> None:
    able = {name: one for name, one in KNOWN.items() if set(one.engines) & set(ENGINES[engine])}
    first = planned(KNOWN, engine, 3, len(able))
    assert {case.injection.name for case in first} == set(able)
    assert [str(case) for case in planned(KNOWN, engine, 3, 2 * len(able))][: len(able)] == [str(case) for case in first]
    assert [str(case) for case in planned(KNOWN, engine, 4, len(able))] != [str(case) for case in first]
    times = Counter(case.injection.name for case in islice(cases(KNOWN, engine, 3), 4 * len(able)))
    assert {name for name, count in times.items() if count == 1} == {name for name, one in able.items() if one.rare}
    assert all(case.engine in case.injection.engines for case in first)
    assert all(case.moment in case.injection.moments for case in first)


def test_of_220_cases_20_are_on_real_workers_and_each_part_is_a_plan_of_its_own() -> None:
    plan = planned(KNOWN, ALL, 3, 220)
    assert [case.number for case in plan] == list(range(1, 221))
    for part, number in (("cheap", 200), ("vllm", 20)):
        mine = [case for case in plan if (case.engine == "vllm") == (part == "vllm")]
        alone = planned(KNOWN, part, 3, number)
        assert [(str(case), case.seed) for case in mine] == [(str(case), case.seed) for case in alone]


def test_chosen_blows_are_repeated_also_where_all_are_rare_or_for_one_part() -> None:
    rare = {name: one for name, one in KNOWN.items() if one.rare and one.engines == ("stand-ins",)}
    assert rare
    assert [case.number for case in planned(rare, ALL, 3, 25)] == list(range(1, 26))
    assert planned(rare, "vllm", 3, 5) == []


def test_a_journal_holds_what_was_played_and_refuses_another_plan(tmp_path: Path) -> None:
    path, plan = tmp_path / "of" / "seed-1.jsonl", planned(KNOWN, "stand-ins", 1, 4)
    assert read_journal(path, plan) == []
    played = [
        Outcome(plan[2], Verdict("error", "failed", {"ok": 3, "cut": 1}, ("a wörd",)), "loading 3: w0 (7)", 8.04, None),
        Outcome(plan[0], Verdict("finished", "", {}, ()), "", 1.0, None, "no Ray"),
    ]
    for outcome in played:
        note(path, outcome)
    assert read_journal(path, plan) == [replace(played[1]), replace(played[0], seconds=8.0)]
    with pytest.raises(SystemExit, match="another plan: its case 1"):
        read_journal(path, planned(KNOWN, "stand-ins", 2, 4))


TARGETS = (
    "worker", "engine-core", "router", "load-shard", "telemetry-sampler", "fork-server", "kernel", "papermill", "batch-kernel",
    "jupyter-kernel", "ray-node",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["kill", "end", "stop", "stop-long"])
def test_each_process_of_the_lab_gets_each_signal(kind: str) -> None:
    for target in TARGETS if kind != "stop-long" else TARGETS[:-1]:  # a Ray node that hangs for so long has not been played
        blow = KNOWN[f"{kind}-{target}"]
        number = {"kill": signal.SIGKILL, "end": signal.SIGTERM}.get(kind, signal.SIGSTOP)
        assert (blow.number, blow.stopped_s) == (number, {"stop": 5.0, "stop-long": 60.0}.get(kind, 0.0))  # type: ignore[attr-defined]
    assert "mocker" in KNOWN[f"{kind}-router"].engines, "Dynamo's frontend"


def test_what_was_dealt_in_the_last_campaign_is_still_known() -> None:
    lines = (ROOT / "results" / "evidence" / "faults-seed-11.jsonl").read_text().splitlines()
    assert {json.loads(line)["case"].partition(" at ")[0] for line in lines} <= set(KNOWN)


@pytest.mark.parametrize(
    ("name", "moment", "nth"),
    [
        ("no-fault", "loading", 1),
        ("kill-worker", "loading", 4),
        ("kill-kernel", "loading", 4),
        ("interrupt", "resplitting", 1),
        ("net-cut-chunk-rst", "loading", 4),
    ],
)
def test_a_few_cases_on_stand_ins(name: str, moment: Moment, nth: int) -> None:
    case = Case(1, KNOWN[name], "stand-ins", moment, nth, "the suite's")
    outcome = play(case, answers=20)  # 4 come half a second before the re-split then
    assert outcome.verdict.findings == ()
    assert outcome.folder is None
    assert outcome.hit.startswith(moment)
    assert outcome.verdict.counts["ok"] > 0
    killed = {"kill-worker": "w", "kill-kernel": "kernel"}.get(name, "")
    assert killed in outcome.hit


def test_the_report_says_what_was_dealt_and_keeps_the_history(tmp_path: Path) -> None:
    good, bad = planned(KNOWN, "stand-ins", 1, 2)
    done = [
        Outcome(good, Verdict("finished", "finished", {"ok": 3}, ()), "loading 3", 8.0, None),
        Outcome(bad, Verdict("error", "failed", {}, ("process 7 is left",)), "loading 3", 8.0, tmp_path),
    ]
    write_report(tmp_path / "r.md", done, seed=1, engine="stand-ins", again="make faults SEED=1")
    text = (tmp_path / "r.md").read_text()
    assert "2 injections, 1 failed" in text
    assert f"* 2: {bad}" in text
    assert "process 7 is left" in text
    assert "The first runs, and why they failed" in text
    assert "| load shard and store: memory, MB |" in text, "the last soak"


def test_a_slope_that_is_not_level_is_called_so_and_without_a_soak_nothing_is_said(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    assert soak_text(file) == []
    named = {"kernel: threads, median after warm-up": 34.0, "kernel: threads, slope": 2.5, "kernel: threads, slope, low": 1.0,
             "kernel: threads, slope, high": 4.0, "requests": 1_058_995}  # fmt: skip
    values = [Value(name, value, "") for name, value in named.items()]
    values[1] = replace(values[1], target="level", holds=False)
    file.write_text(json.dumps([asdict(value) for value in values]))
    _, about, table = soak_text(file)
    assert "1,058,995 requests, 0 re-splits" in about
    assert table.splitlines()[2:] == ["| kernel: threads | 34.0 | +2.5 | +1.0 to +4.0 | no |"]
