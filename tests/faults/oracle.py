"""Judges a scene that is over. Nothing of the lab is imported here: /proc, the servers' logs, Arrow files and ``labkit show``."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults import truth
from tests.faults.expectation import Ending, Expectation
from tests.faults.leftovers import Around, left_behind
from tests.faults.stage import ROOT, Stage

_SHOW_S = 240
#: A request that a server has just finished needs so long to be read by the client.
_READ_S = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one scene.

    Attributes:
        ending: how it ended.
        status: that the run says it has; empty where there is none.
        counts: of the recorded requests, by outcome.
        findings: a sentence for each thing that should not be; empty where all is well.
    """

    ending: Ending
    status: str
    counts: dict[str, int]
    findings: tuple[str, ...]


def judge(stage: Stage, expected: Expectation, before: Around, older: dict[str, str]) -> Verdict:
    """Everything that can be known of a scene that has ended, ``older`` being ``fingerprint`` of what was there before."""
    found = left_behind(stage.setting, before)
    ending = ending_of(stage)
    if ending not in expected.endings:
        found.append(f"the scene ended as {ending}, not as {' or '.join(sorted(expected.endings))}: {_last_words(stage)}")
    found += changed_files(older, fingerprint(stage.setting.results, "older*"))
    run, shown, status, counts = stage.run, "", "", {}
    if run is None:
        if "none" not in expected.statuses:
            found.append("there is no run folder with a manifest")
    else:
        status, shown, of_run = _opens(run, expected)
        found += of_run
        try:
            records = truth.recorded(run)
        except (OSError, ValueError) as error:
            found.append(f"the run's tables cannot be read: {error}")
        else:
            counts = dict(Counter(str(row["outcome"]) for row in records.rows))
            found += records_agree(truth.served(stage.setting.truth), records, expected, stage)
    found += says_cause(stage, expected, shown)
    return Verdict(ending, status, counts, tuple(found))


def ending_of(stage: Stage) -> Ending:
    """What became of the scene, by its own last word."""
    ended = stage.last("ended")
    if ended is None:
        return "killed"
    if ended["how"] == "finished":
        return "finished"
    return "interrupted" if ended["type"] == "KeyboardInterrupt" else "error"


def records_agree(
    served: dict[str, truth.Served], records: truth.Recorded, expected: Expectation, stage: Stage
) -> list[str]:  # fmt: skip
    """Whether records and servers' logs tell the same: one record a request, the same outcome, the same tokens."""
    found = []
    by_id: dict[str, list[dict[str, object]]] = {}
    for row in records.rows:
        by_id.setdefault(str(row["sent_id"]), []).append(row)
    found += [f"request {one} has {len(rows)} records" for one, rows in by_id.items() if len(rows) > 1]
    numbers = Counter(row["request"] for row in records.rows)
    found += [f"{count} records have the number {number}" for number, count in numbers.items() if count > 1]
    if expected.lost_s is None and stage.setting.shards == 1 and numbers:  # sent or not: each has a number, and they run on
        missing = sorted(set(range(max(numbers))) - set(numbers))
        found += [f"request number {number} has no record" for number in missing]
    found += [f"{one.server} received {name} {one.times} times" for name, one in served.items() if one.times > 1]
    lost = {name: one for name, one in served.items() if name not in by_id}
    if expected.lost_s is not None and stage.struck_ns is not None:
        kept_until = stage.struck_ns - int(expected.lost_s * 1e9)
        lost = {name: one for name, one in lost.items() if one.ended_ns is not None and one.ended_ns < kept_until}
    found += [f"{one.server} received {name}, which no record tells of" for name, one in sorted(lost.items())]
    for name, rows in by_id.items():
        found += _agrees(name, served.get(name), rows[0], records, expected, stage)
    if expected.others and stage.victim is not None:
        found += _others_succeed(served, by_id, stage)
    if expected.harmless:
        failed = {name: rows[0]["outcome"] for name, rows in by_id.items() if rows[0]["outcome"] not in ("ok", "cancelled")}
        found += [f"{len(failed)} requests failed of a fault that harms none: {next(iter(failed.items()))}"] if failed else []
    return _shortened(found)


def _agrees(
    name: str, one: truth.Served | None, row: dict[str, object], records: truth.Recorded, expected: Expectation, stage: Stage
) -> list[str]:  # fmt: skip
    outcome, request = row["outcome"], row["request"]
    assert isinstance(request, int)
    counted = records.chunk_tokens.get(request, 0)
    if one is None:
        return [f"record {name} is {outcome}, and no server received it"] if outcome == "ok" else []
    if outcome == "ok":
        if not one.done:
            return [f"record {name} is ok, and {one.server} wrote {one.written} of {one.asked} tokens"]
        if not one.written == row["output_tokens"] == counted:
            return [f"record {name} has {row['output_tokens']} tokens, {counted} in chunks; {one.server} wrote {one.written}"]
        return []
    if counted > one.written and not expected.repeats:
        return [f"record {name} ({outcome}) has {counted} tokens in chunks; {one.server} wrote {one.written}"]
    if one.done and outcome != "cancelled" and not expected.path_hit and one.server != _victim(stage):
        return [f"record {name} is {outcome} ({row['reason']}), and {one.server} wrote all of it"]
    return []


