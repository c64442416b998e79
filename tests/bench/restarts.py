"""How soon real vLLM workers serve that start while the lab runs: forked from a process with vLLM imported, and the plain way.

    python tests/bench/restarts.py [--rounds 3]

A lab of two aggregated workers on the CPU, without load; then, ``--rounds`` times each: a worker is killed with SIGKILL and
started again beside the other; a flag is changed, which starts both workers anew; so does another TP, there and back. All of it
twice, with the fork server and with ``LABKIT_FORK_SERVER=0``. The fork server goes first: what it reads from a cold disk, the
other finds warm.

*Serves*: from the call to the instant at which the router takes requests for the new workers. *Up*: from the start of a worker
to its first answer, the slowest where more than one starts. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from report import Value, machine, write  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from labkit import Lab, Workload  # noqa: E402
from labkit.serve.fork_server import VARIABLE  # noqa: E402
from labkit.serve.resplit import Resplit  # noqa: E402
from tests.support.waiting import until  # noqa: E402

WORK = Workload(isl=128, osl=32, rate=2.0, duration_s=60)
FORKED, PLAIN = "fork server", "the plain way"
KILLED, FLAG, TP = "a killed worker", "another flag", "another TP"
MOST_S = 6.0


@dataclass(slots=True)
class Times:
    """Of one kind of change: seconds until the new workers served, and until they were up."""

    serves_s: list[float] = field(default_factory=list)
    up_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Way:
    """How workers were started, and what came of it.

    Attributes:
        launch_s: of the first launch, the fork server's imports included, until the split served.
        times: by kind of change.
    """

    about: str
    launch_s: float
    times: Mapping[str, Times]


def measure(about: str, rounds: int, folder: Path) -> Way:
    """Launch, and start workers again in each way, ``rounds`` times."""
    os.environ[VARIABLE] = "0" if about == PLAIN else "1"
    began, times = time.perf_counter(), {kind: Times() for kind in (KILLED, FLAG, TP)}
    with Lab("demo", "2A", workload=WORK, results=folder, progress=lambda line: None) as lab:
        launch_s = time.perf_counter() - began
        for kind, done in changes(lab, rounds):
            workers = lab.changes.own.workers
            assert all(worker.forked is (about == FORKED) for worker in workers), "started otherwise than it is said"
            fresh = {place.name for place in done.plan.starts}
            times[kind].serves_s.append(done.switched_s)
            times[kind].up_s.append(max(worker.ready_s for worker in workers if worker.name in fresh))
            print(f"{about}, {kind}: {str(done).splitlines()[0]}", flush=True)
    return Way(about, launch_s, times)


def changes(lab: Lab, rounds: int) -> Iterator[tuple[str, Resplit]]:
    """Each change as it has been carried out."""
    there = lab.changes.own
    for _ in range(rounds):
        victim = there.workers[-1]
        os.kill(victim.tree.pid, signal.SIGKILL)
        until(lambda victim=victim: victim.name in there.dead, "the news of its death")
        yield KILLED, lab.restart(victim.name)
    for number in range(rounds):
        yield FLAG, lab.change(options=replace(there.options, max_num_seqs=8 + number))
    for number in range(rounds):
        yield TP, lab.change("2A" if number % 2 else "1A@tp2")


def values_of(ways: Sequence[Way]) -> list[Value]:
    """What is written."""
    values = []
    for way in ways:
        values.append(Value(f"{way.about}: launch of both", round(way.launch_s, 1), "s"))
        for kind, times in way.times.items():
            median_s = statistics.median(times.serves_s)
            judged = (way.about, kind) == (FORKED, KILLED)
            values += [
                Value(
                    f"{way.about}, {kind}: serves after, median", round(median_s, 2), "s", None,
                    f"≤ {MOST_S:g}" if judged else None, median_s <= MOST_S if judged else None,
                ),
                Value(f"{way.about}, {kind}: serves after, most", round(max(times.serves_s), 2), "s"),
                Value(f"{way.about}, {kind}: up after, median", round(statistics.median(times.up_s), 2), "s"),
            ]  # fmt: skip
    forked, plain = ways
    for kind in forked.times:
        ratio = statistics.median(plain.times[kind].serves_s) / statistics.median(forked.times[kind].serves_s)
        values.append(Value(f"{kind}: {PLAIN} / {FORKED}", round(ratio, 1), "", PLAIN))
    return values


def report(ways: Sequence[Way], rounds: int) -> int:
    """Table and file; 1 where a target is missed."""
    values = {value.name: value for value in values_of(ways)}
    table = Table(title=f"workers started while the lab runs, {rounds} times each, {machine()}")
    for title in ("", *(way.about for way in ways), f"{PLAIN} / {FORKED}"):
        table.add_column(title, justify="right" if title else "left")

    def cell(name: str) -> str:
        value = values[name]
        return f"{value.value:,g} {value.unit}" + ("" if value.holds is None else " ✓" if value.holds else " ✗")

    table.add_row("launch of both", *(cell(f"{way.about}: launch of both") for way in ways), "")
    for kind in ways[0].times:
        for number, what in enumerate(("serves after, median", "serves after, most", "up after, median")):
            ratio = "" if number else cell(f"{kind}: {PLAIN} / {FORKED}")
            table.add_row(f"{kind}: {what}", *(cell(f"{way.about}, {kind}: {what}") for way in ways), ratio)
    console = Console(width=140)
    console.print(table)
    console.print(f"[dim]{write('restarts', list(values.values()))}[/dim]")
    return 0 if all(value.holds is not False for value in values.values()) else 1


def main() -> int:
    """Both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each change")
    options, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    ways = []
    for about in (FORKED, PLAIN):
        with tempfile.TemporaryDirectory() as folder:
            ways.append(measure(about, options.rounds, Path(folder)))
    return report(ways, options.rounds)


if __name__ == "__main__":
    sys.exit(main())
