"""The samples of an afternoon: a ring of what was known at each tick, and every event.

A sample of sixteen workers is a hundred numbers; as objects it takes ten kilobytes, here two: the numbers of a tick are one
array, and what seldom changes (names, roles, causes) is kept once for all ticks that share it.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Final, NamedTuple

from labkit.live.sample import DeviceSample, Dot, FrontendSample, LiveEvent, LiveStats, Sample, WorkerSample

#: Four hours of four ticks a second.
MOST_SAMPLES: Final = 4 * 3600 * 4
_MOST_EVENTS: Final = 10_000
_STATS: Final = tuple(field.name for field in fields(LiveStats))
_WHOLE: Final = frozenset({"requests", "gaps", "failed", "in_flight", "lost", "end_ns"})
_WORKER: Final = ("running", "waiting", "kv_cache_use", "kv_transfer_bytes_s")
_DEVICE: Final = ("utilisation", "memory_use", "power_w")

_FRONTEND: Final = tuple(field.name for field in fields(FrontendSample))

_Names = tuple[str, tuple[tuple[Any, ...], ...], tuple[tuple[Any, ...], ...], bool]


class _Packed(NamedTuple):
    t_s: float
    t_ns: int
    end_ns: int  # an instant that a float would round
    names: _Names
    numbers: array[float]
    events: tuple[LiveEvent, ...]
    slow_ttft: tuple[Dot, ...]
    slow_itl: tuple[Dot, ...]


class History:
    """Keeps the last samples and all events. One thread adds while others read.

    Args:
        most: samples that are kept; older ones are forgotten. Their events stay.

    Attributes:
        events: in the order in which they were added.
    """

    def __init__(self, most: int = MOST_SAMPLES) -> None:
        self.events: deque[LiveEvent] = deque(maxlen=_MOST_EVENTS)
        self._samples: deque[_Packed] = deque(maxlen=most)
        self._names: _Names | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, sample: Sample) -> None:
        """Keep a sample, which is later than those before."""
        packed = self._packed(sample)
        with self._lock:
            self._samples.append(packed)
            self.events.extend(sample.events)

    def samples(self, since_s: float = -math.inf, until_s: float = math.inf, *, every: int = 1) -> list[Sample]:
        """The samples with ``since_s`` ≤ ``t_s`` ≤ ``until_s``; ``every``: each so many-th, counted from the first."""
        with self._lock:
            found = [packed for packed in self._samples if since_s <= packed.t_s <= until_s]
        return [_unpacked(packed) for packed in found[::every]]

    @property
    def latest(self) -> Sample | None:
        """The last one."""
        with self._lock:
            return _unpacked(self._samples[-1]) if self._samples else None

    def _packed(self, sample: Sample) -> _Packed:
        names: _Names = (
            sample.topology,
            tuple((one.name, one.role, one.alive, one.cause) for one in sample.workers),
            tuple((one.name, one.worker, one.role) for one in sample.devices),
            sample.frontend is not None,
        )
        if names != self._names:
            self._names = names
        assert self._names is not None
        numbers = array("d", _numbers(sample.stats, _STATS))
        for worker in sample.workers:
            numbers.extend(_numbers(worker, _WORKER))
        for device in sample.devices:
            numbers.extend(_numbers(device, _DEVICE))
        if sample.frontend is not None:
            numbers.extend(_numbers(sample.frontend, _FRONTEND))
        dots = sample.slow_ttft, sample.slow_itl
        return _Packed(sample.t_s, sample.t_ns, sample.stats.end_ns, self._names, numbers, sample.events, *dots)


def _numbers(item: object, names: Iterable[str]) -> Iterable[float]:
    values = (getattr(item, name) for name in names)
    return (math.nan if value is None else float(value) for value in values)


def _unpacked(packed: _Packed) -> Sample:
    topology, workers, devices, frontend = packed.names
    numbers = iter(packed.numbers)

    def take(names: Iterable[str]) -> dict[str, Any]:
        values = ((name, next(numbers)) for name in names)
        return {name: None if math.isnan(value) else int(value) if name in _WHOLE else value for name, value in values}

    stats = LiveStats(**{**take(_STATS), "end_ns": packed.end_ns})
    return Sample(
        t_s=packed.t_s,
        t_ns=packed.t_ns,
        topology=topology,
        stats=stats,
        workers=tuple(
            WorkerSample(name=name, role=role, alive=alive, cause=cause, **take(_WORKER)) for name, role, alive, cause in workers
        ),
        devices=tuple(DeviceSample(name=name, worker=worker, role=role, **take(_DEVICE)) for name, worker, role in devices),
        events=packed.events,
        slow_ttft=packed.slow_ttft,
        slow_itl=packed.slow_itl,
        frontend=FrontendSample(**take(_FRONTEND)) if frontend else None,
    )
