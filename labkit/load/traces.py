"""Files of real requests: when each came, how long it was, and what it shared with others.

Two formats, told apart by their first character. **Mooncake** (Qin et al., FAST '25): a JSON object a line, with ``timestamp``
(ms), ``input_length``, ``output_length`` and, where known, ``hash_ids``: one id for each 512 tokens of the prompt; equal ids
mean equal content. **Azure** (Patel et al., Splitwise, ISCA '24): CSV with the columns ``TIMESTAMP`` (date and time, up to
nine fractional digits), ``ContextTokens`` and ``GeneratedTokens``, in any order and case, among others.

A file is data from elsewhere: whatever stands in it, reading it takes bounded memory and raises nothing but a LoadError that
names file, line and value.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from labkit.errors import LoadError
from labkit.spec.lengths import MOST_TOKENS

#: Tokens of a prompt that one hash id stands for.
BLOCK_TOKENS: Final = 512

_MOST_LINE_BYTES: Final = 1 << 20
_MOST_ROWS: Final = 5_000_000
_MOST_IDS: Final = 100_000_000
_MOST_MS: Final = 7e12  # the year 2191
_YEARS: Final = ("1970", "2191")
_SECOND: Final = timedelta(seconds=1)
_COLUMNS: Final = ("timestamp", "contexttokens", "generatedtokens")
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_COUNT: Final = re.compile(r"[0-9]{1,8}")
_FORMATS: Final = (
    "give JSON lines with timestamp (ms), input_length, output_length, or CSV with TIMESTAMP, ContextTokens, GeneratedTokens"
)

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The rows of a file, in its order.

    Attributes:
        path: of the file.
        sha256: of its bytes.
        times_ns: int64, from an origin of the file's own.
        isl, osl: int64, tokens, each at least 1.
        zeros: lengths of 0 in the file, which became 1.
    """

    path: str
    sha256: str
    times_ns: Integers
    isl: Integers
    osl: Integers
    zeros: int
    _ids: npt.NDArray[np.uint64]
    _id_ends: Integers

    def __len__(self) -> int:
        return len(self.isl)

    def hash_ids(self, row: int) -> list[int]:
        """The ids of a row's prompt blocks; empty where the file has none."""
        begin = int(self._id_ends[row - 1]) if row else 0
        ids: list[int] = self._ids[begin : int(self._id_ends[row])].tolist()
        return ids


def load_trace(path: str) -> Trace:
    """The trace in a file, kept in memory while the file stays as it is.

    Raises:
        LoadError: no such file, neither format, or a row that cannot be meant.
    """
    return _load_trace(path, *_stamp(Path(path)))


def load_lengths(path: str, column: str) -> Integers:
    """Token counts in a file: a number a line, or the column (``isl`` or ``osl``) of a trace.

    Raises:
        LoadError: as for ``load_trace``.
    """
    file = Path(path)
    _stamp(file)
    with _opened(file) as lines:
        first = next((line for _, line in lines if line), "")
    if not _COUNT.fullmatch(first):
        found: Integers = getattr(load_trace(path), column)
        return found
    counts = array("q")
    with _opened(file) as lines:
        for number, line in lines:
            if line:
                counts.append(max(_count(file, number, "the length", line), 1))
                _check_size(file, len(counts), 0)
    return np.asarray(counts, dtype=np.int64)


@lru_cache(maxsize=4)
def _load_trace(path: str, modified_ns: int, size: int) -> Trace:
    file = Path(path)
    with _opened(file) as lines:
        first = next((line for line in lines if line[1]), (1, ""))
        rows = (_read_json if first[1].startswith("{") else _read_csv)(file, chain([first], lines))
        sha256 = lines.sha256.hexdigest()
    if not rows.isl:
        raise LoadError(f"trace {file} holds no requests", remedy=_FORMATS)
    zeros = rows.isl.count(0) + rows.osl.count(0)
    isl, osl = (np.maximum(np.asarray(column, dtype=np.int64), 1) for column in (rows.isl, rows.osl))
    times_ns, ends = np.asarray(rows.times_ns, dtype=np.int64), np.asarray(rows.id_ends, dtype=np.int64)
    return Trace(path, sha256, times_ns, isl, osl, zeros, np.asarray(rows.ids, dtype=np.uint64), ends)


@dataclass(slots=True)
class _Rows:
    """64-bit columns that grow, a few bytes a row."""

    times_ns: array[int] = field(default_factory=lambda: array("q"))
    isl: array[int] = field(default_factory=lambda: array("q"))
    osl: array[int] = field(default_factory=lambda: array("q"))
    ids: array[int] = field(default_factory=lambda: array("Q"))
    id_ends: array[int] = field(default_factory=lambda: array("q"))

    def add(self, time_ns: int, isl: int, osl: int) -> None:
        self.times_ns.append(time_ns)
        self.isl.append(isl)
        self.osl.append(osl)
        self.id_ends.append(len(self.ids))


class _Row(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] | None = None


