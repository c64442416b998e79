"""`labkit show` on a run of a million requests: seconds, CPU-seconds and peak memory of the whole command.

The run never happened: requests arrive at an even rate, each is answered in chunks of one token with gaps around 20 ms, and every
row goes through the store's own writers in the order in which a load client would flush it. Each command is a process of its own;
its peak memory and CPU are what the kernel counted for it.

    python tests/bench/summary.py [--requests 1000000] [--chunks 32 100] [--sides 1 2] [--repeats 3] [--folder FOLDER]

With two sides the same requests go to two sides, and the comparison with its intervals is part of the command.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import report  # noqa: E402

from labkit.measure.records import CHUNKS, REQUESTS, Window  # noqa: E402
from labkit.spec import Workload  # noqa: E402
from labkit.store import Run, SegmentWriter, create_run  # noqa: E402

SECOND: Final = 1_000_000_000
#: Requests a second; with answers of 2 s some 2,000 are under way at once.
RATE: Final = 1000
#: A shard hands its rows over four times a second.
FLUSH_NS: Final = SECOND // 4
#: What `labkit show` may take for a million requests.
MOST_S, MOST_GB = 10.0, 2.0

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took."""

    wall_s: float
    cpu_s: float
    peak_gb: float


# --- a run of a million requests ---


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Consecutive requests with the instants of their chunks (requests × chunks, ns)."""

    index: Ints
    request: Ints
    scheduled_ns: Ints
    t_ns: Ints


def answers(count: int, chunks: int, first: int, start_ns: int, seed: int) -> Iterator[Answers]:
    """Ten seconds of arrivals at a time."""
    rng = np.random.default_rng(seed)
    for begin in range(0, count, 10 * RATE):
        index = np.arange(begin, min(begin + 10 * RATE, count))
        scheduled = start_ns + index * (SECOND // RATE)
        ttft_ns = rng.lognormal(np.log(0.2e9), 0.3, len(index)).astype(np.int64)
        gaps = rng.lognormal(np.log(0.02e9), 0.25, (len(index), chunks - 1)).astype(np.int64)
        t_ns = np.cumsum(np.column_stack([scheduled + ttft_ns, gaps]), axis=1)
        yield Answers(index, first + index, scheduled, t_ns)


def make_run(results: Path, requests: int, chunks: int, sides: int) -> Run:
    """A finished run of ``requests`` in all, in equal parts for each of one or two sides."""
    names = ("2A", "1P1D")[:sides]
    run = create_run(
        results, None, {"kind": "synthetic", "topologies": list(names), "slo": {"ttft_s": 0.5, "tpot_s": 0.05, "e2e_s": None}}
    )
    count, start_ns = requests // sides, 1000 * SECOND
    workload = Workload(isl=512, osl=chunks, rate=RATE, requests=count, seed=0)
    with (
        SegmentWriter(run.segment("requests", "shard0"), REQUESTS) as request_sink,
        SegmentWriter(run.segment("chunks", "shard0"), CHUNKS) as chunk_sink,
    ):
        for number, side in enumerate(names):
            end_ns = _write_side(request_sink, chunk_sink, number, number * count, count, chunks, start_ns)
            stop_ns = start_ns + count * (SECOND // RATE)
            run.add_window(
                Window(
                    measurement=number, side=side, topology=side, repeat=0, epoch=number, start_ns=start_ns, measure_ns=start_ns,
                    stop_ns=stop_ns, end_ns=end_ns, accelerators=2.0, accelerator="core", workload=workload.to_dict(),
                )
            )  # fmt: skip
            start_ns = end_ns + 5 * SECOND
    run.finish()
    return run


def _write_side(
    request_sink: SegmentWriter, chunk_sink: SegmentWriter, number: int, first: int, count: int, chunks: int, start_ns: int
) -> int:
    """All rows of one measurement, as they come about; returns when the last one did."""
    late_request, late_ns = np.zeros(0, np.int64), np.zeros(0, np.int64)
    end_ns = start_ns
    for some in answers(count, chunks, first, start_ns, seed=number):
        _write_requests(request_sink, some, number, chunks)
        now_ns = int(some.scheduled_ns[-1])
        request = np.concatenate([late_request, np.repeat(some.request, chunks)])
        t_ns = np.concatenate([late_ns, some.t_ns.ravel()])
        due = t_ns <= now_ns
        late_request, late_ns = request[~due], t_ns[~due]
        _write_chunks(chunk_sink, request[due], t_ns[due])
        end_ns = max(end_ns, int(some.t_ns.max()))
    _write_chunks(chunk_sink, late_request, late_ns)
    return end_ns + SECOND // 100


def _write_chunks(sink: SegmentWriter, request: Ints, t_ns: Ints) -> None:
    order = np.argsort(t_ns, kind="stable")
    request, t_ns = request[order], t_ns[order]
    flushes = np.flatnonzero(np.diff(t_ns // FLUSH_NS)) + 1
    for some, at in zip(np.split(request, flushes), np.split(t_ns, flushes), strict=True):
        sink.append({"request": some, "t_ns": at, "tokens": np.ones(len(some), np.int16), "text": np.ones(len(some), np.bool_)})
    sink.flush()


def _write_requests(sink: SegmentWriter, some: Answers, number: int, chunks: int) -> None:
    order = np.argsort(some.t_ns[:, -1], kind="stable")
    request, rows = some.request[order], len(order)
    ids = [f"labkit-0123abcd-{n}" for n in request.tolist()]
    same: dict[str, Any] = {
        "measurement": number, "epoch": number, "shard": 0, "phase": "measure", "isl": 512, "osl": chunks, "outcome": "ok",
        "http_status": 200, "done": True, "prompt_tokens": 512, "output_tokens": chunks, "tokens_from": "usage",
        "straddled": False,
    }  # fmt: skip
    sink.append(
        {name: [value] * rows if isinstance(value, str) else np.full(rows, value) for name, value in same.items()}
        | {
            "request": request,
            "index": some.index[order],
            "scheduled_ns": some.scheduled_ns[order],
            "sent_ns": some.scheduled_ns[order] + 200_000,
            "end_ns": some.t_ns[order, -1] + 500_000,
            "sent_id": ids,
            "server_id": [f"cmpl-{text}" for text in ids],
        }
    )
    sink.flush()


# --- the command ---


def show(run: Run) -> Cost:
    """`labkit show` on a run, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, "-m", "labkit.cli.main", "show", str(run.path)]
    began = time.perf_counter()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"labkit show failed:\n{said.decode()}")
    return Cost(time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9)


