"""What servers received and wrote by their own logs, and what the lab recorded: read from files, without the lab's code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

_OURS = re.compile(r"labkit-[0-9a-f]{8}-\d+")


@dataclass(slots=True)
class Served:
    """One request as a server saw it: its part that streams to the client.

    Attributes:
        server: that wrote it: the name of its log.
        received_ns, ended_ns: ``CLOCK_MONOTONIC``; ``ended_ns`` is ``None`` where it never ended.
        asked, written: tokens.
        done: everything was written.
        times: how often it was received.
    """

    server: str
    received_ns: int
    asked: int
    written: int = 0
    done: bool = False
    ended_ns: int | None = None
    times: int = 1


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run's requests and how many tokens their chunks hold, from whatever files there are."""

    rows: list[dict[str, Any]]
    chunk_tokens: dict[int, int] = field(default_factory=dict)


def served(truth: Path) -> dict[str, Served]:
    """Every request of a load, by its ``X-Request-Id``; warm-ups and probes of the lab are none.

    Where workers keep logs of their own, that of a proxy before them says the same a second time, and is left out.
    """
    found: dict[str, Served] = {}
    logs = sorted(truth.glob("*.jsonl"))
    for path in [path for path in logs if not path.name.startswith("proxy-")] or logs:
        server = path.stem.rpartition("-")[0]
        streams = set()
        for line in path.read_bytes().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # the line that a kill fell on
            request = event["request"]
            if not _OURS.fullmatch(request):
                continue
            if event["what"] == "received":
                if not event["stream"]:
                    continue
                streams.add(request)
                if request in found:
                    found[request].times += 1
                else:
                    found[request] = Served(server, event["t_ns"], event["asked"])
            elif request in streams:
                one = found[request]
                if event["what"] == "token":
                    one.written = event.get("tokens", one.written + 1)
                else:
                    one.done = event["what"] == "done" and event.get("status", 200) == 200
                    one.written = event.get("tokens", one.written)
                    one.ended_ns = event["t_ns"]
    return found


def recorded(run: Path) -> Recorded:
    """The requests of a run.

    Raises:
        ValueError: a Parquet file that cannot be read.
    """
    rows = [row for table in tables(run, "requests") for row in table.to_pylist()]
    tokens: dict[int, int] = {}
    for table in tables(run, "chunks"):
        for row in table.select(["request", "tokens"]).to_pylist():
            tokens[row["request"]] = tokens.get(row["request"], 0) + (row["tokens"] or 0)
    return Recorded(rows, tokens)


def events(run: Path) -> list[dict[str, Any]]:
    """What the run keeps of what happened, in no order."""
    return [row for table in tables(run, "events") for row in table.to_pylist()]


def tables(run: Path, name: str) -> list[pa.Table]:
    """What a run has of one table, whether it was closed or not."""
    found = [pq.read_table(run / f"{name}.parquet")] if (run / f"{name}.parquet").exists() else []
    held = set()
    if found:
        held = set(json.loads((pq.read_metadata(run / f"{name}.parquet").metadata or {}).get(b"labkit.segments", b"[]")))
    for path in sorted((run / "segments").glob(f"{name}-*.arrows")):
        batches: list[pa.RecordBatch] = []
        try:
            with pa.OSFile(str(path)) as file:
                stream = pa.ipc.open_stream(file)
                if (stream.schema.metadata or {}).get(b"labkit.segment", b"").decode() in held:
                    continue
                for batch in stream:
                    batches.append(batch)  # those before a torn one count
        except (pa.ArrowInvalid, OSError):
            pass  # torn at its end
        if batches:
            found.append(pa.Table.from_batches(batches))
    return found
