"""How soon a fleet of simulated workers serves: dozens of Dynamo's mockers launched, proven, loaded and ended, some times over.

    python tests/bench/fleet.py [--workers 24] [--rounds 3]

A third of the workers decode, the others prefill. The time of a launch is that of ``Lab(…)``: until every worker has registered
and the counters have proved the split. Memory is the workers' PSS, so that what they share counts once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import psutil  # noqa: E402
from report import Value, machine, write  # noqa: E402

from labkit import Lab, Workload  # noqa: E402
from labkit.serve.engines.base import EngineOptions  # noqa: E402
from labkit.serve.timing import save_timing  # noqa: E402
from tests.support.profiles import handmade_profile  # noqa: E402

LOAD = Workload(isl=200, osl=8, rate=30.0, duration_s=8.0)


@dataclass(frozen=True, slots=True)
class Round:
    """One fleet, from its launch to its end.

    Attributes:
        launch_s, close_s: of the lab.
        pss_bytes: of all workers while they serve.
        requests, failed: of the load.
    """

    launch_s: float
    close_s: float
    pss_bytes: int
    requests: int
    failed: int


def fleet(workers: int) -> str:
    """The split of so many workers."""
    decode = max(1, workers // 3)
    return f"{workers - decode}P{decode}D"


def measure(workers: int, folder: Path) -> Round:
    """Launch, load, end."""
    timing = save_timing([handmade_profile(kv_transfer_bytes_s=50e9)], folder / "timing")
    began = time.perf_counter()
    lab = Lab(
        "llama-3.1-8b", fleet(workers), engine="mocker", options=EngineOptions(timing=timing), workload=LOAD, results=folder,
        progress=lambda line: None,
    )  # fmt: skip
    launch_s = time.perf_counter() - began
    with lab:
        measured = lab.measure()
        pss = sum(psutil.Process(worker.tree.pid).memory_full_info().pss for worker in lab.deployment.workers)
        closing = time.perf_counter()
    return Round(launch_s, time.perf_counter() - closing, pss, sum(measured.counts.values()), measured.failed)


def values_of(workers: int, rounds: Sequence[Round]) -> list[Value]:
    """What is written."""
    launches = [one.launch_s for one in rounds]
    return [
        Value("simulated workers", workers, ""),
        Value("launches", len(rounds), ""),
        Value("launch until the split was proven, median", round(statistics.median(launches), 1), "s"),
        Value("launch until the split was proven, most", round(max(launches), 1), "s"),
        Value("end of all of its processes, most", round(max(one.close_s for one in rounds), 1), "s"),
        Value("memory of a worker", round(max(one.pss_bytes for one in rounds) / workers / 1e6), "MB"),
        Value("requests", sum(one.requests for one in rounds), ""),
        Value("failed requests", failed := sum(one.failed for one in rounds), "", None, "0", failed == 0),
    ]


def main() -> int:
    """Every round in turn; 1 where a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=24, help="of the fleet")
    parser.add_argument("--rounds", type=int, default=3, help="launches")
    options, _ = parser.parse_known_args()  # `make bench` hands every benchmark the same arguments
    found = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(options.workers, Path(folder)))
        print(found[-1], flush=True)
    print(f"{fleet(options.workers)} on {machine()}")
    values = values_of(options.workers, found)
    for one in values:
        print(f"{one.name}: {one.value:,g} {one.unit}")
    print(write("fleet", values))
    return 0 if all(value.holds is not False for value in values) else 1


if __name__ == "__main__":
    sys.exit(main())
