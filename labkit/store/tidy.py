"""A run as two tidy tables for other programs: a row a request with its latencies, and a row a chunk with its gap.

Every latency is the lab's own (``measure.timing``), every name carries its unit, and what is not known is null (an empty cell
in CSV). Instants are seconds since the measure phase of their measurement began: warm-up requests have negative ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from labkit.errors import StoreError
from labkit.measure.digest import Digest, digest
from labkit.measure.ordered import request_by_request
from labkit.measure.records import Records, Window
from labkit.measure.timing import UNKNOWN, Ints, ints, request_metrics

Kind = Literal["csv", "parquet"]
KINDS: Final[tuple[Kind, ...]] = ("csv", "parquet")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a tidy table, with what it means."""

    name: str
    type: pa.DataType
    about: str


_WHOSE: Final = (
    Column("run", pa.string(), "id of the run"),
    Column("measurement", pa.int16(), "number of the measurement in the run"),
    Column("side", pa.string(), "label of the side that was measured"),
    Column("topology", pa.string(), "split that served; `attached` where the lab does not know it"),
    Column("repeat", pa.int16(), "repeat of the side, from 0"),
    Column("index", pa.int32(), "position in the schedule of its phase: equal index, equal request"),
    Column("request", pa.int64(), "number of the request in the run"),
)
REQUESTS: Final = (
    *_WHOSE,
    Column("epoch", pa.int16(), "number of the split that it was sent to"),
    Column("phase", pa.string(), "`warmup` or `measure`, by the schedule; results are of `measure` alone"),
    Column("conversation", pa.int32(), "number of its conversation, below 0 in the warm-up; none for a request of its own"),
    Column("turn", pa.int16(), "which turn of the conversation it is, from 0"),
    Column("outcome", pa.string(), "`ok`, `cancelled` by a stop of the load, or how it failed"),
    Column("reason", pa.string(), "why it failed or was cancelled"),
    Column("http_status", pa.int16(), "status of the answer"),
    Column("straddled", pa.bool_(), "alive across a re-split"),
    Column("scheduled_s", pa.float64(), "instant at which it was to be sent"),
    Column("sent_s", pa.float64(), "instant at which it was sent"),
    Column("first_token_s", pa.float64(), "instant of its first token"),
    Column("last_token_s", pa.float64(), "instant of its last token"),
    Column("end_s", pa.float64(), "instant at which its HTTP stream ended"),
    Column("send_lag_s", pa.float64(), "sent − scheduled"),
    Column("ttft_s", pa.float64(), "first token − sent"),
    Column("ttft_from_schedule_s", pa.float64(), "first token − scheduled"),
    Column("tpot_s", pa.float64(), "(last − first token) / (output tokens − tokens of the first chunk)"),
    Column("e2e_s", pa.float64(), "last token − sent"),
    Column("isl_tokens", pa.int32(), "prompt length asked for"),
    Column("osl_tokens", pa.int32(), "answer length asked for"),
    Column("prompt_tokens", pa.int32(), "prompt length counted"),
    Column("output_tokens", pa.int32(), "answer length counted"),
    Column("tokens_from", pa.string(), "who counted the answer: `usage` (the server), `chunks`, `retokenised`"),
    Column("chunks", pa.int32(), "chunks with a token"),
)
CHUNKS: Final = (
    *_WHOSE,
    Column("chunk", pa.int32(), "position among the chunks with a token, from 0"),
    Column("t_s", pa.float64(), "instant of its arrival"),
    Column("since_sent_s", pa.float64(), "arrival − sent"),
    Column("gap_s", pa.float64(), "arrival − arrival of the chunk before; none for chunk 0"),
    Column("tokens", pa.int16(), "tokens in it; none where the server does not say"),
)


def tidy_requests(taken: Digest, window: Window, run_id: str) -> pa.Table:
    """The requests of one measurement, every phase, in the order of their numbers: the columns of ``REQUESTS``."""
    taken = taken.of(window)
    order = np.argsort(ints(taken.requests, "request"), kind="stable")
    mine = replace(taken, requests=taken.requests.take(pa.array(order)), answers=taken.answers.select(order))
    found, answers, table = request_metrics(mine), mine.answers, mine.requests
    made: dict[str, Any] = {
        **_whose(window, run_id, ints(table, "index"), found.request),
        **{name: table.column(name) for name in ("epoch", "phase", "conversation", "turn", "outcome", "reason")},
        **{name: table.column(name) for name in ("http_status", "straddled")},
        **{f"{name}_s": _since(window, ints(table, f"{name}_ns", UNKNOWN)) for name in ("scheduled", "sent", "end")},
        "first_token_s": _since(window, answers.first_ns),
        "last_token_s": _since(window, answers.last_ns),
        **{name: _defined(getattr(found, name)) for name in ("send_lag_s", "ttft_s", "ttft_from_schedule_s", "tpot_s", "e2e_s")},
        "isl_tokens": table.column("isl"),
        "osl_tokens": table.column("osl"),
        **{name: table.column(name) for name in ("prompt_tokens", "output_tokens", "tokens_from")},
        "chunks": answers.counts,
    }
    return _table(REQUESTS, made)


