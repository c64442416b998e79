"""The afternoon so far, as columns: what the charts draw, what a reloaded page gets, and what an exported page replays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from labkit.dashboard.marks import label
from labkit.live.sample import Dot, FrontendSample, LiveEvent, LiveStats, Sample
from labkit.spec.topology import Role

Matrix = NDArray[np.float32]
#: What a role is in a column of numbers; its place in the list of colours that the charts get.
ROLE_CODE: Final = {Role.AGGREGATED: 0.0, Role.PREFILL: 1.0, Role.DECODE: 2.0}
STATS: Final = tuple(field.name for field in fields(LiveStats) if field.name != "window_s")
FRONTEND: Final = tuple(field.name for field in fields(FrontendSample))
_WORKER: Final = ("running", "waiting", "kv_cache_use", "kv_transfer_bytes_s")
_DEVICE: Final = ("utilisation", "memory_use", "power_w")


@dataclass(frozen=True, slots=True)
class Rows:
    """A stretch of the history, as it goes to a browser.

    Attributes:
        columns: every name known by now; a list only ever gets longer.
        values: one row a tick, one column a name; what is not known is NaN.
        splits: ``(t_s, topology)`` from which on it served.
    """

    columns: tuple[str, ...]
    values: Matrix
    events: tuple[LiveEvent, ...] = ()
    slow_ttft: tuple[Dot, ...] = ()
    slow_itl: tuple[Dot, ...] = ()
    splits: tuple[tuple[float, str], ...] = ()

    def message(self, *, known: int = 0) -> tuple[dict[str, Any], list[bytes]]:
        """The same as JSON and a buffer; a reader that has ``known`` columns needs no names if there are no more."""
        content: dict[str, Any] = {"n": len(self.values), "width": len(self.columns)}
        if len(self.columns) != known:
            content["columns"] = list(self.columns)
        if self.events:
            content["events"] = [[event.t_s, event.kind, event.text, label(event)] for event in self.events]
        for name, dots in (("ttft", self.slow_ttft), ("itl", self.slow_itl)):
            if dots:
                content[name] = [[dot.t_s, dot.request, dot.value_s] for dot in dots]
        if self.splits:
            content["splits"] = [list(split) for split in self.splits]
        return content, [np.ascontiguousarray(self.values, np.float32).tobytes()]


class ChartData:
    """Columns that grow by a row a sample.

    Beyond ``most`` rows every second one of the older half is left out, again and again: the distant past gets coarser, memory
    stays bounded (``most`` × columns × 4 bytes) and nothing recent is lost. Events stay; dots are bounded too.

    Not safe from two threads at once: whoever writes holds a lock.
    """

    def __init__(self, most: int = 20_000, most_dots: int = 4_000) -> None:
        self.columns: list[str] = []
        self.events: list[LiveEvent] = []
        self.slow_ttft: deque[Dot] = deque(maxlen=most_dots)
        self.slow_itl: deque[Dot] = deque(maxlen=most_dots)
        self.splits: list[tuple[float, str]] = []
        self._index: dict[str, int] = {}
        self._most = most
        self._values: Matrix = np.full((256, 64), np.nan, np.float32)
        self._rows = 0
        self._add(["t", *STATS])

    def __len__(self) -> int:
        return self._rows

    @property
    def values(self) -> Matrix:
        """``(rows, columns)``, oldest first; a view, valid until the next ``append``."""
        return self._values[: self._rows, : len(self.columns)]

    def column(self, name: str) -> Matrix:
        """One column, oldest first."""
        return self.values[:, self._index[name]]

    @property
    def frontend(self) -> bool:
        """Whether any sample had something of a frontend."""
        return f"frontend_{FRONTEND[0]}" in self._index

    def copy(self) -> ChartData:
        """The same as it is now; it shares nothing with this one."""
        made = copy(self)
        made.columns, made.events, made.splits = list(self.columns), list(self.events), list(self.splits)
        made.slow_ttft, made.slow_itl = self.slow_ttft.copy(), self.slow_itl.copy()
        made._index, made._values = dict(self._index), self._values.copy()
        return made

    def append(self, sample: Sample) -> Rows:
        """Keep one tick, later than those before; it comes back as the one row that a browser lacks."""
        given = dict(_cells(sample))
        self._add([name for name in given if name not in self._index])
        if self._rows == self._most:
            self._thin()
        if self._rows == len(self._values):
            self._values = np.concatenate([self._values, np.full_like(self._values, np.nan)])
        row = self._values[self._rows]
        row[:] = np.nan
        for name, value in given.items():
            if value is not None:
                row[self._index[name]] = value
        self._rows += 1
        self.events += sample.events
        self.slow_ttft += sample.slow_ttft
        self.slow_itl += sample.slow_itl
        splits: tuple[tuple[float, str], ...] = ()
        if not self.splits or self.splits[-1][1] != sample.topology:
            splits = ((sample.t_s, sample.topology),)
            self.splits += splits
        return Rows(tuple(self.columns), self.values[-1:], sample.events, sample.slow_ttft, sample.slow_itl, splits)

    def note(self, event: LiveEvent) -> Rows:
        """Keep an event that came with no sample."""
        self.events.append(event)
        return Rows(tuple(self.columns), self.values[:0], (event,))

    def rows(self, after_s: float = -np.inf, most: int | None = None) -> Rows:
        """All that happened after an instant, evenly thinned to ``most`` rows."""
        first = int(np.searchsorted(self.column("t"), np.float32(after_s), side="right"))
        values = self.values[first:]
        if most is not None and len(values) > most:
            values = values[np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]
        return Rows(
            tuple(self.columns),
            values.copy(),
            tuple(event for event in self.events if event.t_s > after_s),
            tuple(dot for dot in self.slow_ttft if dot.t_s > after_s),
            tuple(dot for dot in self.slow_itl if dot.t_s > after_s),
            tuple(split for split in self.splits if split[0] > after_s),
        )

    def _add(self, names: list[str]) -> None:
        for name in names:
            self._index[name] = len(self.columns)
            self.columns.append(name)
        while len(self.columns) > self._values.shape[1]:
            self._values = np.concatenate([self._values, np.full_like(self._values, np.nan)], axis=1)

    def _thin(self) -> None:
        half = self._rows // 2
        kept = np.concatenate([self._values[:half:2], self._values[half : self._rows]])
        self._values[: len(kept)] = kept
        self._rows = len(kept)


def _cells(sample: Sample) -> Iterable[tuple[str, float | None]]:
    yield "t", sample.t_s
    for name in STATS:
        yield name, getattr(sample.stats, name)
    for worker in sample.workers:
        yield f"role:{worker.name}", ROLE_CODE[worker.role]
        yield f"alive:{worker.name}", float(worker.alive)
        for name in _WORKER:
            yield f"{name}:{worker.name}", getattr(worker, name)
    if sample.frontend is not None:
        for name in FRONTEND:
            yield f"frontend_{name}", getattr(sample.frontend, name)
    for device in sample.devices:
        yield f"device_role:{device.name}", ROLE_CODE[device.role]
        for name in _DEVICE:
            yield f"{name}:{device.name}", getattr(device, name)
