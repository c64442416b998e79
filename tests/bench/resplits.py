"""Re-splits under load: how soon the new split takes requests, how many requests fail, against a launch of the same workers.

Two pools are re-split in turns while requests come all the time: real vLLM workers behind a router that is swapped, with as many
requests a second as two cores bear; and Dynamo's mockers behind its frontend, whose workers come and go, with very many. The peer
is what one would do otherwise: end the split and launch the other, which takes as long as the lab's first launch did.

    python tests/bench/resplits.py [--rounds 3] [--rate 150]

A request counts as failed whatever became of it; the reasons are printed. TTFT is that of the requests sent within a re-split
(from its call to its proof) against all others.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
from report import Value, machine, write  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from labkit import Lab, Workload  # noqa: E402
from labkit.measure.timing import ints, request_metrics  # noqa: E402
from labkit.serve.engines.base import EngineOptions  # noqa: E402
from labkit.serve.resplit import Resplit  # noqa: E402
from labkit.serve.timing import save_timing  # noqa: E402
from tests.support.profiles import handmade_profile  # noqa: E402

SPLITS = ("1P1D", "2A")
CALM_S = 3.0
MOST_SWITCH_S = 2.0


@dataclass(frozen=True, slots=True)
class Pool:
    """What is re-split, and under which load."""

    about: str
    engine: str
    model: str
    workload: Workload
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of it.

    Attributes:
        launch_s: of the first launch, until the split served.
        done: the re-splits in their order.
        ttft_s: of the requests sent within a re-split, and of the others.
        failures: reasons, with how many requests each.
    """

    launch_s: float
    done: Sequence[Resplit]
    ttft_s: tuple[np.ndarray, np.ndarray]
    requests: int
    failures: Counter[str]

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def pools(rate: float) -> list[Pool]:
    """Real workers, and simulated ones."""
    return [
        Pool("vLLM, router swapped", "vllm", "demo", Workload(isl=128, osl=32, rate=2.0, duration_s=600)),
        Pool(
            "Dynamo's mockers, workers added and drained", "mocker", "llama-3.1-8b",
            Workload(isl=64, osl=8, rate=rate, duration_s=600), simulated=True,
        ),
    ]  # fmt: skip


def measure(pool: Pool, rounds: int, folder: Path) -> Seen:
    """Launch, load, re-split there and back ``rounds`` times, stop."""
    options = EngineOptions()
    if pool.simulated:
        options = EngineOptions(timing=save_timing([handmade_profile(kv_transfer_bytes_s=50e9)], folder / "timing"))
    began = time.perf_counter()
    lab = Lab(
        pool.model, "2A", engine=pool.engine, options=options, workload=pool.workload, results=folder, progress=lambda line: None
    )
    launch_s, calm, done = time.perf_counter() - began, threading.Event(), list[Resplit]()
    with lab:
        with lab.load() as load:
            calm.wait(2 * CALM_S)
            for split in SPLITS * rounds:
                done.append(lab.resplit(split))
                print(f"{pool.about}: {str(done[-1]).splitlines()[0]}", flush=True)
                calm.wait(CALM_S)
            measured = load.stop()
        records = measured.run.digest()
    requests, timed = records.requests, request_metrics(records)
    sent_ns, ok = ints(requests, "sent_ns"), np.array(requests["outcome"].to_pylist()) == "ok"
    within = np.zeros(len(ok), bool)
    for one in done:
        within |= (sent_ns >= one.called_ns) & (sent_ns < one.called_ns + round(one.proven_s * 1e9))
    failures = Counter(
        row["reason"] or row["outcome"]
        for row in requests.select(["outcome", "reason"]).to_pylist()
        if row["outcome"] not in ("ok", "cancelled")
    )
    return Seen(launch_s, done, (timed.ttft_s[ok & within], timed.ttft_s[ok & ~within]), len(ok), failures)


def values_of(pool: Pool, seen: Seen) -> list[Value]:
    """What is written of one pool."""
    switched = statistics.median(one.switched_s for one in seen.done)
    soon = None if pool.simulated else bool(switched <= MOST_SWITCH_S)
    target = None if pool.simulated else f"≤ {MOST_SWITCH_S:g}"
    disturbed, calm = (float(np.median(side)) * 1e3 for side in seen.ttft_s)
    named = [
        Value("re-splits", len(seen.done), ""),
        Value("new split took requests after, median", round(switched, 2), "s", None, target, soon),
        Value("new split took requests after, most", round(max(one.switched_s for one in seen.done), 2), "s"),
        Value("counters proved it after, median", round(statistics.median(one.proven_s for one in seen.done), 2), "s"),
        Value("launch of the same workers", round(seen.launch_s, 1), "s"),
        Value("launch / re-split", round(seen.launch_s / switched, 1), "", "launch of the same workers"),
        Value("requests", seen.requests, ""),
        Value("failed requests", seen.failed, "", None, "0", seen.failed == 0),
        Value("median TTFT of requests sent within a re-split", round(disturbed, 1), "ms"),
        Value("median TTFT of the others", round(calm, 1), "ms"),
    ]
    return [Value(f"{pool.about}: {one.name}", one.value, one.unit, one.peer, one.target, one.holds) for one in named]


def report(found: Sequence[tuple[Pool, Seen]]) -> int:
    """Table and file; 1 where a target is missed."""
    table = Table(title=f"re-splits 2A ⇄ 1P1D under load, {machine()}")
    columns = [values_of(*one) for one in found]
    table.add_column("")
    for pool, _ in found:
        rate = pool.workload.rate
        table.add_column(f"{pool.about}, {rate:g} requests/s", justify="right")
    for row in zip(*columns, strict=True):
        name = row[0].name.split(": ", 1)[1]
        marks = ("" if one.holds is None else " ✓" if one.holds else " ✗" for one in row)
        table.add_row(name, *(f"{one.value:,g} {one.unit}{mark}" for one, mark in zip(row, marks, strict=True)))
    console = Console(width=140)
    console.print(table)
    for pool, seen in found:
        for reason, count in seen.failures.most_common(5):
            console.print(f"{pool.about}: {count} failed: {reason}", markup=False)
    values = [value for column in columns for value in column]
    console.print(f"[dim]{write('resplits', values)}[/dim]")
    return 0 if all(value.holds is not False for value in values) else 1


def main() -> int:
    """Every pool in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="there and back")
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second to the simulated workers")
    options, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    found = []
    for pool in pools(options.rate):
        with tempfile.TemporaryDirectory() as folder:
            found.append((pool, measure(pool, options.rounds, Path(folder))))
    return report(found)


if __name__ == "__main__":
    sys.exit(main())
