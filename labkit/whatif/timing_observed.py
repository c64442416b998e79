"""What measured runs tell of single steps: how long prefills took by prompt tokens, and gaps between tokens by what was decoding.

Prefill: steps that request spans show, of workers that prefill alone; without spans the TTFT of requests that were sent one at a
time to an aggregated split, which has the way to the worker and back in it. Decode: the mean gap of a request, and what its
worker held meanwhile, on splits whose decode workers decode alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from labkit.errors import LabError
from labkit.measure.digest import Digest
from labkit.measure.join import join_spans
from labkit.measure.metrics import summarise
from labkit.measure.records import Window
from labkit.measure.steps import prefill_steps
from labkit.measure.timing import request_metrics
from labkit.spec import Role, Topology
from labkit.store.run import Run

_LEAST_GAPS = 3


@dataclass(frozen=True, slots=True)
class Prefilled:
    """A prefill of so many prompt tokens, and its seconds."""

    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """The gaps of a request: their mean in seconds, while its worker held so many tokens of so many requests on average."""

    active_kv_tokens: float
    context_tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Observed:
    """What one run tells.

    Attributes:
        run: its id.
        prefill, decode: observations.
        kv_bytes, kv_s: that were moved from prefill to decode workers, and the seconds that took; 0 where none was counted.
    """

    run: str
    prefill: tuple[Prefilled, ...]
    decode: tuple[Decoded, ...]
    kv_bytes: float
    kv_s: float


def observed_steps(run: Run, tp: int) -> Observed:
    """Every step of a run's windows that its records tell of, of workers of one TP degree; LabError where it is damaged."""
    records = run.digest()
    prefill: list[Prefilled] = []
    decode: list[Decoded] = []
    kv_bytes = kv_s = 0.0
    for window in run.windows:
        try:
            topology = Topology(window.topology)
        except LabError:
            continue
        groups = {group.role: group.tp for group in topology.groups}
        if groups.get(Role.PREFILL, groups.get(Role.AGGREGATED)) == tp:
            prefill += _prefills(records, window, topology)
        if topology.is_disaggregated and groups.get(Role.DECODE) == tp:
            decode += _decodes(records, window, topology)
            summary = summarise(records, window)
            kv_bytes += summary["kv_transfer_bytes"] or 0.0
            kv_s += summary["kv_transfer_s"] or 0.0
    return Observed(run.id, tuple(prefill), tuple(decode), kv_bytes, kv_s)


def _prefills(records: Digest, window: Window, topology: Topology) -> Iterator[Prefilled]:
    alone = topology.is_disaggregated or str(window.workload.get("osl")) == "1"
    steps = prefill_steps(records).get(window.measurement, []) if alone else []
    if steps:
        yield from (Prefilled(step.tokens, step.step_s) for step in steps if step.whole and step.step_s > 0)
    elif window.workload.get("concurrency") == 1 and not topology.is_disaggregated:
        metrics = request_metrics(records)
        mine = metrics.select(metrics.ok & metrics.measured & (metrics.measurement == window.measurement))
        for tokens, seconds in zip(mine.prompt_tokens, mine.ttft_s, strict=True):
            if np.isfinite(tokens) and np.isfinite(seconds):
                yield Prefilled(float(tokens), float(seconds))


def _decodes(records: Digest, window: Window, topology: Topology) -> Iterator[Decoded]:
    """One observation a request, while others came and went: their tokens, weighted by how long they were there."""
    metrics = request_metrics(records)
    mine = metrics.select(metrics.ok & (metrics.measurement == window.measurement))
    workers = _workers(records, window, topology)
    of = np.array([workers.get(int(request), "") for request in mine.request], dtype=object)
    begin, end = mine.first_token_ns, mine.last_token_ns
    held = mine.prompt_tokens + mine.output_tokens / 2
    known = np.isfinite(begin) & np.isfinite(end) & np.isfinite(held) & (of != "") & (end > begin)
    for at in np.flatnonzero(known & np.isfinite(mine.tpot_s) & mine.measured & (mine.output_tokens > _LEAST_GAPS)):
        beside = known & (of == of[at])
        shared_ns = np.minimum(end[beside], end[at]) - np.maximum(begin[beside], begin[at])
        part = np.clip(shared_ns, 0.0, None) / (end[at] - begin[at])
        active = float((part * held[beside]).sum())
        yield Decoded(active, active / float(part.sum()), float(mine.tpot_s[at]))


def _workers(records: Digest, window: Window, topology: Topology) -> dict[int, str]:
    """Request → the worker that decoded it: by its span, or the only one that there is."""
    if topology.count(Role.DECODE) == 1:
        return dict.fromkeys((int(request) for request in request_metrics(records).request), "the only one")
    rows = join_spans(records).to_pylist()
    return {row["request"]: row["worker"] for row in rows if row["measurement"] == window.measurement and row["part"] == "decode"}
