"""What the reads of one streamed response say: pure, neither I/O nor clock.

The work is split in two. ``take`` is all that happens when bytes arrive: they are kept with their instant, so that parsing
never delays the stamp of another stream. ``settle`` parses what was kept, many reads at once: reads that hold whole events in
whole chunks, as nearly all do, are checked and cut with a handful of calls for all of them together; any other read
goes through the incremental parsers. Both ways give the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Final

import msgspec

from labkit.load.events import ChunkLog, Event, TokenCount, decode, text_of
from labkit.load.http import CHUNK_SIZES, ResponseParser
from labkit.load.sse import EventSplitter

_BODY_KEPT: Final = 1000
REASON_KEPT: Final = 300
_MOST_KEPT: Final = 64
_USUAL_END: Final = b"}\n\n\r\n"
_USUAL_LAST: Final = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_SIZE_OF: Final = CHUNK_SIZES.get


class Stream:
    """One response: its chunk rows go to ``log``, what it amounts to is in the attributes once ``settle`` was called.

    Args:
        request: id of the chunk rows.
        log: takes them.
        keep_text: keep the text in ``pieces``.

    Attributes:
        http: status, headers and framing.
        count: what is known of token counts.
        reads: whether anything came.
        over: nothing that still comes is of interest.
        done: ``[DONE]`` came.
        broken: why the events cannot be read on.
        failure: an error that the server told within the stream.
        end_ns: when the read came that ended it.
        server_id: the server's name for the answer.
        error_body: the beginning of the body of an answer other than 200.
    """

    __slots__ = (
        "_data",
        "_log",
        "_request",
        "_sse",
        "_t_ns",
        "_usual",
        "broken",
        "count",
        "done",
        "end_ns",
        "error_body",
        "failure",
        "http",
        "over",
        "pieces",
        "reads",
        "server_id",
    )

    def __init__(self, request: int, log: ChunkLog, *, keep_text: bool = False) -> None:
        self.http = ResponseParser()
        self.count = TokenCount()
        self.reads = False
        self.over = False
        self.done = False
        self.broken: str | None = None
        self.failure: str | None = None
        self.end_ns: int | None = None
        self.server_id: str | None = None
        self.error_body = b""
        self.pieces: list[str] | None = [] if keep_text else None
        self._sse = EventSplitter()
        self._log = log
        self._request = request
        self._data: list[bytes] = []
        self._t_ns: list[int] = []
        self._usual: int | None = None  # so many reads came before the first of another kind

    def take(self, data: bytes, t_ns: int) -> bool:
        """Keep a read; whether ``settle`` must be called now, because the read may end the stream or enough has gathered."""
        kept = self._data
        kept.append(data)
        self._t_ns.append(t_ns)
        if data.endswith(_USUAL_END):
            return len(kept) >= _MOST_KEPT
        if self._usual is None:
            if data.endswith(_USUAL_LAST) and len(data) > len(_USUAL_LAST):  # a last token, and the end: cut in two
                kept[-1:] = data[: -len(_USUAL_LAST)], _USUAL_LAST
                self._t_ns.append(t_ns)
            self._usual = len(kept) - 1
        return True

    def settle(self) -> None:
        """Parse everything that was kept."""
        kept, t_ns = self._data, self._t_ns
        if not kept:
            return
        self._data, self._t_ns = [], []
        usual = len(kept) if self._usual is None else self._usual
        self._usual = None
        at = 0
        if not self.reads and (length := self.http.head(kept[0])):
            kept[0] = kept[0][length:]
        self.reads = True
        while at < len(kept) and not self.over:
            if at < usual and self.http.between and self._sse.clean:
                found = whole_events(kept[at:usual])
                if found is not None:
                    events, per_read = found
                    instants = t_ns[at:usual]
                    self._rows(events, _repeated(instants, per_read) if per_read else instants)
                    at = usual
                    continue
                usual = at
            self._feed(kept[at], t_ns[at])
            at += 1

    def eof(self, t_ns: int) -> None:
        """The connection has ended."""
        self.settle()
        self.http.eof()
        self.finish(t_ns)

    def finish(self, t_ns: int) -> None:
        """Nothing more is of interest, from ``t_ns`` on."""
        self.over = True
        if self.end_ns is None:
            self.end_ns = t_ns
            # some servers end the stream right behind [DONE], without the empty line that would end the event
            self.done = self.done or self._sse.unfinished == b"[DONE]"

    def _feed(self, data: bytes, t_ns: int) -> None:
        http, sse = self.http, self._sse
        body = http.feed(data)
        if body and http.status == 200:
            for payload in sse.feed(body):
                if payload == b"[DONE]":
                    self.done = True
                    break
                try:
                    event = decode(payload)
                except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                    self.broken = f"unreadable event {payload[:80]!r}: {error}"[:REASON_KEPT]
                    break
                self._rows([event], [t_ns])
                if self.over:
                    return
            self.failure = self.failure or sse.failure
            self.broken = self.broken or sse.error
        elif body and len(self.error_body) < _BODY_KEPT:
            self.error_body += body[:_BODY_KEPT]
        if http.complete or http.error is not None or self.broken is not None or self.failure is not None:
            self.finish(t_ns)

    def _rows(self, events: list[Event], t_ns: list[int]) -> None:
        """What is done for each token. ``t_ns`` holds the instant of each event."""
        if self.done:
            return
        counted = self.count.usual(events) if len(events) > 1 else None
        if counted is not None:
            tokens, texts = counted
            self._name(events[: len(tokens)])
            self._log.extend(self._request, t_ns[: len(tokens)], tokens, list(map(bool, texts)))
            if self.pieces is not None:
                self.pieces += texts
            events, t_ns = events[len(tokens) :], t_ns[len(tokens) :]
        for event, at in zip(events, t_ns, strict=True):
            if event.choices:
                choice = event.choices[0]
                text = text_of(choice)
                self._log.extend(self._request, (at,), (self.count.chunk(choice, event.usage, text),), (bool(text),))
                if self.pieces is not None and text:
                    self.pieces.append(text)
            elif event.usage is not None:
                self.count.usage(event.usage)
            self._name((event,))
            if event.error is not None:
                self.failure = msgspec.json.encode(event.error).decode()
                self.finish(at)
                break

    def _name(self, events: Sequence[Event]) -> None:
        if self.server_id is None:
            self.server_id = next((str(event.id)[:REASON_KEPT] for event in events if event.id is not None), None)


def whole_events(reads: list[bytes]) -> tuple[list[Event], list[int] | None] | None:
    """The events of reads that each hold whole HTTP chunks and whole one-line events, all at once.

    The first read must begin a chunk and an event, and each must end with an empty line and the CRLF of its chunk. Four lines
    make an event then: the chunk's size, ``data: …`` of just that size, an empty line, and the chunk's end. Whatever is not so
    (a comment, a chunk that is cut, another CR, an event that is no JSON) is left to the incremental parsers.

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


def _repeated(t_ns: list[int], times: list[int]) -> list[int]:
    return [at for at, count in zip(t_ns, times, strict=True) for _ in range(count)]
