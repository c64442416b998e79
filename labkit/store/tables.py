"""A run's tables on disk: segments while they grow, Parquet afterwards, and the crash-safe way from one to the other.

Parquet files remember the ids of the segments that they hold. A segment whose id is in there adds nothing; one whose id is
not is read as well. So every state that a crash can leave reads to the same rows: a half-written Parquet file has another
name, and a finished one makes its segments redundant before they are deleted.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labkit.errors import StoreError
from labkit.measure.chunks import stable_order
from labkit.measure.records import SCHEMA_VERSION, TABLES
from labkit.store.segments import SUFFIX, encoded, segment_batches, segment_id

SEGMENTS: Final = "segments"
_HELD: Final = b"labkit.segments"
_VERSION: Final = b"labkit.schema_version"
_GROUP_ROWS: Final = 1 << 18
_PART_ROWS: Final = 1 << 17
#: Bytes of a value in memory, by Parquet's name for its type; of a text at least what says where it is.
_WIDTH: Final = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
#: Written as differences from row to row, which are small, and read twice as fast.
_DELTAS: Final = {"chunks": ("request", "t_ns")}


def _check_size(path: Path) -> None:
    """A few hundred bytes of Parquet can stand for a billion rows.

    Raises:
        StoreError: the rows would take more than half of this machine's memory, or of what this process may have.
    """
    found = _metadata(path)
    widths = sum(_WIDTH.get(found.schema.column(at).physical_type, 16) for at in range(found.num_columns))
    size = max(found.num_rows * widths, sum(found.row_group(at).total_byte_size for at in range(found.num_row_groups)))
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY:
        most = min(most, allowed // 2)
    if size > most:
        raise StoreError(
            f"{path} has {found.num_rows:,} rows, which take {size / 1e9:,.1f} GB: more than half of the memory here",
            remedy="read it on a machine with more memory; if no measurement of yours was so long, the file is not what it says",
        )


def read_table(folder: Path, name: str) -> pa.Table:
    """All rows of one table of a run, from Parquet, from segments, or from both.

    Raises:
        StoreError: a Parquet file is damaged or of another schema.
    """
    schema = TABLES[name]
    path = folder / f"{name}.parquet"
    if path.exists():
        _check_size(path)
    parts = [encoded(_read_parquet(path), schema, path)] if path.exists() else []
    for segment in _fresh(folder, name):
        parts += [encoded(part, schema, segment) for part in _gathered(segment, None)]
    return pa.concat_tables(parts).unify_dictionaries() if parts else schema.empty_table()


def count_rows(folder: Path, name: str) -> int:
    """How many rows ``read_table`` finds; of a finished table without reading it."""
    path = folder / f"{name}.parquet"
    finished = int(_metadata(path).num_rows) if path.exists() else 0
    return finished + sum(int(batch.num_rows) for segment in _fresh(folder, name) for batch in segment_batches(segment))


@dataclass(frozen=True, slots=True)
class TableParts:
    """What ``read_table`` finds, part by part: one at a time is in memory. May be iterated again.

    Attributes:
        since_ns: rows that had happened before may be left out.

    Raises:
        StoreError: a Parquet file is damaged or of another schema.
    """

    folder: Path
    name: str
    since_ns: int | None = None

    def __iter__(self) -> Iterator[pa.Table]:
        schema = TABLES[self.name]
        path = self.folder / f"{self.name}.parquet"
        if path.exists():
            try:
                with pq.ParquetFile(path, page_checksum_verification=True) as file:
                    for batch in file.iter_batches(_PART_ROWS):
                        yield encoded(pa.Table.from_batches([batch]), schema, path)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise _damaged(path, error) from error
        for segment in _fresh(self.folder, self.name):
            for part in _gathered(segment, _PART_ROWS, self.since_ns):
                yield encoded(part, schema, segment)


def read_since(folder: Path, name: str, column: str, since_ns: int) -> pa.Table:
    """The rows of ``read_table`` whose ``column`` is an instant from ``since_ns`` on.

    Never is the whole table in memory, and of a run that goes on what was written before is not read.

    Raises:
        StoreError: as ``TableParts``.
    """
    parts = [part.filter(pc.greater_equal(part.column(column), since_ns)) for part in TableParts(folder, name, since_ns)]
    parts = [part for part in parts if part.num_rows]
    return pa.concat_tables(parts).unify_dictionaries() if parts else TABLES[name].empty_table()


def finalise_table(folder: Path, name: str) -> int:
    """Move a table's segments into ``<name>.parquet`` and delete them; returns the rows it holds. May be called again.

    Rows stream through: no more than one row group is in memory. The row count of what was written is read back first.

    Raises:
        StoreError: the disk is full, or the file read back has another number of rows; segments stay then.
    """
    path, partial = folder / f"{name}.parquet", folder / f".{name}.parquet.tmp"
    held = _held(path) if path.exists() else frozenset()
    segments, fresh = _segments(folder, name), _fresh(folder, name)
    if fresh or not path.exists():
        ids = held | {found for segment in fresh if (found := segment_id(segment))}
        try:
            partial.unlink(missing_ok=True)
            written = _write(partial, name, path if path.exists() else None, fresh, ids)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {path}: {error.strerror or error}", remedy="free disk space and finalise again; segments are kept"
            ) from error
        found = _metadata(partial).num_rows
        if found != written:
            partial.unlink()
            raise StoreError(
                f"{path} has {found} rows of {written}", remedy="check the disk and finalise again; segments are kept"
            )
        partial.replace(path)
    for segment in segments:
        segment.unlink()
    return int(_metadata(path).num_rows)


def _write(partial: Path, name: str, old: Path | None, segments: list[Path], ids: frozenset[str] | set[str]) -> int:
    schema = TABLES[name]
    notes = {_HELD: json.dumps(sorted(ids)).encode(), _VERSION: str(SCHEMA_VERSION).encode()}
    rows = 0
    deltas = _DELTAS.get(name, ())
    with pq.ParquetWriter(
        partial,
        schema.with_metadata(notes),
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=[field.name for field in schema if field.name not in deltas],
        column_encoding=dict.fromkeys(deltas, "DELTA_BINARY_PACKED") or None,
    ) as writer:
        for group in _groups(old, segments, schema):
            table = _by_request(group) if name == "chunks" else group
            writer.write_table(table.replace_schema_metadata(notes))
            rows += table.num_rows
    return rows


def _groups(old: Path | None, segments: list[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    if old is not None:
        with pq.ParquetFile(old, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield encoded(file.read_row_group(group), schema, old)
    for segment in segments:
        for table in _gathered(segment, _GROUP_ROWS):
            yield encoded(table, schema, segment).combine_chunks()


def _by_request(chunks: pa.Table) -> pa.Table:
    """The same rows with those of one request together, in the order in which they came: what reads them need not sort."""
    request = np.asarray(chunks["request"].to_numpy())
    return chunks.take(pa.array(stable_order(request))) if len(request) else chunks


def _gathered(segment: Path, least: int | None, since_ns: int | None = None) -> Iterator[pa.Table]:
    """The batches of a segment, put together to at least so many rows; ``None``: all of them, if there are any."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in segment_batches(segment, since_ns):
        waiting.append(batch)
        rows += batch.num_rows
        if least is not None and rows >= least:
            yield pa.Table.from_batches(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def _fresh(folder: Path, name: str) -> list[Path]:
    """The segments that the Parquet file does not hold yet."""
    path = folder / f"{name}.parquet"
    held = _held(path) if path.exists() else frozenset()
    return [segment for segment in _segments(folder, name) if segment_id(segment) not in held]


def _segments(folder: Path, name: str) -> list[Path]:
    return sorted((folder / SEGMENTS).glob(f"{name}-*{SUFFIX}"))


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _held(path: Path) -> frozenset[str]:
    try:
        return frozenset(map(str, json.loads((_metadata(path).metadata or {}).get(_HELD, b"[]"))))
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> StoreError:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return StoreError(
        f"{path} is damaged: {first_line}", remedy="restore it from a copy, or delete it if its segments are still there"
    )
