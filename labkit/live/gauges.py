"""Workers and devices of a sample, from the newest readings of the telemetry: gauges as they are, counters as rates.

A reading that is older than ``FRESH_NS`` says nothing of now: its value is ``None``. The same code reads a live sampler and the
samples of a run on disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from labkit.live.sample import DeviceSample, FrontendSample, WorkerSample
from labkit.measure.counters import Series, growth
from labkit.spec.topology import Role

#: The slowest source is read once a second; after three of them it has fallen silent.
FRESH_NS: Final = 3_000_000_000
_RATE_NS: Final = 5_000_000_000
_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
_KV_USE: Final = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_KV_BYTES: Final = "vllm:nixl_bytes_transferred_sum"
#: The source of the metrics page of what stands before the workers, and what Dynamo's frontend tells there. vLLM's router counts
#: requests, which each worker does too, and tells no latency to the first token.
_ROUTER: Final = "router"
_FRONTEND: Final = "dynamo_frontend_"
_OUTPUT: Final = f"{_FRONTEND}output_tokens_total"
_MEANS: Final = {
    "ttft_s": f"{_FRONTEND}time_to_first_token_seconds",
    "itl_s": f"{_FRONTEND}inter_token_latency_seconds",
    "duration_s": f"{_FRONTEND}request_duration_seconds",
}
_COUNTED: Final = frozenset({_KV_BYTES, _OUTPUT, *(f"{name}_{part}" for name in _MEANS.values() for part in ("sum", "count"))})
#: The first that a card gives. Plain utilisation counts any kernel, however small: the SMs' activity says more.
_GPU_USE: Final = ("sm_active_fraction", "gpu_busy_fraction")
_POWER: Final = ("power_instant_w", "power_w")


class Reading(NamedTuple):
    """A value and when it was read."""

    t_ns: int
    value: float


class Gauges:
    """The newest reading of every metric, and the last seconds of the counters that become rates."""

    def __init__(self) -> None:
        self._latest: dict[tuple[str, str], Reading] = {}
        self._counted: dict[tuple[str, str], deque[Reading]] = {}

    def take(self, readings: Mapping[tuple[str, str], Reading]) -> None:
        """Take readings by source and metric; those that were taken before change nothing."""
        self._latest.update(readings)
        for key, reading in readings.items():
            if key[1] in _COUNTED:
                counted = self._counted.setdefault(key, deque())
                if not counted or counted[-1].t_ns < reading.t_ns:
                    counted.append(reading)
                while counted[0].t_ns < reading.t_ns - _RATE_NS:
                    counted.popleft()

    def value(self, source: str, now_ns: int, *metrics: str) -> float | None:
        """The first of these metrics that has a fresh reading."""
        for metric in metrics:
            reading = self._latest.get((source, metric))
            if reading is not None and now_ns - reading.t_ns <= FRESH_NS:
                return reading.value
        return None

    def kv_bytes_s(self, source: str, now_ns: int) -> float | None:
        """Bytes a second that a worker received, over the last seconds; ``None`` with fewer than two fresh readings."""
        return self._rate(source, _KV_BYTES, now_ns)

    def frontend(self, now_ns: int) -> FrontendSample | None:
        """What stands before the workers tells of requests; ``None`` where it tells nothing of it."""
        in_flight = self.value(_ROUTER, now_ns, f"{_FRONTEND}inflight_requests")
        if in_flight is None:
            return None
        means = {
            name: self._ratio(self._grown(_ROUTER, f"{metric}_sum", now_ns), self._grown(_ROUTER, f"{metric}_count", now_ns))
            for name, metric in _MEANS.items()
        }
        queued = self.value(_ROUTER, now_ns, f"{_FRONTEND}queued_requests")
        return FrontendSample(in_flight, queued, self._rate(_ROUTER, _OUTPUT, now_ns), **means)

    def _grown(self, source: str, metric: str, now_ns: int) -> tuple[float, float] | None:
        """By how much a counter grew over the last seconds, and how many seconds; ``None`` with fewer than two fresh readings."""
        counted = self._counted.get((source, metric))
        if not counted or len(counted) < 2 or now_ns - counted[-1].t_ns > FRESH_NS:
            return None
        t_ns, values = (np.array(column) for column in zip(*counted, strict=True))
        grown = growth(Series(t_ns, values.astype(np.float64)), int(t_ns[0]), int(t_ns[-1]))
        return None if grown is None else (grown, int(t_ns[-1] - t_ns[0]) / 1e9)

    def _rate(self, source: str, metric: str, now_ns: int) -> float | None:
        found = self._grown(source, metric, now_ns)
        return None if found is None else found[0] / found[1]

    @staticmethod
    def _ratio(total: tuple[float, float] | None, count: tuple[float, float] | None) -> float | None:
        return total[0] / count[0] if total is not None and count is not None and count[0] > 0 else None

    def workers(self, now_ns: int, roles: Mapping[str, Role], causes: Mapping[str, str]) -> tuple[WorkerSample, ...]:
        """Every worker of ``roles``; those in ``causes`` are not alive, and why."""
        return tuple(
            WorkerSample(
                name=name,
                role=role,
                alive=name not in causes,
                cause=causes.get(name, ""),
                running=self.value(name, now_ns, _RUNNING),
                waiting=self.value(name, now_ns, _WAITING),
                kv_cache_use=self.value(name, now_ns, *_KV_USE),
                kv_transfer_bytes_s=self.kv_bytes_s(name, now_ns),
            )
            for name, role in roles.items()
        )

    def devices(self, now_ns: int, roles: Mapping[str, Role], held: Mapping[str, Mapping[str, Any]]) -> tuple[DeviceSample, ...]:
        """Every GPU that a worker holds; where there is none, the cores of each worker, or of those that share any.

        Args:
            now_ns: readings that are too old by then are left out.
            roles: worker → role.
            held: worker → its ``gpus`` and ``cores``, as in the manifest's epochs.
        """
        on: dict[int, list[str]] = {}
        for worker, devices in held.items():
            for gpu in devices.get("gpus") or ():
                on.setdefault(int(gpu), []).append(worker)
        if on:
            return tuple(self._gpu(now_ns, gpu, workers, roles) for gpu, workers in sorted(on.items()))
        sharing: list[tuple[list[str], set[int]]] = []
        for worker in roles:
            if worker in held:
                own = set(map(int, held[worker].get("cores") or ()))
                met = [one for one in sharing if one[1] & own]
                whole = [name for names, _ in met for name in names], own.union(*(cores for _, cores in met))
                sharing = [one for one in sharing if one not in met]
                sharing.append(([*whole[0], worker], whole[1]))
        by_core = sorted(((workers, sorted(cores)) for workers, cores in sharing), key=lambda one: one[1])
        return tuple(self._cores(now_ns, workers, roles, cores) for workers, cores in by_core)

    def _gpu(self, now_ns: int, gpu: int, workers: Sequence[str], roles: Mapping[str, Role]) -> DeviceSample:
        source = f"gpu{gpu}"
        used, total = (self.value(source, now_ns, f"memory_{what}_bytes") for what in ("used", "total"))
        return DeviceSample(
            name=f"GPU {gpu}",
            worker="+".join(workers),
            role=roles.get(workers[0], Role.AGGREGATED),
            utilisation=self.value(source, now_ns, *_GPU_USE),
            memory_use=used / total if used is not None and total else None,
            power_w=self.value(source, now_ns, *_POWER),
        )

    def _cores(self, now_ns: int, workers: Sequence[str], roles: Mapping[str, Role], cores: Sequence[int]) -> DeviceSample:
        """What the workers' processes take of their cores, and of the node's memory."""
        busy, used = (self._sum(workers, now_ns, metric) for metric in ("cpu_cores", "rss_bytes"))
        total = self.value("host", now_ns, "memory_total_bytes")
        return DeviceSample(
            name=f"core{'s' if len(cores) != 1 else ''} {','.join(map(str, cores))}".strip(),
            worker="+".join(workers),
            role=roles.get(workers[0], Role.AGGREGATED),
            utilisation=min(busy / len(cores), 1.0) if busy is not None and cores else None,
            memory_use=used / total if used is not None and total else None,
        )

    def _sum(self, workers: Sequence[str], now_ns: int, metric: str) -> float | None:
        """Over those that have a fresh reading; ``None`` where none has."""
        known = [value for worker in workers if (value := self.value(worker, now_ns, metric)) is not None]
        return sum(known) if known else None