def _others_succeed(served: dict[str, truth.Served], by_id: dict[str, list[dict[str, object]]], stage: Stage) -> list[str]:
    """Of the requests that reached other servers between the blow and the next re-split; a proxy sees all of them."""
    assert stage.struck_ns is not None
    until_ns = next((one["t_ns"] for one in stage.states if one["state"] == "resplitting"), stage.states[-1]["t_ns"])
    since = {n: one for n, one in served.items() if stage.struck_ns < one.received_ns < until_ns - int(_READ_S * 1e9)}
    if stage.proxy is not None:
        answered = any(one.done for one in since.values())
        return [] if answered or not since else [f"of {len(since)} requests after {_victim(stage)} was hit none was answered"]
    others = {n: one for n, one in since.items() if one.server != _victim(stage)}
    if since and not others:
        return [f"no request reached another worker after {_victim(stage)} was hit"]
    bad = {n: by_id[n][0]["outcome"] for n in others if n in by_id and by_id[n][0]["outcome"] not in ("ok", "cancelled")}
    return [f"{n} reached {others[n].server} after the blow and is {outcome}" for n, outcome in bad.items()]


def _victim(stage: Stage) -> str:
    return stage.victim.name if stage.victim is not None else ""


def _opens(run: Path, expected: Expectation) -> tuple[str, str, list[str]]:
    """Status, what ``labkit show`` prints, and what is wrong with either."""
    command = [sys.executable, "-m", "labkit.cli.main", "show", str(run)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_SHOW_S, check=False)
    shown, found = done.stdout + done.stderr, []
    if expected.opens and done.returncode != 0:
        found.append(f"labkit show ends with {done.returncode}: {done.stderr.strip()[-300:]}")
    if "Traceback" in shown:
        found.append(f"labkit show shows a traceback: {shown.strip()[-300:]}")
    try:
        manifest = json.loads((run / "manifest.json").read_text())
    except ValueError as error:
        return "", shown, [*found, f"the manifest cannot be read: {error}"]
    status = str(manifest["status"])
    if status == "running":  # its process is gone: this is what a reader must be told
        status = "interrupted" if "interrupted" in shown else "running"
    if expected.opens and status not in shown:
        found.append(f"labkit show does not say that the run is {status}")
    if status not in expected.statuses:
        found.append(f"the run is {status}, not {' or '.join(sorted(expected.statuses))}")
    if (segments := run / "segments").exists() and manifest["status"] != "running":
        found.append(f"a run that is {status} still has {', '.join(sorted(path.name for path in segments.iterdir()))}")
    return status, shown, found


def says_cause(stage: Stage, expected: Expectation, shown: str) -> list[str]:
    """Whether a person is told what happened, and what to do."""
    ended = stage.last("ended") or {}
    told = "\n".join(
        [stage.said, str(ended.get("message", "")), *(str(one["line"]) for one in stage.states if one["state"] == "said")]
    )
    found = [
        f"nothing that a person reads says {words!r}"
        for words in expected.cause
        if not re.search(words, f"{told}\n{shown}", re.IGNORECASE)
    ]
    if expected.remedy and "→" not in told:
        found.append("no remedy is told")
    if "Traceback" in shown:
        found.append("labkit show tells a traceback")
    return found


def fingerprint(folder: Path, pattern: str) -> dict[str, str]:
    """Path → SHA-256 of every file below the folders that match."""
    files = [path for root in folder.glob(pattern) for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed_files(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What became of other runs' files."""
    gone = [f"{name} of an older run is gone" for name in sorted(before.keys() - after.keys())]
    new = [f"{name} is new in an older run" for name in sorted(after.keys() - before.keys())]
    return (
        gone + new + [f"{n} of an older run has changed" for n in sorted(before.keys() & after.keys()) if before[n] != after[n]]
    )


def _last_words(stage: Stage) -> str:
    ended = stage.last("ended")
    if ended is not None and "message" in ended:
        return f"{ended['type']}: {ended['message']}"[:300]
    return f"exit {stage.exit}, {stage.said.strip()[-200:]!r}"


def _shortened(found: list[str]) -> list[str]:
    """Three of a kind say as much as three hundred."""
    return found if len(found) <= 6 else [*found[:5], f"… and {len(found) - 5} more of these"]
