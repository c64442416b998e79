"""A made-up exploration, seeded: samples as a live lab would give them, with re-splits, load changes, a fault and pins."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from labkit.live import DeviceSample, Dot, Estimate, LiveEvent, LiveStats, Pin, Sample, WorkerSample
from labkit.spec.topology import Role, Topology

TICK_S = 0.25


def feed(workers: int = 4, seed: int = 0, *, gpu: bool = True, calm: bool = False) -> Iterator[Sample]:
    """Samples for ever, four a second. ``calm`` has no events."""
    rng = random.Random(seed)
    split = f"{workers}A"
    rate, dead, queue, failed = 6.0 * workers, -1, 0.0, 0
    smooth = [rng.random() for _ in range(workers)]
    tick = 0
    while True:
        t = round(tick * TICK_S, 3)
        events: list[LiveEvent] = []
        if not calm and workers > 1:
            at = t % 180
            if at == 0 and tick == 0:
                events.append(LiveEvent(t, "launch", f"{split} ready"))
            if at == 22:
                split = f"{max(workers // 4, 1)}P{workers - max(workers // 4, 1)}D"
                events.append(LiveEvent(t, "resplit", f"{workers}A → {split}"))
            if at == 36:
                rate *= 1.6
                events.append(LiveEvent(t, "load", f"{rate:.0f} req/s"))
            if at == 44:
                dead = workers - 1
                events.append(LiveEvent(t, "fault", f"worker-{dead}: killed by signal 9"))
            if at == 52:
                dead = -1
                events.append(LiveEvent(t, "launch", f"worker-{workers - 1} back"))
            if at == 58:
                events.append(LiveEvent(t, "pin", f"pin {split}"))
            if at == 110:
                split = f"{workers}A"
                rate /= 1.6
                events.append(LiveEvent(t, "resplit", f"→ {split}"))
        roles = [role for role, _ in Topology(split).workers]
        disaggregated = roles[0] is not Role.AGGREGATED
        burst = 1 + 0.25 * math.sin(t / 4.1) + 0.12 * math.sin(t / 1.3) + rng.gauss(0, 0.03)
        load = rate / workers / 6 * burst * (1.25 if dead >= 0 else 1)
        queue = max(0.0, queue * 0.92 + (load - 1.15) * 2.2)
        smooth = [0.85 * old + 0.15 * rng.random() for old in smooth]
        itl = 0.011 + 0.010 * load if disaggregated else 0.013 + 0.016 * load
        p99 = itl * (1.5 if disaggregated else 2.3 + 0.4 * math.sin(t / 2.7)) + abs(rng.gauss(0, 0.0012))
        ttft = 0.055 + 0.05 * load + queue * 0.012 + (0.03 if disaggregated else 0) + abs(rng.gauss(0, 0.003))
        known = t >= 1.0 and not 70 <= t < 73
        tokens = rate * burst * 96 * (0.9 if dead >= 0 else 1)
        failed += dead >= 0 and rng.random() < 0.2
        made_workers, devices = [], []
        for i, role in enumerate(roles):
            alive = i != dead
            share = load * (0.75 + 0.5 * smooth[i])
            prefill = role is Role.PREFILL
            made_workers.append(
                WorkerSample(
                    f"worker-{i}",
                    role,
                    alive,
                    "" if alive else "killed by signal 9",
                    running=round(share * (2 if prefill else 9)) if alive else None,
                    waiting=round(max(0.0, queue * (1.5 if prefill else 0.6) * smooth[i])) if alive else None,
                    kv_cache_use=min(0.99, (0.1 if prefill else 0.38) * share + 0.02 * smooth[i]) if alive else None,
                    kv_transfer_bytes_s=share * 48e6 if role is Role.DECODE and alive else None,
                )
            )
            use = min(1.0, (0.72 if prefill else 0.46 if disaggregated else 0.6) * share)
            devices.append(
                DeviceSample(
                    f"GPU {i}" if gpu else f"core {i}",
                    f"worker-{i}",
                    role,
                    utilisation=use if alive else None,
                    memory_use=0.71 + 0.012 * i / workers * 8 + 0.01 * smooth[i] if alive else 0.03,
                    power_w=(110 + 520 * use + 12 * smooth[i]) if gpu else None,
                )
            )
        slow_ttft = (Dot(t, 1000 + tick, ttft * rng.uniform(2.2, 6)),) if known and rng.random() < 0.05 else ()
        slow_itl = (Dot(t, 1000 + tick, p99 * rng.uniform(1.3, 2.6)),) if known and rng.random() < 0.07 else ()
        stats = LiveStats(
            window_s=10.0,
            requests=round(rate * 10),
            gaps=round(tokens * 10),
            sent_hz=rate * burst,
            done_hz=rate * burst * 0.98,
            failed=failed,
            in_flight=round(load * 9 * workers + queue * workers),
            output_tok_s=tokens if known else None,
            output_tok_s_per_accelerator=tokens / workers if known else None,
            tok_s_per_user=1 / itl if known else None,
            goodput_hz=rate * burst * (0.97 if p99 < 0.05 else 0.7) if known else None,
            ttft_p50_s=ttft if known else None,
            ttft_p99_s=ttft * 2.1 + abs(rng.gauss(0, 0.012)) if known else None,
            itl_p50_s=itl if known else None,
            itl_p99_s=p99 if known else None,
        )
        yield Sample(t, int(t * 1e9), split, stats, tuple(made_workers), tuple(devices), tuple(events), slow_ttft, slow_itl)
        tick += 1


def pins() -> tuple[Pin, ...]:
    """Three pins of two splits, with intervals; the last one does not know its ITL."""
    return (
        _pin("A", "4A", 20, 1480, 31, 0.14, 0.31, 0.0295, 0.071),
        _pin("B", "1P3D", 58, 1390, 47, 0.19, 0.42, 0.0212, 0.034),
        _pin("C <b>", "2P2D", 90, 1120, 52, 0.12, 0.22, None, None),
    )


def _pin(
    label: str,
    topology: str,
    t_s: float,
    tok: float,
    user: float,
    p50: float,
    p99: float,
    itl50: float | None,
    itl99: float | None,
) -> Pin:
    values = {
        "output_tok_s_per_accelerator": tok,
        "tok_s_per_user": user,
        "ttft_p50_s": p50,
        "ttft_p99_s": p99,
        "itl_p50_s": itl50,
        "itl_p99_s": itl99,
    }
    metrics = {name: Estimate(value, value * 0.96, value * 1.05) for name, value in values.items() if value is not None}
    return Pin(label, topology, "24 req/s, 512 → 128", "2026-01-01-ab12", f"m-{label}", t_s, 30.0, metrics)


#: Charts that a ``drive`` feeds now.
DRIVEN: set[object] = set()


async def drive(charts: Any, samples: Iterator[Sample], tell: Callable[[int], None] = lambda _: None) -> None:
    """Push a sample every tick until the charts are closed; ``tell`` gets how many are kept."""
    DRIVEN.add(charts)
    try:
        for sample in samples:
            if not charts.push(sample):
                return
            tell(len(charts.history))
            await asyncio.sleep(TICK_S)
    finally:
        DRIVEN.remove(charts)
