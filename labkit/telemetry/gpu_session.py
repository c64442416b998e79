"""The GPUs of a session as they are read tick by tick, one that stops to answer included: it is looked for until it is back.

A GPU that was reset, and any after the driver was loaded again, answers under a new handle only, and often in a new NVML session
only. A new session costs the other GPUs one reading of their rates, so it is tried often only where none of them answers.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from labkit.telemetry.nvml import Gpu, GpuReading, Nvml
from labkit.telemetry.nvml_errors import NvmlUnavailable

_RENEW_NS: Final = 2 * 10**9
_REOPEN_NS: Final = 30 * 10**9


class GpuSession:
    """Reads the GPUs that are wanted; every method is called on one thread, which NVML may hold up.

    Args:
        wanted: NVML indices; ``None`` for all.
        clock: monotonic nanoseconds.

    Attributes:
        gpus: that could be opened.
    """

    def __init__(self, wanted: Sequence[int] | None = None, *, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.gpus: list[Gpu] = []
        self._wanted = wanted
        self._clock = clock
        self._nvml, self._opened = Nvml(), False
        self._answered: set[int] = set()
        self._closed: str | None = None
        self._renewed_ns = self._reopened_ns = clock()

    def open(self) -> dict[str, str]:
        """Begin; source → why one cannot be read. Raises NvmlUnavailable where none can."""
        self._nvml.__enter__()
        self._opened = True
        reasons: dict[str, str] = {}
        try:
            indices = range(self._nvml.count()) if self._wanted is None else self._wanted
        except NvmlUnavailable as error:
            return {"gpu": error.what}
        for index in indices:
            try:
                self.gpus.append(self._nvml.gpu(index))
            except NvmlUnavailable as error:
                reasons[f"gpu{index}"] = error.what
        if not self.gpus and not reasons:
            reasons["gpu"] = "the driver sees no GPU" if self._wanted is None else "no GPU was asked for"
        return reasons

    def read(self) -> list[tuple[str, GpuReading]]:
        """Every GPU now, by source."""
        readings = [(gpu, gpu.read()) for gpu in self.gpus]
        self._answered |= {gpu.index for gpu, reading in readings if reading.values}
        silent = [gpu for gpu, reading in readings if not reading.values and gpu.index in self._answered]
        if not silent:
            self._closed = None
            self._renewed_ns = self._reopened_ns = self._clock()
        else:
            self._look_for(silent)
        return [(f"gpu{gpu.index}", self._explained(reading)) for gpu, reading in readings]

    def close(self) -> None:
        """End it, if it has begun: others of this process may have a session of their own."""
        if self._opened:
            self._opened = False
            self._nvml.__exit__(None, None, None)

    def _look_for(self, silent: Sequence[Gpu]) -> None:
        now_ns = self._clock()
        if now_ns - self._renewed_ns < _RENEW_NS:
            return
        self._renewed_ns = now_ns
        if len(silent) == len(self.gpus) or now_ns - self._reopened_ns >= _REOPEN_NS:
            self._reopened_ns = now_ns
            try:
                self._nvml.reopen()
                self._closed = None
            except NvmlUnavailable as error:
                self._closed = error.what
        else:
            for gpu in silent:
                with contextlib.suppress(NvmlUnavailable):
                    self._nvml.renew(gpu)

    def _explained(self, reading: GpuReading) -> GpuReading:
        """Where NVML does not begin again, that is the reason, and not that it has not begun."""
        if self._closed is None or reading.values:
            return reading
        return GpuReading(reading.t_ns, reading.values, dict.fromkeys(reading.missing, self._closed))


def in_short(source: str, reading: GpuReading) -> Mapping[str, str]:
    """``source/metric`` → why it is missing; ``source`` alone where nothing was answered, with the reason that most have."""
    if reading.values or not reading.missing:
        return {f"{source}/{metric}": why for metric, why in reading.missing.items()}
    ((why, _),) = Counter(reading.missing.values()).most_common(1)
    return {source: why}
