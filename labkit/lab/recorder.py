"""Telemetry on its way to the disk and to whoever looks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Protocol

from labkit.errors import StoreError
from labkit.measure.records import TABLES
from labkit.store.segments import SegmentWriter
from labkit.telemetry.spans import Progress, RequestSpan

_FLUSH_S: Final = 0.5
_MOST_NEWS: Final = 1000  # readings that wait for a parent that does not listen


class Send(Protocol):
    """Takes a message for whoever shows telemetry; whether it was taken."""

    def __call__(self, message: Mapping[str, object], *, droppable: bool = False) -> bool:
        """Droppable: the next one tells more."""
        ...


class Recorder:
    """A sampler's sink: rows to the segments, the newest values to whoever shows them.

    Attributes:
        faults: segment → why it cannot be written.
    """

    def __init__(self, run_dir: Path, part: str, send: Send) -> None:
        """Segments of the run's folder that end in ``part``."""
        self._tables = {table: _Rows(run_dir, table, part) for table in ("samples", "spans", "events")}
        self._send = send
        self._news: dict[tuple[str, int], dict[str, float]] = {}
        self.faults: dict[str, str] = {}

    def samples(self, t_ns: int, source: str, values: Mapping[str, float]) -> None:
        """Values of one source at one instant."""
        rows = self._tables["samples"]
        for metric, value in values.items():
            rows.add(t_ns, source, metric, value)
        while len(self._news) >= _MOST_NEWS:
            self._news.pop(next(iter(self._news)))
        self._news[source, t_ns] = dict(values)

    def spans(self, spans: Sequence[RequestSpan]) -> None:
        """Request spans."""
        for span in spans:
            self._tables["spans"].add(*asdict(span).values())

    def note(self, t_ns: int, text: str) -> None:
        """Something to know about the telemetry itself."""
        self._tables["events"].add(t_ns, "note", text, None)

    def progress(self, step: Progress) -> None:
        """A finished step of a worker's start."""
        ended_ns = step.start_ns + int(step.duration_s * 1e9)
        text = f"{step.worker}: {step.name} took {step.duration_s:.2f} s"
        self._tables["events"].add(ended_ns, "launch", text, json.dumps(asdict(step)))
        self._send({"progress": asdict(step)})

    def write(self) -> None:
        """Move rows to the segments; what cannot be written is told, and the rest goes on."""
        for table, rows in self._tables.items():
            try:
                rows.write()
                self.faults.pop(f"segments/{table}", None)
            except StoreError as error:
                self.faults[f"segments/{table}"] = error.what

    def tell(self, missing: Mapping[str, str]) -> None:
        """Send the values that are new since the last time to the parent, if it listens: those of each reading together."""
        latest = [(source, t_ns, values) for (source, t_ns), values in self._news.items()]
        if self._send({"latest": latest, "missing": {**missing, **self.faults}}, droppable=True):
            self._news.clear()

    def close(self) -> None:
        """Write what is left, and close the segments."""
        self.write()
        for rows in self._tables.values():
            with contextlib.suppress(StoreError):
                rows.close()


class _Rows:
    """Rows of one table on their way to its segment, which is made with the first of them."""

    def __init__(self, run_dir: Path, table: str, part: str) -> None:
        self._schema = TABLES[table]
        self._path = run_dir / "segments" / f"{table}-{part}.arrows"
        self._writer: SegmentWriter | None = None
        self._rows: list[tuple[Any, ...]] = []

    def add(self, *row: Any) -> None:
        self._rows.append(row)

    def write(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._writer = SegmentWriter(self._path, self._schema, flush_s=_FLUSH_S)
        rows, self._rows = self._rows, []
        self._writer.append(dict(zip(self._schema.names, zip(*rows, strict=True), strict=True)))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