def _read_json(file: Path, lines: Iterator[tuple[int, str]]) -> _Rows:
    rows, decode = _Rows(), msgspec.json.Decoder(_Row).decode
    for number, line in lines:
        if not line:
            continue
        try:
            row = decode(line)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise _bad(file, number, f"{_short(line)} is no request: {error}") from None
        if not 0 <= row.timestamp <= _MOST_MS:
            raise _bad(file, number, f"timestamp {row.timestamp:g} is not a number of milliseconds from 0 to {_MOST_MS:g}")
        for name, count in (("input_length", row.input_length), ("output_length", row.output_length)):
            if not 0 <= count <= MOST_TOKENS:
                raise _bad(file, number, f"{name} {_short(count)} is not a number of tokens from 0 to {MOST_TOKENS}")
        try:
            rows.ids.extend(row.hash_ids or ())
        except OverflowError:
            raise _bad(file, number, "a hash id is not a whole number from 0 to 2^64 - 1") from None
        whole_ms = math.floor(row.timestamp)  # apart from the rest: ms since 1970 in ns are more than a float holds
        rows.add(whole_ms * 1_000_000 + round((row.timestamp - whole_ms) * 1e6), row.input_length, row.output_length)
        _check_size(file, len(rows.isl), len(rows.ids))
    return rows


def _read_csv(file: Path, lines: Iterator[tuple[int, str]]) -> _Rows:
    number = 0

    def plain() -> Iterator[str]:
        nonlocal number
        for number, line in lines:  # noqa: B007 (read by the errors below)
            if line:
                yield line

    rows, reader = _Rows(), csv.reader(plain(), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in _COLUMNS if name not in header]
        if missing:
            raise LoadError(f"{file} is no trace that is known: line {number} has no {', '.join(missing)}", remedy=_FORMATS)
        at, isl, osl = (header.index(name) for name in _COLUMNS)
        for cells in reader:
            if len(cells) <= max(at, isl, osl):
                raise _bad(file, number, f"{len(cells)} columns where the head has {len(header)}")
            time_ns = _time_ns(file, number, cells[at])
            prompt = _count(file, number, "ContextTokens", cells[isl])
            rows.add(time_ns, prompt, _count(file, number, "GeneratedTokens", cells[osl]))
            _check_size(file, len(rows.isl), len(rows.ids))
    except csv.Error as error:
        raise _bad(file, number, f"no CSV: {error}") from None
    return rows


def _time_ns(file: Path, number: int, text: str) -> int:
    match = _TIME.fullmatch(text.strip())
    if match is not None and _YEARS[0] < match[1] < _YEARS[1]:
        day, clock, fraction, zone = match.groups()
        try:
            moment = datetime.fromisoformat(f"{day}T{clock}{zone or 'Z'}")
            return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _SECOND * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
        except (ValueError, OverflowError):
            pass
    raise _bad(file, number, f"TIMESTAMP {_short(text)} is no date and time such as 2023-11-16 18:17:03.9799600")


def _count(file: Path, number: int, name: str, text: str) -> int:
    text = text.strip()
    if not _COUNT.fullmatch(text) or int(text) > MOST_TOKENS:
        raise _bad(file, number, f"{name} {_short(text)} is not a number of tokens from 0 to {MOST_TOKENS}")
    return int(text)


class _Lines(Iterator[tuple[int, str]]):
    """``(number from 1, text without blanks around it)`` of each line, none longer than a mebibyte."""

    def __init__(self, file: Path) -> None:
        self.sha256 = hashlib.sha256()
        self._file = file
        self._stream = file.open("rb")
        self._number = 0

    def __next__(self) -> tuple[int, str]:
        line = self._stream.readline(_MOST_LINE_BYTES + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self.sha256.update(line)
        if len(line) > _MOST_LINE_BYTES:
            raise _bad(self._file, self._number, f"the line is longer than {_MOST_LINE_BYTES} bytes")
        try:
            return self._number, line.decode("utf-8-sig" if self._number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise _bad(self._file, self._number, f"byte {line[error.start]:#04x} is no UTF-8") from None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[_Lines]:
    try:
        with _Lines(file) as lines:
            yield lines
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from error


def _stamp(file: Path) -> tuple[int, int]:
    """What tells that a file is not the one that was read before."""
    try:
        status = file.stat()
        if not file.is_file():  # a pipe or device might never end
            raise _unreadable(file, "it is no file")
    except (OSError, ValueError) as error:
        raise _unreadable(file, getattr(error, "strerror", None) or str(error)) from error
    return status.st_mtime_ns, status.st_size


def _check_size(file: Path, rows: int, ids: int) -> None:
    if rows > _MOST_ROWS or ids > _MOST_IDS:
        raise LoadError(f"trace {file} has more than {_MOST_ROWS} requests or {_MOST_IDS} hash ids", remedy="cut it into parts")


def _unreadable(file: Path, why: str) -> LoadError:
    return LoadError(f"cannot read {file}: {why}", remedy="name a file that you may read")


def _bad(file: Path, number: int, what: str) -> LoadError:
    return LoadError(f"{file}, line {number}: {what}", remedy=_FORMATS)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
