"""Records from plain lists: requests as dictionaries, chunks as (instant, tokens, text) triples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from labkit.measure.records import CHUNKS, EVENTS, REQUESTS, SAMPLES, Records, Window
from labkit.spec import Workload

MS = 1_000_000
SECOND = 1_000_000_000

Chunk = tuple[int, int | None, bool]


def request(number: int, chunks: Iterable[Chunk] = (), **fields: Any) -> dict[str, Any]:
    """One request with its chunks; ok, counted and measured unless ``fields`` say otherwise."""
    chunks = list(chunks)
    tokens = sum(count or 0 for _, count, _ in chunks)
    scheduled = fields.get("scheduled_ns", number * SECOND)
    return {
        "request": number, "measurement": 0, "index": number, "epoch": 0, "shard": 0, "phase": "measure",
        "scheduled_ns": scheduled, "sent_ns": scheduled + MS, "end_ns": (chunks[-1][0] if chunks else scheduled) + MS,
        "isl": 8, "osl": max(tokens, 1), "outcome": "ok", "http_status": 200, "reason": None, "done": True,
        "prompt_tokens": 8, "output_tokens": tokens, "tokens_from": "usage", "sent_id": None, "server_id": None,
        "straddled": False, "chunks": chunks, **fields,
    }  # fmt: skip


def steady(number: int, *, first_ms: int = 100, gap_ms: int = 20, tokens: int = 5, **fields: Any) -> dict[str, Any]:
    """A request with one token a chunk at even gaps; the first ``first_ms`` after its real send (1 ms after schedule)."""
    start = fields.get("scheduled_ns", number * SECOND) + MS + first_ms * MS
    return request(number, [(start + i * gap_ms * MS, 1, True) for i in range(tokens)], **fields)


def window(**fields: Any) -> Window:
    """Ten seconds of two cores unless ``fields`` say otherwise; ``workload`` may be a Workload."""
    workload = fields.pop("workload", Workload(rate=1.0, requests=10, isl=8, osl=5))
    values = {
        "measurement": 0, "side": "2A", "topology": "2A", "repeat": 0, "epoch": 0, "start_ns": 0, "measure_ns": 0,
        "stop_ns": 10 * SECOND, "end_ns": 12 * SECOND, "accelerators": 2.0, "accelerator": "core",
    }  # fmt: skip
    return Window(**{**values, **fields, "workload": workload.to_dict() if isinstance(workload, Workload) else workload})


def records(
    requests: Iterable[Mapping[str, Any]],
    *,
    windows: Iterable[Window] = (),
    samples: Iterable[tuple[int, str, str, float | None]] = (),
    faults: Iterable[tuple[int, str]] = (),
) -> Records:
    """Arrow tables of requests with their ``chunks`` (as they arrive), samples ``(t_ns, source, metric, value)`` and faults
    ``(t_ns, text)``."""
    rows = [dict(row) for row in requests]
    chunks = sorted(
        ((t, row["request"], k, text) for row in rows for t, k, text in row.pop("chunks")), key=lambda chunk: chunk[0]
    )
    return Records(
        pa.Table.from_pylist(rows, schema=REQUESTS),
        pa.Table.from_pylist([{"request": r, "t_ns": t, "tokens": k, "text": text} for t, r, k, text in chunks], schema=CHUNKS),
        pa.Table.from_pylist([dict(zip(SAMPLES.names, sample, strict=True)) for sample in samples], schema=SAMPLES),
        events=pa.Table.from_pylist([{"t_ns": t, "kind": "fault", "text": text} for t, text in faults], schema=EVENTS),
        windows=tuple(windows),
    )


def unscheduled(made: Records) -> Records:
    """The same records as another tool leaves them: when each request was to be sent is not known."""
    table, at = made.requests, made.requests.schema.get_field_index("scheduled_ns")
    return replace(made, requests=table.set_column(at, REQUESTS.field(at), pa.nulls(len(table), pa.int64())))
