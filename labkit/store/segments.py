"""Growing tables: Arrow IPC streams that survive ``kill -9`` and a full disk.

A segment is one Arrow IPC *stream* file. Every flush appends one whole record batch, so what a reader finds is the batches
flushed so far and perhaps the torn beginning of one more, which it leaves out. A writer flushes by itself ``flush_s`` after
the first row that waits, even when no further row comes: at most that much is lost with the process.

Every write ends in a seal: a batch without rows whose metadata has the CRC-32 of the bytes since the seal before. So a damaged
segment is told from one that ends in a torn write, and is never read to other rows. A seal also tells when that was (``seek``).

Dictionary columns are kept as plain strings inside a segment (a torn dictionary would cost every batch after it) and encoded
again when read; compression makes up for the size.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from labkit.errors import StoreError
from labkit.measure.records import TABLES
from labkit.store.seek import AT, Skip, skipped, told

SUFFIX: Final = ".arrows"
_ID: Final = b"labkit.segment"
_SEALED: Final = b"labkit.sealed"
_SEAL: Final = b"labkit.crc32"
_MESSAGE: Final = b"\xff\xff\xff\xff"
_END_OF_STREAM: Final = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)  # threads cost ten times what they save

Columns = Mapping[str, Sequence[Any] | np.ndarray[Any, Any] | pa.ChunkedArray]


class SegmentWriter:
    """Appends columnar batches to a segment file; safe to use from several threads.

    Args:
        path: the file, normally ``segments/<table>-<producer>.arrows`` in a run's folder (made if absent). Where it exists
            already, ``….2.arrows`` and so on is taken instead; ``path`` tells which.
        schema: the table's schema; every ``append`` must bring its non-null columns.
        flush_s: rows wait at most this long in memory.
        after: what these rows speak of is written there, and is on disk before them whenever the process is killed. It is closed
            later than this one.

    Raises:
        StoreError: the file cannot be made or written (the path is named); from ``append`` also a column that does not fit
            the schema. After a failed write the rows wait in memory, the file ends at its last whole batch, and the next
            ``flush`` tries again.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, flush_s: float = 1.0, after: SegmentWriter | None = None) -> None:
        self.schema = schema
        self._plain = _plain(schema)
        self._flush_s, self._after = flush_s, after
        self._waiting: list[pa.RecordBatch] = []
        self._error: StoreError | None = None
        self._closed = False
        self._wake = threading.Condition()
        self._sink = io.BytesIO()
        self._encoder = pa.ipc.new_stream(self._sink, self._plain, options=_OPTIONS)
        self.path, self._fd = _open_new(Path(path))
        self._good_bytes, self._torn = 0, False
        self._empty = pa.RecordBatch.from_pylist([], schema=self._plain)
        self._encoder.write_batch(self._empty)  # brings the schema out at once
        try:
            self._write(self._sealed())
        except StoreError:
            os.close(self._fd)
            raise
        self._flusher = threading.Thread(target=self._flush_forever, name=f"flush {self.path.name}", daemon=True)
        self._flusher.start()

    def append(self, columns: Columns) -> None:
        """Take rows: ``{column: values}``, all of one length; a nullable column may be left out and is null then."""
        batch = self._batch(columns)
        with self._wake:
            if self._closed:
                raise StoreError(f"segment {self.path} is closed", remedy="append before close()")
            if self._error is not None:
                error, self._error = self._error, None
                self._waiting.append(batch)
                raise error
            if batch.num_rows:
                self._waiting.append(batch)
                if len(self._waiting) == 1:
                    self._wake.notify()

    def flush(self) -> None:
        """Hand every waiting row to the operating system: from here on they outlive this process."""
        with self._wake:
            self._flush()

    def close(self) -> None:
        """Flush, end the stream and stop the flusher; a second call does nothing."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._wake.notify()
            try:
                self._flush()
                self._write(_END_OF_STREAM)
            finally:
                os.close(self._fd)
        self._flusher.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _batch(self, columns: Columns) -> pa.RecordBatch:
        unknown = set(columns) - set(self._plain.names)
        if unknown:
            raise StoreError(
                f"segment {self.path.name} has no column {sorted(unknown)[0]!r}", remedy=f"use {', '.join(self._plain.names)}"
            )
        rows = len(next(iter(columns.values()), ()))
        arrays = []
        for field in self._plain:
            values = columns.get(field.name)
            try:
                array = pa.nulls(rows, field.type) if values is None else _array(values, field.type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise StoreError(
                    f"column {field.name!r} of {self.path.name} takes {field.type}: {error}", remedy="give values of that type"
                ) from error
            if len(array) != rows or (array.null_count and not field.nullable):
                problem = f"{len(array)} values beside {rows}" if len(array) != rows else "a null"
                raise StoreError(
                    f"column {field.name!r} of {self.path.name} has {problem}", remedy="give one value for every row"
                )
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self._plain)

    def _flush(self) -> None:
        if self._waiting:
            if self._after is not None:
                self._after.flush()
            for batch in pa.Table.from_batches(self._waiting).combine_chunks().to_batches():
                self._encoder.write_batch(batch)
            self._write(self._sealed())
            self._waiting.clear()
        self._error = None

    def _sealed(self) -> bytes:
        """What the encoder made, with its seal."""
        data = self._take()
        note = f"{self._good_bytes} {self._good_bytes + len(data)} {zlib.crc32(data):08x}"
        at = told(self._good_bytes, self._good_bytes + len(data), time.perf_counter_ns())
        self._encoder.write_batch(self._empty, custom_metadata={_SEAL: note.encode(), AT: at})
        return data + self._take()

    def _take(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            if self._torn:
                self._cut_off()
            while written < len(data):
                written += os.write(self._fd, data[written:] if written else data)
        except OSError as error:
            self._torn = True
            with contextlib.suppress(OSError):  # a file system that turned read-only lets nothing be cut off, now
                self._cut_off()
            raise _unwritable(self.path, error) from error
        self._good_bytes += len(data)

    def _cut_off(self) -> None:
        """Of a write that failed a part may be there."""
        os.ftruncate(self._fd, self._good_bytes)
        os.lseek(self._fd, self._good_bytes, os.SEEK_SET)
        self._torn = False

    def _flush_forever(self) -> None:
        with self._wake:
            while not self._closed:
                self._wake.wait_for(lambda: self._closed or bool(self._waiting))
                self._wake.wait_for(lambda: self._closed, timeout=self._flush_s)
                if self._closed:
                    return
                try:
                    self._flush()
                except StoreError as error:
                    self._error = error


def _array(values: Sequence[Any] | np.ndarray[Any, Any] | pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column of a table stays in Arrow: no Python object is made of each value of a pin."""
    return values.cast(kind).combine_chunks() if isinstance(values, pa.ChunkedArray) else pa.array(values, type=kind)


