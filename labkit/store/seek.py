"""Where in a segment to begin, for rows since an instant: what was written before it holds none of them.

The seal of every write tells when that was and which bytes it seals, in a form that is found from any place in the file. So the
first write of interest is found by halving the file, and the end of an afternoon is read without the afternoon.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, Final, NamedTuple

#: Metadata of a seal. Its value: where the sealed bytes begin and end, and when they were written (``CLOCK_MONOTONIC``, ns).
AT: Final = b"labkit.at"
_TOLD: Final = re.compile(rb"at (\d{1,15}) (\d{1,15}) (\d{1,19});")
_MESSAGE: Final = b"\xff\xff\xff\xff"
_WINDOW: Final = 256 * 1024
_LONGEST: Final = 64
_STEP: Final = 1024 * 1024  # so much is looked through from its beginning
#: Instants of rows may be of another clock than that of the writes, moved to it.
_MARGIN_NS: Final = 5_000_000_000


class Seal(NamedTuple):
    """What a seal tells: bytes ``begin`` to ``end`` were written at ``at_ns``; ``place`` is where it says so."""

    begin: int
    end: int
    at_ns: int
    place: int


class Skip(NamedTuple):
    """What may be left out: the bytes from ``head`` on, which ends the first write, to ``start``, where another begins."""

    head: int
    start: int


def told(begin: int, end: int, at_ns: int) -> bytes:
    """The value of ``AT``."""
    return b"at %d %d %d;" % (begin, end, at_ns)


def skipped(path: Path, since_ns: int) -> Skip | None:
    """What of a segment holds no row of an instant from ``since_ns`` on, if its rows were written when they had happened.

    ``None``: nothing may be left out, or that is not known, as in a segment of an older labkit, or where nothing was written
    since that instant: its rows may be of another clock.
    """
    since_ns -= _MARGIN_NS
    with path.open("rb") as file:
        size = file.seek(0, 2)
        first = _after(file, 0, size)
        second = _after(file, first.place + 1, size) if first is not None else None
        if first is None or second is None or first.begin or first.at_ns >= since_ns:
            return None
        low, high = second.begin, size
        while high - low > _STEP:
            middle = (low + high) // 2
            seal = _after(file, middle, size)
            if seal is None or seal.at_ns >= since_ns:
                high = middle
            else:
                low = seal.end
        found = _after(file, low, size)
        while found is not None and found.at_ns < since_ns:
            found = _after(file, found.place + 1, size)
    return None if found is None or found.begin <= second.begin else Skip(second.begin, found.begin)


def _after(file: IO[bytes], offset: int, size: int) -> Seal | None:
    """The first seal that tells of itself at ``offset`` or behind; ``None`` where there is none up to ``size``."""
    while offset < size:
        file.seek(offset)
        data = file.read(min(_WINDOW + _LONGEST, size - offset))
        for match in _TOLD.finditer(data):
            begin, end, at_ns = map(int, match.groups())
            place = offset + match.start()
            if begin < end <= place and _is_inside(file, end, place):
                return Seal(begin, end, at_ns, place)
        offset += _WINDOW
    return None


def _is_inside(file: IO[bytes], message: int, place: int) -> bool:
    """Whether a place lies in the metadata of an Arrow message that begins at ``message``: a text in a table may look alike."""
    file.seek(message)
    head = file.read(8)
    return head[:4] == _MESSAGE and message + 8 <= place < message + 8 + int.from_bytes(head[4:], "little")
