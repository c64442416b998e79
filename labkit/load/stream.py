"""What one streamed response says: pure, neither I/O nor clock.

``feed`` takes any read, whatever its splits. Nearly every read is whole events in whole chunks, though: those of all streams are
taken together by ``intake``, which asks ``begin`` and ``usual`` and hands over each ``event``. Both ways give the same rows.
"""

from __future__ import annotations

from typing import Final

import msgspec

from labkit.load.events import Choice, ChunkLog, Event, TokenCount, decode, text_of
from labkit.load.http import ResponseParser
from labkit.load.sse import EventSplitter

#: How nearly every stream ends: ``[DONE]`` in a chunk of its own, and the last chunk.
LAST: Final = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
REASON_KEPT: Final = 300
_BODY_KEPT: Final = 1000
_MOST_PIECES: Final = 1_000_000


class Stream:
    """One response: its chunk rows go to ``log``, what it amounts to is in the attributes.

    Args:
        request: id of the chunk rows.
        log: takes them.
        keep: keep what was answered.

    Attributes:
        request: see above.
        http: status, headers and framing.
        count: what is known of token counts.
        usual: the next read begins a chunk and an event of an answer that is under way.
        plain: of its events only the tokens are of interest: it goes on, its name is known, and nothing is kept.
        reads: whether anything came.
        over: nothing that still comes is of interest.
        done: ``[DONE]`` came.
        broken: why the events cannot be read on.
        failure: an error that the server told within the stream.
        end_ns: when the read came that ended it.
        server_id: the server's name for the answer.
        error_body: the beginning of the body of an answer other than 200.
        kept: the pieces of the answer, where they are kept and not more than a million.
    """

    __slots__ = (
        "_log",
        "_sse",
        "broken",
        "count",
        "done",
        "end_ns",
        "error_body",
        "failure",
        "http",
        "kept",
        "over",
        "plain",
        "reads",
        "request",
        "server_id",
        "usual",
    )

    def __init__(self, request: int, log: ChunkLog, *, keep: bool = False) -> None:
        self.request = request
        self.http = ResponseParser()
        self.count = TokenCount()
        self.usual = False
        self.plain = False
        self.reads = False
        self.over = False
        self.done = False
        self.broken: str | None = None
        self.failure: str | None = None
        self.end_ns: int | None = None
        self.server_id: str | None = None
        self.error_body = b""
        self.kept: list[Choice] | None = [] if keep else None
        self._sse = EventSplitter()
        self._log = log

    def begin(self, data: bytes) -> bytes:
        """Take the head off the first read, where it is whole; what is left of the read."""
        self.reads = True
        length = self.http.head(data)
        self.usual = self.http.between
        return data[length:] if length else data

    def feed(self, data: bytes, t_ns: int) -> None:
        """Take a read that came at ``t_ns``."""
        if self.over:
            return
        if self.usual and data == LAST:
            self.http.end()
            self.done = True
            self.finish(t_ns)
            return
        self.reads = True
        http = self.http
        body = http.feed(data)
        if body and http.status == 200:
            self._events(body, t_ns)
        elif body:
            self.error_body += body[: _BODY_KEPT - len(self.error_body)]
        if not self.over and http.complete:
            self._ended(t_ns)
        elif not self.over and http.error is not None:
            self.finish(t_ns)
        self.usual = http.between and self._sse.clean and not (self.over or self.done)

    def event(self, event: Event, t_ns: int) -> None:
        """Take an event; nothing counts behind what ended the stream."""
        if self.over:
            return
        if event.choices:
            choice = event.choices[0]
            text = text_of(choice)
            self._log.add(self.request, t_ns, self.count.chunk(choice, event.usage, text), bool(text))
            if self.kept is not None:
                self.kept.append(choice)
                if len(self.kept) > _MOST_PIECES:
                    self.kept = None
        elif event.usage is not None:
            self.count.usage(event.usage)
        if self.server_id is None and event.id is not None:
            self.server_id = str(event.id)[:REASON_KEPT]
        self.plain = self.server_id is not None and self.kept is None
        if event.error is not None:
            self.failure = msgspec.json.encode(event.error).decode()[:REASON_KEPT]
            self.finish(t_ns)

    def eof(self, t_ns: int) -> None:
        """The connection has ended."""
        self.http.eof()
        if not self.over:
            self._ended(t_ns)

    def finish(self, t_ns: int) -> None:
        """Nothing more is of interest, from ``t_ns`` on."""
        self.over, self.usual, self.plain = True, False, False
        if self.end_ns is None:
            self.end_ns = t_ns

    def _ended(self, t_ns: int) -> None:
        """The body has ended: some servers leave out the empty line that would end the event ``[DONE]``."""
        self.done = self.done or self._sse.unfinished == b"[DONE]"
        self.finish(t_ns)

    def _events(self, body: bytes, t_ns: int) -> None:
        """Nothing counts behind ``[DONE]`` or behind what ends the stream, whether it comes with the same read or a later one."""
        if self.done:
            return
        sse = self._sse
        for payload in sse.feed(body):
            if payload == b"[DONE]":
                self.done = True
                return
            try:
                event = decode(payload)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self.broken = f"unreadable event {payload[:80]!r}: {error}"[:REASON_KEPT]
                self.finish(t_ns)
                return
            self.event(event, t_ns)
            if self.over:
                return
        if sse.failure is not None or sse.error is not None:
            self.failure, self.broken = sse.failure and sse.failure[:REASON_KEPT], sse.error
            self.finish(t_ns)