def read_segment(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """The whole batches of a segment, finished or not; a torn or damaged tail is left out.

    Args:
        path: a file that a ``SegmentWriter`` wrote or is writing.
        schema: what the rows must be; by default that of the table that the file name begins with.

    Raises:
        StoreError: the file cannot be opened, or holds another table than ``schema``.
    """
    schema = schema or TABLES.get(table_of(path))
    batches = list(segment_batches(path))
    if not batches:
        return (schema or pa.schema([])).empty_table()
    table = pa.Table.from_batches(batches)
    return table if schema is None else encoded(table, schema, path)


def segment_batches(path: Path, since_ns: int | None = None) -> Iterator[pa.RecordBatch]:
    """The whole batches of a segment one by one, with plain strings for dictionaries: no more than one write is in memory.

    Args:
        path: of the segment.
        since_ns: batches of which no row had happened by then may be left out; what is left is in memory at once.

    Raises:
        StoreError: the file cannot be opened, or is damaged before its torn tail; of an older labkit's, without seals, all that
            follows a damage is taken for the tail.
    """
    try:
        file = pa.OSFile(str(path))
    except OSError as error:
        raise StoreError(f"cannot read segment {path}: {error}", remedy="check path and rights") from error
    with file:
        whole = file.size()  # what is appended from now on may be read while it is half written
        skip = None if since_ns is None else skipped(path, since_ns)
        source = file if skip is None else pa.BufferReader(_bytes(path, 0, skip.head) + _bytes(path, skip.start, whole))
        sealed, checked, waiting = True, 0, list[pa.RecordBatch]()
        try:
            reader = pa.ipc.open_stream(source)
            sealed = _SEALED in (reader.schema.metadata or {})
            while True:
                batch, notes = reader.read_next_batch_with_custom_metadata()
                if not sealed:
                    batch.validate(full=True)
                    yield batch
                elif notes is None or _SEAL not in notes:
                    waiting.append(batch)
                else:
                    begin, end, crc = notes[_SEAL].split()
                    after, file_at = int(end), _place(source.tell(), skip)
                    if int(begin) != checked or zlib.crc32(_bytes(path, checked, after)) != int(crc, 16):
                        raise _damaged(path, checked)
                    yield from waiting
                    checked, waiting = file_at, []
        except (StopIteration, pa.ArrowException, OSError, ValueError, MemoryError):
            pass
    if sealed and _was_whole(_bytes(path, checked, whole)):
        raise _damaged(path, checked)


def _place(at: int, skip: Skip | None) -> int:
    """The place in the file of what is read next, behind ``at`` bytes of what is left of it."""
    return at if skip is None or at < skip.head else at - skip.head + skip.start


def segment_id(path: Path) -> str | None:
    """The random id that its writer gave a segment: a file of the same name may be another one. ``None``: torn at its head."""
    try:
        with pa.OSFile(str(path)) as file:
            metadata = pa.ipc.open_stream(file).schema.metadata or {}
    except (pa.ArrowException, OSError, ValueError, MemoryError):
        return None
    found = metadata.get(_ID)
    return found.decode(errors="replace") if found else None


def table_of(path: Path) -> str:
    """``requests`` for ``…/requests-shard0.arrows``."""
    return Path(path).name.split("-")[0].split(".")[0]


def encoded(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """``table`` in the types of ``schema``: plain strings become dictionaries where the schema has them.

    A column that may be null and that a table of an older labkit lacks is null; columns that the schema lacks are left out.

    Raises:
        StoreError: other columns or types; ``path`` is named.
    """
    try:
        columns = []
        for field in schema:
            if field.nullable and field.name not in table.column_names:
                columns.append(pa.chunked_array([pa.nulls(len(table), field.type)]))
                continue
            column = table.column(field.name)
            if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(column.type):
                column = column.dictionary_encode()
            columns.append(column.cast(field.type))
        return pa.table(columns, schema=schema)
    except (pa.ArrowException, KeyError) as error:
        raise StoreError(
            f"{path} is not what the schema says: {error}", remedy="read it with the labkit that wrote it, or delete the file"
        ) from error


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema(
        [field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field for field in schema],
        metadata={**(schema.metadata or {}), _ID: uuid.uuid4().hex, _SEALED: b"1"},
    )


def _open_new(path: Path) -> tuple[Path, int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        candidate, number = path, 1
        while True:
            try:
                return candidate, os.open(candidate, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                number += 1
                candidate = path.with_name(f"{path.stem}.{number}{path.suffix}")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write {path}: {error.strerror or error}",
        remedy="free disk space or name another results folder; what was written before stays readable",
    )


def _was_whole(tail: bytes) -> bool:
    """Whether what could not be read was once written whole: a whole seal is in there, or the stream's end after more.

    A seal is whole where, after an Arrow message's mark and length, there are as many bytes as the length says.
    """
    if tail.endswith(_END_OF_STREAM) and len(tail) > len(_END_OF_STREAM):
        return True
    text = tail.find(_SEAL)
    if text < 0:
        return False
    if tail.find(_SEAL, text + 1) >= 0:  # the next write began when the first was done
        return True
    mark = tail.rfind(_MESSAGE, 0, text)
    length = int.from_bytes(tail[mark + 4 : mark + 8], "little")
    return mark < 0 or mark + 8 + length <= len(tail)


def _bytes(path: Path, begin: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(max(end - begin, 0))


def _damaged(path: Path, after: int) -> StoreError:
    return StoreError(
        f"segment {path} is damaged after byte {after}",
        remedy="restore it from a copy; without one, move it away: what else the run recorded is read without it",
    )
