"""What one round of reads brought, of all streams together.

A token costs a few microseconds here, so the fixed costs of parsing are shared: reads that are whole events in whole chunks, as
nearly all are, are checked and cut with a handful of calls for all of them, while they are still in the cache. Any other read
goes to its stream's own incremental parsers, and so do all where one of them is odd.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, repeat
from typing import Final, Protocol, TypeVar

import msgspec

from labkit.load.events import ChunkLog, Event, decode, text_of
from labkit.load.http import CHUNK_SIZES
from labkit.load.stream import LAST, Stream

_WHOLE: Final = b"}\n\n\r\n"  # the end of a read whose last event is whole
_WHOLE_AND_LAST: Final = _WHOLE + LAST
_SIZE_OF: Final = CHUNK_SIZES.get

_T = TypeVar("_T")


class Reading(Protocol):
    """Whose reads these are: ``wire.Wire``."""

    @property
    def stream(self) -> Stream:
        """What the reads say."""

    def feed(self, data: bytes, t_ns: int) -> None:
        """Take a read of whatever kind."""

    def look(self) -> None:
        """The stream may have ended."""


class Intake:
    """Takes rounds of reads; their rows go to ``log``."""

    def __init__(self, log: ChunkLog) -> None:
        self._log = log

    def take(self, wires: Sequence[Reading], reads: Sequence[bytes], t_ns: Sequence[int]) -> None:
        """Take what came in, in its order: ``reads[i]`` from ``wires[i]``, where it came at ``t_ns[i]``."""
        usual = [wire.stream.usual and data.endswith(_WHOLE) for wire, data in zip(wires, reads, strict=True)]
        others: list[tuple[Reading, bytes, int]] = []
        if not all(usual):
            reads = list(reads)
            others = _trimmed(wires, reads, t_ns, usual)
            wires, reads, t_ns = list(compress(wires, usual)), list(compress(reads, usual)), list(compress(t_ns, usual))
        if wires and not self._together(wires, reads, t_ns):
            for wire, data, at in zip(wires, reads, t_ns, strict=True):
                if not self._together([wire], [data], [at]):
                    wire.feed(data, at)
        for wire, data, at in others:
            wire.feed(data, at)

    def _together(self, wires: Sequence[Reading], reads: Sequence[bytes], t_ns: Sequence[int]) -> bool:
        """Whether the reads are all of the usual kind; nothing was done where they are not."""
        found = whole_events(reads)
        if found is None:
            return False
        events, per_read = found
        if per_read is not None:
            wires, t_ns = _repeated(wires, per_read), _repeated(t_ns, per_read)
        add = self._log.add
        for wire, event, at in zip(wires, events, t_ns, strict=True):
            stream, choices = wire.stream, event.choices
            if choices and stream.plain and event.error is None:
                choice = choices[0]
                if tokens := stream.count.usual(event.usage, choice.token_ids):
                    add(stream.request, at, tokens, bool(choice.text or text_of(choice)))
                    continue
            stream.event(event, at)
            if stream.over:
                wire.look()
        return True


def _trimmed(
    wires: Sequence[Reading], reads: list[bytes], t_ns: Sequence[int], usual: list[bool]
) -> list[tuple[Reading, bytes, int]]:
    """Cut heads and ends off reads that are of the ``usual`` kind without them, in place; what is left, in its order."""
    others: list[tuple[Reading, bytes, int]] = []
    for at, wire in enumerate(wires):
        if usual[at]:
            continue
        stream, data = wire.stream, reads[at]
        if not stream.reads:
            data = stream.begin(data)
        if stream.usual and data.endswith(_WHOLE):
            reads[at], usual[at] = data, True
        elif stream.usual and data.endswith(_WHOLE_AND_LAST):  # a last token, and the end: cut in two
            reads[at], usual[at] = data[: -len(LAST)], True
            others.append((wire, LAST, t_ns[at]))
        else:
            others.append((wire, data, t_ns[at]))
    return others


def whole_events(reads: Sequence[bytes]) -> tuple[list[Event], list[int] | None] | None:
    """The events of reads that each hold whole HTTP chunks and whole one-line events, all at once.

    Each read must begin a chunk and an event, and end with an empty line and the CRLF of its chunk. Four lines make an event
    then: the chunk's size, ``data: …`` of just that size, an empty line, and the chunk's end. Whatever is not so (a comment, a
    chunk that is cut, another CR, an event that is no JSON) is left to the incremental parsers.

    Returns:
        ``(events, events of each read)``, the latter ``None`` for one each; ``None`` where the reads are not like that.
    """
    blob = b"".join(reads)
    lines = blob.split(b"\n")
    lines.pop()  # behind the last line end: nothing
    data = lines[1::4]
    total = len(data)
    if (
        [size - 2 for size in map(_SIZE_OF, lines[::4], repeat(0))] != list(map(len, data))
        or lines[2::4] != [b""] * total
        or lines[3::4] != [b"\r"] * total
        or blob.count(b"\r") != 2 * total
    ):
        return None
    try:
        events = [decode(line[6:]) for line in data if line[:6] == b"data: "]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if len(events) != total:
        return None
    return events, None if total == len(reads) else [read.count(b"\n") // 4 for read in reads]


def _repeated(values: Sequence[_T], times: Sequence[int]) -> list[_T]:
    return [value for value, count in zip(values, times, strict=True) for _ in range(count)]