def contest(requests: int, chunks: int, sides: int, repeats: int, folder: Path | None) -> list[report.Value]:
    """Make a run, show it, print the line of the table."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        run = make_run(Path(scratch), requests, chunks, sides)
        size_gb = (run.path / "chunks.parquet").stat().st_size / 1e9
        costs = [show(run) for _ in range(repeats)]
    wall_s, cpu_s, peak_gb = (statistics.median(getattr(cost, name) for cost in costs) for name in ("wall_s", "cpu_s", "peak_gb"))
    print(f"{requests:>10,}{chunks:>8}{sides:>7}{size_gb:>12.2f}{wall_s:>9.1f}{cpu_s:>9.1f}{peak_gb:>10.2f}", flush=True)
    tag = f"{requests:,} requests of {chunks} chunks, {sides} side{'s' * (sides > 1)}"
    within = {"s": (wall_s, MOST_S), "GB": (peak_gb, MOST_GB)} if requests == 1_000_000 and sides == 1 else {}
    judged = {unit: {"target": f"≤ {most:g}", "holds": value <= most} for unit, (value, most) in within.items()}
    return [
        report.Value(f"labkit show, {tag}", round(wall_s, 2), "s", **judged.get("s", {})),
        report.Value(f"CPU, {tag}", round(cpu_s, 2), "s"),
        report.Value(f"peak memory, {tag}", round(peak_gb, 2), "GB", **judged.get("GB", {})),
        report.Value(f"chunks.parquet, {tag}", round(size_gb, 2), "GB"),
    ]


def main() -> None:
    """Run everything, print the table, write the values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--chunks", type=int, nargs="+", default=[32, 100], help="chunks a request")
    parser.add_argument("--sides", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3, help="times that each run is shown; the table has medians")
    parser.add_argument("--folder", type=Path, help="where the runs are made; they take 4 GB at most, and are removed")
    options, _ = parser.parse_known_args()  # `make bench` gives every benchmark the same arguments
    print(f"labkit show · {report.machine()} · load {os.getloadavg()[0]:.1f}")
    print(f"{'requests':>10}{'chunks':>8}{'sides':>7}{'Parquet GB':>12}{'wall s':>9}{'CPU s':>9}{'peak GB':>10}")
    values: list[report.Value] = []
    for sides in options.sides:
        for chunks in options.chunks:
            values += contest(options.requests, chunks, sides, options.repeats, options.folder)
    for value in values:
        if value.target:
            print(
                f"{value.name}: {value.value} {value.unit} (target {value.target}): {'holds' if value.holds else 'DOES NOT HOLD'}"
            )
    print(f"written to {report.write('summary', values)}")


if __name__ == "__main__":
    main()
