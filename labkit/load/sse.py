"""Server-sent events out of a byte stream, whatever the splits (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

from typing import Final

EVENT_LIMIT: Final = 4 * 1024 * 1024


class EventSplitter:
    """Joins reads and yields the ``data`` of each event.

    Line ends may be LF, CRLF or CR. Comments are skipped, other fields than ``data`` and ``event`` ignored. An event whose
    type is ``error`` is not data: its text ends up in ``failure``.

    Attributes:
        error: why the stream cannot be read on (an event beyond 4 MiB); nothing is yielded after it.
        failure: what an ``event: error`` said, if one came; nothing is yielded after it.
        clean: the next byte begins an event, and nothing is kept.
    """

    __slots__ = ("_after_cr", "_comment", "_data", "_kind", "_line", "_size", "clean", "error", "failure")

    def __init__(self) -> None:
        self.error: str | None = None
        self.failure: str | None = None
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._kind = b""
        self._comment = b""
        self._after_cr = False
        self.clean = True

    def feed(self, body: bytes) -> list[bytes]:
        """The events that end in this read, in order."""
        events = self._feed(body)
        self.clean = not (self._line or self._data or self._kind or self._comment or self._after_cr or self.error)
        return events

    @property
    def unfinished(self) -> bytes:
        """The data of an event that the stream's end cut short: a spec-abiding reader drops it."""
        line = bytes(self._line)
        last = [line[5:].strip()] if line.startswith(b"data:") else []
        return b"\n".join(self._data + last)

    def _feed(self, body: bytes) -> list[bytes]:
        events: list[bytes] = []
        if self.error is not None or self.failure is not None or not body:
            return events
        if self._after_cr and body[:1] == b"\n":
            body = body[1:]
        if body:
            self._after_cr = body[-1:] == b"\r"
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        start = 0
        while (newline := body.find(b"\n", start)) >= 0:
            line = body[start:newline]
            if self._line:
                line = bytes(self._line) + line
                self._line.clear()
            self._take(line, events)
            start = newline + 1
            if self.error is not None or self.failure is not None:
                return events
        self._line += body[start:]
        if len(self._line) + self._size > EVENT_LIMIT:
            self._break()
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            self._dispatch(events)
        elif line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > EVENT_LIMIT:
                self._break()
        elif line.startswith(b"event:"):
            self._kind = line[6:].strip()
        elif line.startswith(b":"):
            self._comment = line[1:301]
        elif line == b"data":
            self._data.append(b"")
            self._size += 1

    def _dispatch(self, events: list[bytes]) -> None:
        if self._kind == b"error":
            said = b"\n".join(self._data) or self._comment.strip()
            self.failure = said.decode(errors="replace")
        elif self._data:
            events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
        self._data = []
        self._size, self._kind, self._comment = 0, b"", b""

    def _break(self) -> None:
        self.error = "an event of more than 4 MiB"
        self._line.clear()
        self._data, self._size = [], 0
