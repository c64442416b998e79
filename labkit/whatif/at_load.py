"""A given split under a given load, as projected: so many requests in flight, or so many arriving a second.

Aggregated workers share the requests in flight evenly. In a disaggregated split the requests in flight are in prefill or in
decode, C = rate · (TTFT + (OSL − 1) · TPOT) (Little's law), and what prefill workers cannot take in time waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.spec import Role, Topology
from labkit.whatif.projected import DECODE_SHARE, PREFILL_SHARE, TTFT_WAIT
from labkit.whatif.workers import WorkerPoint, Workers

#: vLLM's step on large GPUs, where nothing else was set.
STEP_TOKENS: Final = 8192
_FAR: Final = 1000  # times what prefill workers can take: nobody keeps more in flight


@dataclass(frozen=True, slots=True)
class AtLoad:
    """What a split does under a load, as projected; in seconds, and requests a second of the whole deployment."""

    ttft_s: float
    tpot_s: float
    request_hz: float
    batch: float


def at_load(
    workers: Workers,
    topology: Topology,
    *,
    concurrency: float | None = None,
    rate_hz: float | None = None,
    step_tokens: int = STEP_TOKENS,
) -> AtLoad | None:
    """The steady state of a split.

    Args:
        workers: as projected.
        topology: the split; of several groups of a role the first counts.
        concurrency: requests in flight; or
        rate_hz: requests that arrive a second.
        step_tokens: the most prompt tokens of a step of an aggregated worker.

    Returns:
        ``None`` where no such worker was projected, or where the load is more than the split can take.
    """
    groups = {group.role: group for group in reversed(topology.groups)}
    if topology.is_disaggregated:
        p, d = groups[Role.PREFILL], groups[Role.DECODE]
        curve = _disaggregated(workers.of(Role.PREFILL, (p.tp,)), workers.of(Role.DECODE, (d.tp,)), p.count, d.count, workers)
    else:
        a = groups[Role.AGGREGATED]
        curve = _aggregated(workers.of(Role.AGGREGATED, (a.tp,)), a.count, step_tokens, workers)
    if not curve:
        return None
    in_flight, rate, ttft, tpot, batch = (np.array(column) for column in zip(*curve, strict=True))
    along = in_flight if concurrency is not None else np.maximum.accumulate(rate)
    asked = concurrency if concurrency is not None else rate_hz
    if asked is None or asked > along[-1]:
        return None
    asked = max(asked, float(along[0]))  # below one request at a time there is always one
    ttft_s, tpot_s, hz, held = (float(np.interp(asked, along, values)) for values in (ttft, tpot, rate, batch))
    return AtLoad(ttft_s, tpot_s, hz if concurrency is not None else float(rate_hz or 0.0), held)


#: Requests in flight, requests a second, TTFT, TPOT, requests of a worker.
_Row = tuple[float, float, float, float, float]


def _aggregated(points: list[WorkerPoint], count: int, most: int, workers: Workers) -> list[_Row]:
    """One step size for each batch: whole prompts where a step holds one, else as large as a step may be."""
    isl = workers.setting.isl
    wanted = isl if isl <= most else most
    found: dict[int, WorkerPoint] = {}
    for point in points:
        known = found.get(point.batch)
        if known is None or abs(point.step_tokens - wanted) < abs(known.step_tokens - wanted):
            found[point.batch] = point
    return [
        (p.batch * count, p.request_hz * count, p.ttft_s, p.tpot_s, p.batch)
        for p in sorted(found.values(), key=lambda p: p.batch)
    ]


def _disaggregated(prefill: list[WorkerPoint], decode: list[WorkerPoint], x: int, y: int, workers: Workers) -> list[_Row]:
    """Prompt by prompt; beyond what prefill workers can take, what is in flight waits for them and TTFT grows."""
    if not prefill or not decode:
        return []
    first = min(prefill, key=lambda point: point.batch)
    most_hz, ttft_s, gaps = x * first.request_hz * PREFILL_SHARE, first.ttft_s * TTFT_WAIT, workers.setting.osl - 1
    rows: list[_Row] = []
    for point in sorted(decode, key=lambda point: point.batch):
        rate = y * point.request_hz * DECODE_SHARE
        if rate > most_hz:
            break
        rows.append((rate * (ttft_s + gaps * point.tpot_s), rate, ttft_s, point.tpot_s, point.batch))
    if len(rows) < len(decode):
        tpot_s, batch = rows[-1][3:] if rows else (min(decode, key=lambda point: point.batch).tpot_s, 1.0)
        # What is in flight when prefill is at its limit; then all that is added waits for a prefill worker.
        full = max(most_hz * (ttft_s + gaps * tpot_s), rows[-1][0] if rows else 0.0)
        waiting = (_FAR - 1) * full
        rows += [(full, most_hz, ttft_s, tpot_s, batch), (full + waiting, most_hz, ttft_s + waiting / most_hz, tpot_s, batch)]
    return rows
