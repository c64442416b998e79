"""Records of a run that never happened: a small simulation of prefill, decode and KV transfer on equal workers, seeded.

Each worker does one thing at a time, as an engine step does: a prefill holds back every decode on the same worker. So the
records show what real ones show: stalls where prefill and decode share a worker, longer first tokens where they do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.measure.records import CHUNKS, EVENTS, REQUESTS, SAMPLES, SPANS, Records, Window
from labkit.spec.topology import Role, Topology

SECOND = 1_000_000_000
PREFILL_S, STEP_S, TRANSFER_S, KV_BYTES = 0.312, 0.0156, 0.0039, 4_190_000


@dataclass
class _Job:
    index: int
    ready_s: float
    osl: int
    arrived_s: float = 0.0
    prefill: tuple[float, float] = (0.0, 0.0)
    left: int = 0
    tokens_s: list[float] = field(default_factory=list)


@dataclass
class _Busy:
    """What a worker did: ``(start, end, running, waiting, kind)`` of every step."""

    steps: list[tuple[float, float, int, int, str]] = field(default_factory=list)
    received_s: list[float] = field(default_factory=list)


def _serve(jobs: list[_Job], rng: np.random.Generator, *, prefill: bool, decode: bool) -> _Busy:
    """Run ``jobs`` (by arrival) on one worker; writes their prefill interval and token times."""
    busy, now, queue, running = _Busy(), 0.0, sorted(jobs, key=lambda job: job.ready_s), []
    while queue or running:
        if not running and queue and queue[0].ready_s > now:
            now = queue[0].ready_s
        waiting = sum(job.ready_s <= now for job in queue)
        if queue and queue[0].ready_s <= now:
            job, start = queue.pop(0), now
            if prefill:
                now += PREFILL_S * rng.lognormal(0, 0.06)
                job.tokens_s.append(now)
                busy.steps.append((start, now, len(running) + 1, waiting - 1, "prefill"))
            job.prefill, job.left = (start, now), job.osl - prefill
            if decode and job.left:
                running.append(job)
            continue
        start, now = now, now + (STEP_S + 0.0011 * len(running)) * rng.lognormal(0, 0.08) * (6 if rng.random() < 0.002 else 1)
        busy.steps.append((start, now, len(running), waiting, "decode"))
        for job in running:
            job.tokens_s.append(now)
            job.left -= 1
        running = [job for job in running if job.left]
    return busy


def run(
    sides: tuple[str, ...] = ("2A", "1P1D", "2A", "1P1D"),
    *,
    rate: float = 1.5,
    warmup_s: float = 5.0,
    duration_s: float = 40.0,
    osl: int = 32,
    seed: int = 0,
    gpus: bool = False,
    spans: bool = True,
    samples: bool = True,
    fail: float = 0.0,
    ends: str = "cut",
    tokens_known: bool = True,
) -> tuple[Records, dict[str, Any]]:
    """``(records, manifest)`` of one run with a window for each entry of ``sides``; repeats count within a side.

    Args:
        fail: share of the requests that end half way, with the outcome ``ends``.
    """
    tables: dict[str, list[dict[str, Any]]] = {"requests": [], "chunks": [], "samples": [], "spans": [], "events": []}
    windows: list[Window] = []
    epochs: list[dict[str, Any]] = []
    start_s, totals = 1000.0, {}
    for number, side in enumerate(sides):
        known = side != "attached"
        topology = Topology(side if known else "2A")
        roles = {f"w{i}": role.value for i, (role, _) in enumerate(topology.workers)}
        repeat = sum(window.side == side for window in windows)
        rng = np.random.default_rng([seed, repeat])
        gaps = rng.exponential(1 / rate, int(rate * (warmup_s + duration_s) * 3) + 5)
        sends = np.cumsum(gaps)
        sends = sends[sends < warmup_s + duration_s]
        epochs.append(
            {"epoch": number, "topology": side, "start_ns": int((start_s - 1.5) * SECOND), "roles": roles if known else {}}
        )
        if number:
            event = {
                "t_ns": int((start_s - 1.5) * SECOND),
                "kind": "resplit",
                "text": f"{sides[number - 1]} → {side}",
                "data": None,
            }
            tables["events"].append(event)
        jobs = [_Job(i, float(t), osl) for i, t in enumerate(sends)]
        busy, worked = _deploy(jobs, topology, rng)
        end_s = max([warmup_s + duration_s, *(job.tokens_s[-1] for job in jobs)]) + 0.02
        first = len(tables["requests"])
        for job in jobs:
            phase = "warmup" if job.ready_s < warmup_s else "measure"
            outcome = ends if rng.random() < fail else "ok"
            _request(tables, first + job.index, number, job, start_s, phase, outcome, tokens_known)
        if spans:
            for worker, role, job, begin, prefill, decode in worked:
                _span(tables["spans"], first, start_s, worker, role, job, begin, prefill, decode)
        if samples:
            _samples(tables["samples"], roles, busy, start_s, end_s, rng, totals, gpus=gpus)
        at = [int((start_s + t) * SECOND) for t in (0.0, warmup_s, warmup_s + duration_s, end_s)]
        windows.append(
            Window(
                measurement=number,
                side=side,
                topology=side,
                repeat=repeat,
                epoch=number,
                start_ns=at[0],
                measure_ns=at[1],
                stop_ns=at[2],
                end_ns=at[3],
                accelerators=float(topology.accelerators),
                accelerator="GPU" if gpus else "core",
                workload={
                    "isl": "512",
                    "osl": str(osl),
                    "rate": rate,
                    "duration_s": duration_s,
                    "warmup_s": warmup_s,
                    "seed": seed + repeat,
                },
            )
        )
        start_s += end_s + 2.5
    schemas = {"requests": REQUESTS, "chunks": CHUNKS, "samples": SAMPLES, "spans": SPANS, "events": EVENTS}
    built = {name: pa.Table.from_pylist(rows, schema=schemas[name]) for name, rows in tables.items()}
    manifest = {
        "id": "20260101-compare-demo",
        "epochs": epochs,
        "model": {"name": "labkit-demo", "dummy_weights": True},
        "hardware": {"device": "8 × NVIDIA H100 80GB HBM3" if gpus else "CPU, 2 cores"},
    }
    if gpus:
        for epoch in manifest["epochs"]:
            epoch["gpus"] = {worker: [i] for i, worker in enumerate(epoch["roles"])}
    return Records(**built, windows=tuple(windows)), manifest


def _deploy(jobs: list[_Job], topology: Topology, rng: np.random.Generator) -> tuple[dict[str, _Busy], list[Any]]:
    """Route round robin; ``(busy by worker, [(worker, role, job, start, prefill, decode)])`` in seconds from its start."""
    names = {role: [f"w{i}" for i, (r, _) in enumerate(topology.workers) if r is role] for role in Role}
    busy: dict[str, _Busy] = {}
    worked: list[Any] = []
    if not topology.is_disaggregated:
        for i, worker in enumerate(names[Role.AGGREGATED]):
            mine = [job for job in jobs if job.index % len(names[Role.AGGREGATED]) == i]
            busy[worker] = _serve(mine, rng, prefill=True, decode=True)
            worked += [(worker, "A", job, job.ready_s, job.prefill, (job.prefill[1], job.tokens_s[-1])) for job in mine]
        return busy, worked
    sent = {job.index: job.ready_s for job in jobs}
    for i, worker in enumerate(names[Role.PREFILL]):
        mine = [job for job in jobs if job.index % len(names[Role.PREFILL]) == i]
        busy[worker] = _serve(mine, rng, prefill=True, decode=False)
        worked += [(worker, "P", job, job.ready_s, job.prefill, (job.prefill[1], job.prefill[1])) for job in mine]
    for i, worker in enumerate(names[Role.DECODE]):
        mine = [job for job in jobs if job.index % len(names[Role.DECODE]) == i]
        arrived = {}
        for job in mine:
            arrived[job.index] = job.ready_s = job.prefill[1] + 0.004
            job.ready_s += TRANSFER_S + 0.003
            job.tokens_s = []
        busy[worker] = _serve(mine, rng, prefill=False, decode=True)
        busy[worker].received_s = sorted(job.prefill[0] for job in mine)
        for job in mine:
            worked.append(
                (worker, "D", job, arrived[job.index], (job.prefill[0], job.prefill[0]), (job.prefill[0], job.tokens_s[-1]))
            )
    for job in jobs:
        job.ready_s = sent[job.index]
    return busy, worked


def _request(
    tables: dict[str, list[Any]], request: int, number: int, job: _Job, start_s: float, phase: str, outcome: str, known: bool
) -> None:
    failed = outcome != "ok"
    send, end = start_s + job.ready_s, start_s + job.tokens_s[-1] + 0.002
    kept = job.tokens_s[: len(job.tokens_s) // 2] if failed else job.tokens_s
    tables["requests"].append(
        {
            "request": request,
            "measurement": number,
            "index": job.index,
            "epoch": number,
            "shard": 0,
            "phase": phase,
            "scheduled_ns": int(send * SECOND),
            "sent_ns": int((send + 0.0003) * SECOND),
            "end_ns": int(end * SECOND),
            "isl": 512,
            "osl": job.osl,
            "outcome": outcome,
            "http_status": 200,
            "reason": None,
            "done": not failed,
            "prompt_tokens": 512,
            "output_tokens": None if failed else job.osl,
            "tokens_from": None if failed else "usage",
            "sent_id": f"r{request}",
            "server_id": f"cmpl-r{request}",
            "straddled": False,
        }
    )
    for t in kept:
        tables["chunks"].append(
            {"request": request, "t_ns": int((start_s + t + 0.001) * SECOND), "tokens": 1 if known else None, "text": True}
        )


def _span(
    rows: list[Any],
    first: int,
    start_s: float,
    worker: str,
    role: str,
    job: _Job,
    begin: float,
    prefill: tuple[float, float],
    decode: tuple[float, float],
) -> None:
    rows.append(
        {
            "worker": worker,
            "server_id": f"cmpl-r{first + job.index}" + ("-0" if role == "A" else ""),
            "start_ns": int((start_s + begin) * SECOND),
            "queue_s": prefill[0] - begin,
            "prefill_s": prefill[1] - prefill[0],
            "decode_s": decode[1] - decode[0],
            "ttft_s": prefill[1] - begin,
            "e2e_s": decode[1] - begin,
            "prompt_tokens": 512,
            "output_tokens": 1 if role == "P" else job.osl,
        }
    )


def _samples(
    rows: list[Any],
    roles: dict[str, str],
    busy: dict[str, _Busy],
    start_s: float,
    end_s: float,
    rng: np.random.Generator,
    totals: dict[str, list[float]],
    *,
    gpus: bool,
) -> None:
    for number, (worker, done) in enumerate(busy.items()):
        steps = np.array([(a, b, r, w) for a, b, r, w, _ in done.steps] or [(0, 0, 0, 0)])
        total = totals.setdefault(worker, [0.0, 0.0, 0.0])
        received = 0
        kind_at = [kind for *_, kind in done.steps]
        for t in np.arange(0, end_s, 0.25):
            t_ns = int((start_s + t) * SECOND)
            used = np.clip(np.minimum(steps[:, 1], t) - np.maximum(steps[:, 0], t - 0.25), 0, None).sum() / 0.25
            at = int(np.searchsorted(steps[:, 0], t, "right")) - 1
            live = at >= 0 and steps[at, 1] >= t
            values = {
                "cpu_cores": float(min(used + 0.02 + rng.normal(0, 0.01), 1.05)),
                "vllm:num_requests_running": float(steps[at, 2]) if live else 0.0,
                "vllm:num_requests_waiting": float(steps[at, 3]) if live else 0.0,
            }
            if roles[worker] == "D":
                new = int(np.searchsorted(done.received_s, t)) - received
                received += new
                total[0] += new * KV_BYTES
                total[1] += new * TRANSFER_S * float(rng.lognormal(0, 0.15))
                total[2] += new
            names = ("vllm:nixl_bytes_transferred_sum", "vllm:nixl_xfer_time_seconds_sum", "vllm:nixl_xfer_time_seconds_count")
            values |= dict(zip(names, total, strict=True))
            if gpus:
                prefilling = live and kind_at[at] == "prefill"
                rows += [
                    {"t_ns": t_ns, "source": f"gpu{number}", "metric": metric, "value": value}
                    for metric, value in {
                        "sm_active_fraction": float(
                            np.clip((0.93 if prefilling else 0.55) * min(used, 1) + rng.normal(0, 0.03), 0, 1)
                        ),
                        "power_w": 110 + (560 if prefilling else 240) * min(used, 1) + rng.normal(0, 8),
                        "memory_used_bytes": 61e9 + 3e9 * values["vllm:num_requests_running"] / 8,
                    }.items()
                ]
            rows += [{"t_ns": t_ns, "source": worker, "metric": metric, "value": value} for metric, value in values.items()]
