"""A stranger's JSON, read with care: nothing is believed before its type and its range are known.

Files come from other tools, other versions and other people. Whatever is wrong with one is a ``StoreError`` that names the
file and the field; nothing here writes anything.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from labkit.errors import StoreError
from labkit.store.redact import redact_text

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")

#: No instant is further from its clock's zero, no answer longer and no count larger; a larger number is damage.
MOST_S: Final = 1e9
MOST_COUNT: Final = 2**31 - 1
#: Of a file. Each value takes some tens of bytes once it is read, an empty list as well as a number.
MOST_BYTES: Final = 1 << 30
MOST_VALUES: Final = 30_000_000
_SPLIT: Final = "measure in parts, and import each; no measurement of ten thousand requests has as much"
_REMEDY: Final = "give the file as the tool wrote it; a run that was cut off has to be measured again"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that was read: its content, and what a manifest says of it."""

    path: Path
    data: bytes = field(repr=False)

    def facts(self) -> dict[str, Any]:
        """Name, size in bytes and sha256; not where it lay."""
        return {"name": plain(self.path.name), "bytes": len(self.data), "sha256": hashlib.sha256(self.data).hexdigest()}


class Document:
    """One JSON object whose fields are decoded, and checked, when they are asked for."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._fields = fields

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def get(self, name: str, kind: Any, default: Any = None) -> Any:
        """A field of this type (as ``msgspec`` takes types); the default where it is absent or null.

        Raises:
            StoreError: another type.
        """
        found = self._fields.get(name)
        if found is None:
            return default
        try:
            if not isinstance(found, msgspec.Raw):
                return msgspec.convert(found, kind)
            value = msgspec.json.decode(found, type=kind | None)
            return default if value is None else value
        except (msgspec.MsgspecError, RecursionError) as error:
            raise damaged(self.where, f"field {plain(name)!r}: {error}") from error

    def number(self, name: str) -> float | None:
        """A finite number; ``None`` where the field is absent or anything else."""
        found = self._fields.get(name)
        try:
            value = msgspec.json.decode(found) if isinstance(found, msgspec.Raw) else found
        except (msgspec.MsgspecError, RecursionError):
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
            return None
        return float(value)


def read_file(path: Path) -> SourceFile:
    """The whole of a regular file.

    Raises:
        StoreError: it is absent, no file, too large, or cannot be read.
    """
    try:
        size = path.stat().st_size if path.is_file() else 0
        if size > MOST_BYTES:
            raise StoreError(f"{plain(str(path))} has {size / 1e9:.1f} GB, of {MOST_BYTES / 1e9:.1f} at most", remedy=_SPLIT)
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            raise StoreError(f"{path} {what}", remedy="name a result file that a benchmark tool wrote")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"cannot read {plain(str(path))}: {said}", remedy="check path and rights") from error
    most = sum(data.count(sign) for sign in b",[{\n\r")
    if most > MOST_VALUES:
        raise StoreError(f"{plain(path.name)} holds {most:,} values, of {MOST_VALUES:,} at most", remedy=_SPLIT)
    return SourceFile(path, data)


def objects(source: SourceFile) -> list[Document]:
    """The JSON objects of a file: one, or one a line.

    Raises:
        StoreError: no JSON, or no objects.
    """
    name = source.path.name
    try:
        return [Document(_fields(source.data), name)]
    except msgspec.DecodeError as error:
        several = lines(source)
        if len(several) < 2:
            raise damaged(name, str(error)) from error
        return [_line(where, line) for where, line in several]


def first_object(source: SourceFile) -> Document:
    """The first of ``objects``, from which a file is recognised."""
    try:
        return Document(_fields(source.data), source.path.name)
    except msgspec.DecodeError as error:
        several = lines(source)
        if len(several) < 2:
            raise damaged(source.path.name, str(error)) from error
        return _line(*several[0])


def lines(source: SourceFile) -> list[tuple[str, bytes]]:
    """The lines that hold something, each with the words for where it stands."""
    found = enumerate(source.data.splitlines(), start=1)
    return [(f"{source.path.name}, line {number}", line) for number, line in found if line.strip()]


def decoded(data: bytes, kind: type[T], where: str) -> T:
    """JSON as this type; StoreError with the field's path otherwise."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise damaged(where, str(error)) from error


def damaged(where: str, what: str) -> StoreError:
    """The error for a file that is not what it should be."""
    return StoreError(f"{plain(where)} cannot be imported: {plain(what)}", remedy=_REMEDY)


def seconds_ns(values: Any, name: str, where: str) -> Ints:
    """Seconds as whole nanoseconds, the resolution of the clocks that they come from.

    Raises:
        StoreError: one that is negative, not finite or beyond ``MOST_S``.
    """
    array = np.asarray(values, np.float64)
    bad = np.flatnonzero(~((array >= 0) & (array <= MOST_S)))
    if len(bad):
        raise damaged(where, f"{name}[{bad[0]}] is {array[bad[0]]!s}, no number of seconds from 0 to {MOST_S:g}")
    return np.rint(array * 1e9).astype(np.int64)


def counts(values: list[int], name: str, where: str) -> Ints:
    """Token counts; StoreError on one that is negative or beyond ``MOST_COUNT``."""
    bad = next((at for at, value in enumerate(values) if not 0 <= value <= MOST_COUNT), None)
    if bad is not None:
        raise damaged(where, f"{name}[{bad}] is {str(values[bad])[:30]}, no count from 0 to {MOST_COUNT}")
    return np.asarray(values, np.int64)


def plain(text: str, most: int = 300) -> str:
    """One line of text without control characters (a terminal obeys them), secrets and excess."""
    kept = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text[: 20 * most])
    return redact_text(" ".join(kept.split()))[:most]


def _line(where: str, line: bytes) -> Document:
    try:
        return Document(_fields(line), where)
    except msgspec.DecodeError as error:
        raise damaged(where, str(error)) from error


def _fields(data: bytes) -> dict[str, Any]:
    """The fields of an object, undecoded. Python's own reader takes what JSON forbids and Python writes: NaN, Infinity and halves
    of characters.
    """
    try:
        return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError as error:
        raise msgspec.DecodeError(str(error)) from error
    except RecursionError as error:
        raise msgspec.DecodeError("it nests too deep") from error
    except msgspec.DecodeError as error:
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            raise error from None
    if not isinstance(found, dict):
        raise msgspec.DecodeError("no JSON object")
    return found
