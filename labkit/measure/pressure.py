"""How hard each role's workers were pressed while a side was measured, from their own gauges, their device and their spans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from labkit.errors import LabError
from labkit.measure.columns import floats
from labkit.measure.counters import growth, means, series
from labkit.measure.digest import Digest
from labkit.measure.epochs import epoch_of
from labkit.measure.intervals import Intervals
from labkit.measure.join import join_spans
from labkit.measure.records import Window
from labkit.spec.topology import Role, Topology

_KV_USE: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")  # the second: vLLM before 0.9
_GPU_USE: Final = ("sm_active_fraction", "gpu_busy_fraction")
_PREEMPTIONS: Final = "vllm:num_preemptions_total"
_HIGH: Final = 95


@dataclass(frozen=True, slots=True)
class Pressure:
    """Of the workers of one role, averaged over workers and windows; ``None`` where nobody told.

    Attributes:
        workers: how many there were.
        used: share of its cores or of its GPU's SMs that a worker used, 0 to 1.
        prefilling: share of the time in which a worker had at least one prompt in work, 0 to 1.
        running, waiting: requests on a worker.
        kv_used: 95th percentile of the share of its KV cache in use, of the worker that used most.
        preemptions: requests that lost their KV cache to others, of all workers.
        prefilling_of, running_of: the two above by worker, of those that told.
    """

    workers: int
    used: float | None
    prefilling: float | None
    running: float | None
    waiting: float | None
    kv_used: float | None
    preemptions: float | None
    prefilling_of: Mapping[str, float] = field(default_factory=dict)
    running_of: Mapping[str, float] = field(default_factory=dict)


def roles_of(window: Window, manifest: Mapping[str, Any]) -> dict[str, Role]:
    """The role of every worker in a window: as the manifest tells, else as the topology lists them; empty where none is known."""
    if named := epoch_of(manifest, window.epoch).get("roles"):
        return {worker: Role(role) for worker, role in named.items()}
    try:
        return {f"w{number}": role for number, (role, _) in enumerate(Topology(window.topology).workers)}
    except LabError:
        return {}


def pressures(side: Sequence[tuple[Digest, Window]], manifest: Mapping[str, Any]) -> dict[Role, Pressure]:
    """How hard the workers of each role were pressed in the windows of a side.

    Args:
        side: windows with what was taken in of their run.
        manifest: of the run: its epochs name the workers' roles and GPUs.
    """
    told: dict[Role, list[tuple[str, dict[str, float]]]] = {}
    counts: dict[Role, int] = {}
    for records, window in side:
        roles = roles_of(window, manifest)
        facts = _facts(records, window, roles, epoch_of(manifest, window.epoch))
        for role in set(roles.values()):
            counts[role] = max(counts.get(role, 0), sum(other is role for other in roles.values()))
            told.setdefault(role, []).extend((worker, facts[worker]) for worker, held in roles.items() if held is role)

    def over(rows: Iterable[tuple[str, Mapping[str, float]]], name: str, worker: str | None = None) -> list[float]:
        return [row[name] for whose, row in rows if name in row and worker in (None, whose)]

    def mean(rows: Sequence[tuple[str, Mapping[str, float]]], name: str) -> float | None:
        return float(np.mean(found)) if (found := over(rows, name)) else None

    def by_worker(rows: Sequence[tuple[str, Mapping[str, float]]], name: str) -> dict[str, float]:
        known = {worker: over(rows, name, worker) for worker in sorted({worker for worker, _ in rows})}
        return {worker: float(np.mean(found)) for worker, found in known.items() if found}

    return {
        role: Pressure(
            workers=counts[role],
            used=mean(rows, "used"),
            prefilling=mean(rows, "prefilling"),
            running=mean(rows, "running"),
            waiting=mean(rows, "waiting"),
            kv_used=max(over(rows, "kv_used"), default=None),
            preemptions=sum(over(rows, "preemptions")) if over(rows, "preemptions") else None,
            prefilling_of=by_worker(rows, "prefilling"),
            running_of=by_worker(rows, "running"),
        )
        for role, rows in told.items()
    }


def _facts(records: Digest, window: Window, roles: Mapping[str, Role], epoch: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What is known of each worker, by the names of ``Pressure``."""
    samples, facts = records.samples, {worker: dict[str, float]() for worker in roles}

    def keep(name: str, values: Mapping[str, float | None]) -> None:
        for worker, value in values.items():
            if worker in facts and value is not None:
                facts[worker][name] = value

    for metric in ("running", "waiting"):
        keep(metric, means(samples, f"vllm:num_requests_{metric}", window))
    if window.accelerator == "core":
        held = {worker: len(devices.get("cores") or ()) for worker, devices in (epoch.get("devices") or {}).items()}
        cores = means(samples, "cpu_cores", window)
        keep("used", {worker: min(used / held[worker], 1.0) for worker, used in cores.items() if held.get(worker)})
    for metric in _GPU_USE[::-1]:
        use = means(samples, metric, window)
        for worker, gpus in (epoch.get("gpus") or {}).items():
            if known := [use[f"gpu{index}"] for index in gpus if f"gpu{index}" in use]:
                keep("used", {worker: float(np.mean(known))})
    for metric in _KV_USE:
        for worker, gauge in series(samples, metric).items():
            inside = gauge.value[(gauge.t_ns >= window.measure_ns) & (gauge.t_ns < window.stop_ns)]
            if len(inside):
                keep("kv_used", {worker: float(np.percentile(inside, _HIGH))})
    counters = series(samples, _PREEMPTIONS)
    keep("preemptions", {worker: growth(counter, window.measure_ns, window.stop_ns) for worker, counter in counters.items()})
    keep("prefilling", _prefilling(records, window))
    return facts


def _prefilling(records: Digest, window: Window) -> dict[str, float]:
    spans = join_spans(records.of(window))
    if not spans.num_rows or window.stop_ns <= window.measure_ns:
        return {}
    worker = np.asarray(spans.column("worker").to_numpy(zero_copy_only=False), dtype=object)
    part = np.asarray(spans.column("part").to_numpy(zero_copy_only=False), dtype=object)
    pairs = np.column_stack([floats(spans, "prefill_start_ns"), floats(spans, "prefill_end_ns")]) - window.measure_ns
    own = (part != "decode") & ~np.isnan(pairs).any(axis=1)
    shares = {}
    for name in dict.fromkeys(worker):
        held = Intervals.of(pairs[own & (worker == name)] / 1e9, window.length_s)
        shares[str(name)] = float((held.end_s - held.start_s).sum() / window.length_s)
    return shares
