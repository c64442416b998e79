"""Checksums of what a run keeps, so that a damaged file is found and never read to other numbers.

CRC-32 finds every change of up to 32 bits in a row, and of what is damaged otherwise all but one in four thousand million; it
runs at the speed of the memory. Nothing here keeps anybody from forging a run.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from labkit.errors import StoreError

#: Field of a JSON object of the lab's with the checksum of its other fields.
FIELD: Final = "crc32"
_BLOCK_BYTES: Final = 1 << 20


def json_sum(data: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of what a JSON object says, however it is laid out; its own ``FIELD`` is left out."""
    said = {key: value for key, value in data.items() if key != FIELD}
    return f"{zlib.crc32(json.dumps(said, sort_keys=True, separators=(',', ':')).encode()):08x}"


def file_sum(path: Path) -> dict[str, Any]:
    """``{"bytes", "crc32"}`` of a file.

    Raises:
        StoreError: it cannot be read.
    """
    count, crc = 0, 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                count, crc = count + len(block), zlib.crc32(block, crc)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing, and the run was finished with it", remedy="restore it from a copy") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}", remedy="check path, rights and the disk") from error
    return {"bytes": count, "crc32": f"{crc:08x}"}


def check_file(path: Path, known: Mapping[str, Any]) -> None:
    """Hold a file to what ``file_sum`` once said of it.

    Raises:
        StoreError: it has another length or content, is missing, or cannot be read; the file is named.
    """
    found = file_sum(path)
    if found == dict(known):
        return
    if found["bytes"] != known.get("bytes"):
        how = f"it has {found['bytes']} bytes of {known.get('bytes')}"
    else:
        how = f"its CRC-32 is {found['crc32']}, and was {known.get('crc32')} when the run was finished"
    raise StoreError(f"{path} is damaged: {how}", remedy="restore it from a copy; what else is in the folder may be whole")
