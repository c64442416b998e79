"""Who else computes on a GPU: NVML's list of processes against the process trees of the lab and its workers.

Inside a container the driver names processes of the container only, or (older drivers) by numbers that mean nothing there. So a
process that is no worker's is foreign when it was on the GPU before any worker was launched, the notebook's own kernel too, or
when it is alive on this node and the lab did not start it (a worker that starts is not known as one yet); of one that is neither,
nothing can be said, and a reason says so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pynvml

from labkit.telemetry.nvml import Gpu
from labkit.telemetry.nvml_errors import reason_of

FOREIGN: Final = "foreign_processes"
FOREIGN_BYTES: Final = "foreign_memory_bytes"
_UNSEEN: Final = "NVML names processes that are not seen here (a container): they may be the workers'"


class Occupancy(NamedTuple):
    """What others hold of one GPU at an instant: ``foreign_processes``, and ``foreign_memory_bytes`` where the driver tells."""

    t_ns: int
    source: str
    values: Mapping[str, float]
    missing: Mapping[str, str]


class ForeignProcesses:
    """Looks at the processes of each GPU. Make it before workers are launched: who is there then is foreign.

    Args:
        gpus: to look at, in an open NVML session.
        clock: monotonic nanoseconds.
        proc: where ``/proc`` is.
    """

    def __init__(self, gpus: Sequence[Gpu], clock: Callable[[], int], *, proc: Path = Path("/proc")) -> None:
        self._gpus, self._clock, self._proc = gpus, clock, proc
        self._before = {gpu.index: frozenset(_listed(gpu) or ()) for gpu in gpus}

    def read(self, own: Collection[int], lab: Collection[int] = ()) -> list[Occupancy]:
        """Every GPU now; ``own`` are the process ids of all workers, ``lab`` those of the lab and of all that it started."""
        return [self._of(gpu, own, lab) for gpu in self._gpus]

    def _of(self, gpu: Gpu, own: Collection[int], lab: Collection[int]) -> Occupancy:
        now_ns, source = self._clock(), f"gpu{gpu.index}"
        try:
            listed = {process.pid: process.usedGpuMemory for process in _ask(gpu)}
        except pynvml.NVMLError as error:
            return Occupancy(now_ns, source, {}, {FOREIGN: reason_of(error)})
        before = self._before[gpu.index]
        others = [pid for pid in listed if pid not in own and (pid in before or pid not in lab)]
        foreign = [pid for pid in others if pid in before or (self._proc / str(pid)).exists()]
        values: dict[str, float] = {FOREIGN: len(foreign)}
        memory = [listed[pid] for pid in foreign]
        if all(held is not None for held in memory):
            values[FOREIGN_BYTES] = float(sum(memory))
        return Occupancy(now_ns, source, values, {FOREIGN: _UNSEEN} if len(foreign) < len(others) else {})


def _listed(gpu: Gpu) -> list[int] | None:
    try:
        return [process.pid for process in _ask(gpu)]
    except pynvml.NVMLError:
        return None


def _ask(gpu: Gpu) -> Sequence[Any]:
    found: Sequence[Any] = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle)
    return found
