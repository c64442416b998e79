"""An incremental HTTP/1.1 response parser: bytes in, body bytes out, whatever the splits.

It never raises on what a server sends: ``error`` says what was wrong, and every buffer has a limit.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;.*)?")
_LINE_LIMIT: Final = 16 * 1024
_HEAD_LIMIT: Final = 64 * 1024
_MOST_SIZES: Final = 4096
#: Chunk-size lines, up to their LF, that were checked once, and what they say; a stream repeats a few.
CHUNK_SIZES: Final[dict[bytes, int]] = {}
_MOST_HEADS: Final = 64
#: Heads that were read once and begin a chunked 200, and their headers; a server repeats its own.
_HEADS: Final[dict[bytes, dict[str, str]]] = {}


class _State(Enum):
    STATUS = auto()
    HEADERS = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    LENGTH = auto()
    UNTIL_CLOSE = auto()
    DONE = auto()
    BROKEN = auto()


class ResponseParser:
    """One response. Give it every read with ``feed`` and the end of the connection with ``eof``.

    Attributes:
        status: the final status code, ``None`` until the head is whole; 1xx responses are skipped, and limited with its head.
        headers: by lower-case name; of repeated ones the last. Not to be changed: answers with equal heads share them.
        complete: the body has ended as its framing promised.
        error: why the bytes are no HTTP response; nothing is read after it.
        surplus: bytes came after the end of the body.
        between: the next byte begins a chunk of the body of a 200, and nothing is buffered.
    """

    __slots__ = ("_buffer", "_head_bytes", "_left", "_state", "between", "complete", "error", "headers", "status", "surplus")

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.complete = False
        self.error: str | None = None
        self.surplus = False
        self._state = _State.STATUS
        self._buffer = bytearray()
        self.between = False
        self._head_bytes = 0
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """The body bytes that this read brings, without framing."""
        body = self._feed(data)
        self._look()
        return body

    def head(self, data: bytes) -> int:
        """Take a head that begins a read and came in one piece, as nearly every one does.

        Returns:
            How many bytes of the read it was; 0 where it is not like that, and nothing was taken.
        """
        stop = data.find(b"\r\n\r\n", 0, _LINE_LIMIT)
        if stop < 0 or self._state is not _State.STATUS or self._buffer:
            return 0
        raw = data[:stop]
        if (known := _HEADS.get(raw)) is not None:
            self.status, self.headers, self._state, self.between = 200, known, _State.CHUNK_SIZE, True
            return stop + 4
        lines = raw.split(b"\n")
        if not all(line.endswith(b"\r") for line in lines[:-1]):
            return 0
        for line in (*(line[:-1] for line in lines[:-1]), lines[-1], b""):  # the last one's CR is that of the empty line's mark
            if self.error is None:
                self._line(line)
        self._look()
        if self.between:
            if len(_HEADS) == _MOST_HEADS:
                _HEADS.clear()
            _HEADS[raw] = self.headers
        return stop + 4

    def end(self) -> None:
        """The last chunk came, where ``between`` holds, and nothing behind it."""
        self._finish()
        self.between = False

    def eof(self) -> None:
        """The connection has ended. A body that lasts until the close is complete then, any other is not."""
        if self._state is _State.UNTIL_CLOSE:
            self._finish()

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        return (
            self.complete
            and not self.surplus
            and self.headers.get("connection", "").lower() != "close"
            and ("content-length" in self.headers or "transfer-encoding" in self.headers)
        )

    def _look(self) -> None:
        self.between = self._state is _State.CHUNK_SIZE and not self._buffer and self.status == 200

    def _feed(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        position, end = 0, len(data)
        while position < end:
            state = self._state
            if state is _State.CHUNK_DATA or state is _State.LENGTH:
                take = min(self._left, end - position)
                parts.append(data[position : position + take])
                position += take
                self._left -= take
                if self._left == 0:
                    if state is _State.LENGTH:
                        self._finish()
                    else:
                        self._state = _State.CHUNK_END
            elif state is _State.UNTIL_CLOSE:
                parts.append(data[position:])
                break
            elif state is _State.DONE:
                self.surplus = True
                break
            elif state is _State.BROKEN:
                break
            else:
                newline = data.find(b"\n", position)
                stop = end if newline < 0 else newline + 1
                self._buffer += data[position:stop]
                position = stop
                if len(self._buffer) > _LINE_LIMIT:
                    self._break("a line of more than 16 KiB")
                elif newline >= 0:
                    line = bytes(self._buffer)
                    self._buffer.clear()
                    self._line(line[:-2] if line.endswith(b"\r\n") else line[:-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _line(self, line: bytes) -> None:
        match self._state:
            case _State.STATUS:
                self._status_line(line)
            case _State.HEADERS | _State.TRAILERS:
                self._header_line(line)
            case _State.CHUNK_SIZE:
                self._size_line(line)
            case _State.CHUNK_END:
                if line:
                    self._break(f"a chunk longer than its size: {line[:32]!r}")
                else:
                    self._state = _State.CHUNK_SIZE
            case _:
                raise AssertionError(self._state)

    def _status_line(self, line: bytes) -> None:
        self._head_bytes += len(line) + 2
        match = _STATUS.fullmatch(line)
        if match is None:
            self._break(f"no HTTP status line: {line[:64]!r}")
        else:
            self.status = int(match[1])
            self._state = _State.HEADERS

    def _header_line(self, line: bytes) -> None:
        self._head_bytes += len(line) + 2
        if self._head_bytes > _HEAD_LIMIT:
            self._break("headers of more than 64 KiB")
        elif not line:
            if self._state is _State.TRAILERS:
                self._finish()
            else:
                self._head_ended()
        else:
            name, colon, value = line.partition(b":")
            if not colon or _NAME.fullmatch(name) is None:
                self._break(f"no HTTP header: {line[:64]!r}")
            elif self._state is _State.HEADERS:
                self.headers[name.decode().lower()] = value.strip(b" \t").decode("latin-1")

    def _size_line(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            self._break(f"no chunk size: {line[:32]!r}")
            return
        self._left = int(match[1], 16)
        self._state = _State.CHUNK_DATA if self._left else _State.TRAILERS
        self._head_bytes = 0
        if self._left and len(line) <= 12 and len(CHUNK_SIZES) < _MOST_SIZES:
            CHUNK_SIZES[line + b"\r"] = self._left

    def _head_ended(self) -> None:
        assert self.status is not None
        if self.status < 200:
            if self.status == 101:
                self._break("the server switched protocols")
                return
            self.status, self.headers, self._state = None, {}, _State.STATUS
            return
        encoding = self.headers.get("content-encoding", "identity").lower()
        coding = self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        if encoding not in ("", "identity"):
            self._break(f"content encoding {encoding[:32]!r}, which was not asked for")
        elif self.status in (204, 304):
            self._finish()
        elif coding == "chunked":
            self._state = _State.CHUNK_SIZE
        elif coding:
            self._break(f"transfer coding {coding[:32]!r}")
        elif length is None:
            self._state = _State.UNTIL_CLOSE
        elif not (length.isascii() and length.isdigit() and len(length) <= 15):
            self._break(f"content length {length[:32]!r}")
        elif int(length) == 0:
            self._finish()
        else:
            self._left, self._state = int(length), _State.LENGTH

    def _finish(self) -> None:
        self.complete, self._state = True, _State.DONE

    def _break(self, why: str) -> None:
        self.error, self._state = why, _State.BROKEN
        self._buffer.clear()