def tidy_chunks(taken: Digest, run_id: str) -> Iterator[pa.Table]:
    """The chunks with a token of every measurement in turn, request by request, in batches: the columns of ``CHUNKS``."""
    measurement, request = (ints(taken.requests, name) for name in ("measurement", "request"))
    sent_ns, index = ints(taken.requests, "sent_ns", UNKNOWN), ints(taken.requests, "index")
    rows_of = [np.flatnonzero(measurement == window.measurement) for window in taken.windows]
    ends = np.cumsum([len(rows) for rows in rows_of])
    order = np.concatenate([rows[np.argsort(request[rows], kind="stable")] for rows in rows_of] or [np.zeros(0, np.int64)])
    for batch in request_by_request(taken, order):
        cuts = np.searchsorted(batch.row, ends[:-1])
        for window, begin, end in zip(taken.windows, [0, *cuts], [*cuts, len(batch)], strict=True):
            if begin == end:
                continue
            row, t_ns, tokens = order[batch.row[begin:end]], batch.t_ns[begin:end], batch.tokens[begin:end]
            first = np.concatenate([[True], row[1:] != row[:-1]])
            heads = np.flatnonzero(first)
            sent = sent_ns[row]
            made = {
                **_whose(window, run_id, index[row], request[row]),
                "chunk": np.arange(len(row)) - np.repeat(heads, np.diff(heads, append=len(row))),
                "t_s": _since(window, t_ns),
                "since_sent_s": pa.array((t_ns - sent) / 1e9, mask=sent == UNKNOWN),
                "gap_s": pa.array(np.diff(t_ns, prepend=0) / 1e9, mask=first),
                "tokens": pa.array(tokens, mask=tokens == UNKNOWN),
            }
            yield _table(CHUNKS, made)


def write_tidy(records: Records | Digest, run_id: str, folder: Path, kind: Kind) -> list[Path]:
    """Write both tables of every window to ``tidy-requests`` and ``tidy-chunks`` in a folder. A batch of the chunks is in memory
    at a time, with what was under way with it.

    Raises:
        StoreError: a file cannot be written; none of it is left then.
    """
    taken = records if isinstance(records, Digest) else digest(records)
    of_kind = (
        ("requests", REQUESTS, (tidy_requests(taken, window, run_id) for window in taken.windows)),
        ("chunks", CHUNKS, tidy_chunks(taken, run_id)),
    )
    written = []
    for name, columns, tables in of_kind:
        path = folder / f"tidy-{name}.{kind}"
        _write(path, kind, columns, tables)
        written.append(path)
    return written


def _write(path: Path, kind: Kind, columns: tuple[Column, ...], tables: Iterable[pa.Table]) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _WRITERS[kind](partial, _schema(columns)) as writer:
            for table in tables:
                writer.write_table(table)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}", remedy="free space there, or choose another folder"
        ) from error


_WRITERS: Final[dict[Kind, Callable[[Path, pa.Schema], contextlib.AbstractContextManager[Any]]]] = {
    "csv": lambda path, schema: pa.csv.CSVWriter(str(path), schema),
    "parquet": lambda path, schema: pq.ParquetWriter(path, schema, compression="zstd"),
}


def _whose(window: Window, run_id: str, index: Ints, request: Ints) -> dict[str, Any]:
    same = {
        "run": run_id,
        "measurement": window.measurement,
        "side": window.side,
        "topology": window.topology,
        "repeat": window.repeat,
    }
    return {**{name: pa.repeat(value, len(request)) for name, value in same.items()}, "index": index, "request": request}


def _table(columns: tuple[Column, ...], made: dict[str, Any]) -> pa.Table:
    arrays = [made[column.name] for column in columns]
    typed = [
        (array if isinstance(array, pa.Array | pa.ChunkedArray) else pa.array(array)).cast(column.type)
        for array, column in zip(arrays, columns, strict=True)
    ]
    return pa.table(typed, schema=_schema(columns))


def _schema(columns: tuple[Column, ...]) -> pa.Schema:
    return pa.schema([pa.field(one.name, one.type, metadata={"about": one.about}) for one in columns])


def _since(window: Window, t_ns: Ints) -> pa.Array:
    return pa.array((t_ns - window.measure_ns) / 1e9, mask=t_ns == UNKNOWN)


def _defined(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))
