"""The streaming client: one request, one connection, every chunk stamped when its bytes came in.

**A fresh connection per request.** A server without TCP_NODELAY (Dynamo's frontend) holds back the first bytes of a
kept-alive response until the client's delayed ACK, some 40 ms of false TTFT; a fresh connection starts in quick-ACK mode and
sees none of it. The price, a connect per request, falls before ``sent_ns`` (the instant at which the bytes are handed to the
connection), so it counts as send lag and never as TTFT. With https the handshake costs round trips and CPU that would
delay other streams: there, connections that ended cleanly are kept and used again, and the client acknowledges every read at
once, so that no server waits for it (``tls``).

Nothing a server does raises: every request ends as a ``Reply`` with an outcome and a reason.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Final

from labkit.load.deadlines import Deadlines
from labkit.load.events import Choice, ChunkLog, text_of
from labkit.load.intake import Intake
from labkit.load.reader import Reader
from labkit.load.stream import REASON_KEPT as _REASON_KEPT
from labkit.load.stream import Stream
from labkit.load.target import Target
from labkit.load.tls import TlsReads, connect_tls
from labkit.load.wire import Wire
from labkit.measure.outcomes import CANCELLED
from labkit.measure.records import Outcome

_LINGER_NS: Final = 1_000_000_000


@dataclass(slots=True)
class Reply:
    """How one request went. Instants in ns; ``None``: it did not come to that."""

    outcome: Outcome = "ok"
    reason: str | None = None
    sent_ns: int | None = None
    end_ns: int | None = None
    http_status: int | None = None
    done: bool = False
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    tokens_from: str | None = None
    server_id: str | None = None
    chunks: int = 0
    unknown_chunks: int = 0
    answer: list[Choice] | None = None


class Client:
    """Sends requests to one target.

    Args:
        target: where to.
        log: takes the chunk rows.
        on_sent: called with the instant of every send.
        count_text: counts the tokens of a text, for servers that send no usage; ``None``: such counts stay unknown.

    Attributes:
        keep_answers: replies of requests that are sent from now on hold what was answered.
    """

    def __init__(
        self,
        target: Target,
        log: ChunkLog,
        *,
        on_sent: Callable[[int], None] | None = None,
        count_text: Callable[[str], int] | None = None,
    ) -> None:
        self.target, self._port = target, target.port
        self._key = _pattern_of(target.api_key or "")
        self._log = log
        self._on_sent = on_sent
        self._count_text = count_text
        self.keep_answers = False
        self._tls = ssl.create_default_context() if target.tls else None
        self._intake = Intake(log)
        self._reader: Reader[Wire] | None = None
        self._tls_reads: TlsReads | None = None
        self._addresses: list[str] = []
        self._idle: list[Wire] = []
        self._open: set[Wire] = set()
        self._deadlines: Deadlines | None = None
        self._lingering: deque[tuple[int, Wire]] = deque()  # until when at most
        self._sweep: asyncio.TimerHandle | None = None

    async def request(self, head: bytes, body: bytes, *, request: int, osl: int, timeout_s: float) -> Reply:
        """Send one request and follow its stream to the end.

        Args:
            head, body: the bytes to send.
            request: id of the chunk rows.
            osl: tokens asked for; fewer are a ``short`` answer where the dialect ignores the end-of-sequence token.
            timeout_s: from now, connecting included.

        A cancelled task gives a ``cancelled`` reply, with the chunks that had come.
        """
        reply = Reply()
        wire: Wire | None = None
        task = asyncio.current_task()
        assert task is not None
        deadlines = self._deadlines = self._deadlines or Deadlines()
        deadlines.begin(task, timeout_s)
        try:
            while True:
                wire = await self._connect()
                self._send(wire, reply, head + body, request)
                await wire.ended
                if wire.used > 1 and wire.closed and not wire.stream.reads:
                    continue  # a kept connection that the server had closed meanwhile
                break
            self._judge(wire, reply, osl)
        except asyncio.CancelledError:
            self._note(wire, reply)
            if not deadlines.end(task):
                reply.outcome, reply.reason = CANCELLED, "stopped by the lab"
            elif wire is not None and wire.used and wire.stream.done:
                self._judge(wire, reply, osl)
            else:
                reply.outcome, reply.reason = "timeout", f"no end within {timeout_s:g} s"
            task.uncancel()
        except OSError as error:
            reply.outcome, reply.reason = "refused", _connect_reason(error)
        finally:
            deadlines.end(task)
        if reply.end_ns is None:
            reply.end_ns = perf_counter_ns()
        if wire is not None:
            self._release(wire, keep=reply.outcome == "ok")
        return reply

    def catch_up(self) -> None:
        """Read whatever has come in up to now; over https, what the event loop has read."""
        if self._reader is not None:
            self._reader.read()
        if self._tls_reads is not None:
            self._tls_reads.flush()

    async def resolve(self) -> None:
        """Look the host up once; raises OSError where that fails."""
        if not self._addresses:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(self.target.host, self._port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def close(self) -> None:
        """Drop every connection."""
        for wire in list(self._open):
            wire.abort()
        self._open.clear()
        self._idle.clear()
        self._lingering.clear()
        if self._sweep is not None:
            self._sweep.cancel()
        if self._deadlines is not None:
            self._deadlines.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def _connect(self) -> Wire:
        while self._idle:
            wire = self._idle.pop()
            if not wire.closed:
                return wire
            self._open.discard(wire)
        await self.resolve()
        for address in list(self._addresses):
            try:
                wire = await self._open_to(address)
            except OSError:
                if address == self._addresses[-1]:
                    raise
                continue
            if address != self._addresses[0]:
                self._addresses = [address, *(other for other in self._addresses if other != address)]
            self._open.add(wire)
            return wire
        raise ConnectionRefusedError(f"no address of {self.target.host} answers")

    async def _open_to(self, address: str) -> Wire:
        wire = Wire()
        if self._tls is None:
            self._reader = self._reader or Reader(self._intake.take, late_acks=self.target.writes_at_once)
            wire.transport = await self._reader.connect(address, self._port, wire)
        else:
            reads = self._tls_reads = self._tls_reads or TlsReads(self._intake.take)
            wire.transport = await connect_tls(wire, reads, address, self._port, self._tls, self.target.host)
        return wire

    def _send(self, wire: Wire, reply: Reply, data: bytes, request: int) -> None:
        wire.begin(Stream(request, self._log, keep=self.keep_answers or self._count_text is not None))
        reply.sent_ns = perf_counter_ns()
        if wire.closed:
            wire.lost(None, reply.sent_ns)
        else:
            wire.transport.write(data)
        if self._on_sent is not None:
            self._on_sent(reply.sent_ns)

    def _release(self, wire: Wire, *, keep: bool) -> None:
        if wire.used and not wire.ended.done():
            wire.ended.cancel()
        if wire.closed:
            self._open.discard(wire)
        elif keep and self._tls is not None and wire.stream.http.reusable:
            self._idle.append(wire)
        elif keep:
            # the server closes first, so that the waiting ports are its own and not ours
            self._lingering.append((perf_counter_ns() + _LINGER_NS, wire))
            if self._sweep is None:
                self._sweep = asyncio.get_running_loop().call_later(_LINGER_NS / 1e9, self._swept)
        else:
            self._drop(wire)

    def _swept(self) -> None:
        now_ns, waiting = perf_counter_ns(), self._lingering
        while waiting and waiting[0][0] <= now_ns:
            self._drop(waiting.popleft()[1])
        self._sweep = asyncio.get_running_loop().call_later(_LINGER_NS / 1e9, self._swept) if waiting else None

    def _drop(self, wire: Wire) -> None:
        wire.abort()
        self._open.discard(wire)

    def _note(self, wire: Wire | None, reply: Reply) -> None:
        """Take over what is known of a stream, whole or not."""
        if wire is None or reply.sent_ns is None:
            return
        if self._tls_reads is not None:
            self._tls_reads.flush()
        stream = wire.stream
        reply.end_ns = stream.end_ns
        reply.http_status, reply.done = stream.http.status, stream.done
        reply.server_id = stream.server_id and self._without_key(stream.server_id)
        count = stream.count
        reply.prompt_tokens = count.prompt_tokens
        reply.output_tokens, reply.tokens_from = count.total()
        reply.chunks, reply.unknown_chunks = count.chunks, count.unknown
        reply.answer = stream.kept
        if reply.output_tokens is None and stream.kept is not None and self._count_text is not None and stream.done:
            reply.output_tokens, reply.tokens_from = self._count_text("".join(map(text_of, stream.kept))), "retokenised"

    def _judge(self, wire: Wire, reply: Reply, osl: int) -> None:
        self._note(wire, reply)
        stream = wire.stream
        http, count = stream.http, stream.count
        status, output = http.status, reply.output_tokens
        if status is not None and status != 200 and (http.error is None or stream.error_body):
            said = self._without_key(stream.error_body.decode(errors="replace").strip())
            reply.outcome, reply.reason = "http_error", f"HTTP {status}: {said}"[:_REASON_KEPT]
        elif stream.broken is not None:
            reply.outcome, reply.reason = "bad_stream", stream.broken
        elif stream.failure is not None:
            reply.outcome, reply.reason = (
                "http_error",
                f"error within the stream: {self._without_key(stream.failure)}"[:_REASON_KEPT],
            )
        elif http.error is not None:  # after the events: they came before the framing broke
            reply.outcome, reply.reason = "bad_stream", http.error
        elif not stream.done:
            kind = http.headers.get("content-type", "")
            if http.complete and not count.chunks and "event-stream" not in kind:
                reply.outcome, reply.reason = "bad_stream", f"no event stream but {kind[:80] or 'an answer without type'}"
            else:
                reply.outcome, reply.reason = "cut", _cut_reason(wire, output, osl)
        elif self.target.dialect.ignore_eos and output is not None and output < osl:
            reply.outcome, reply.reason = "short", f"{output} of {osl} tokens"
        elif output is not None and count.listed > output:  # or throughput would be too good
            reply.outcome = "bad_stream"
            reply.reason = f"its events list {count.listed} tokens and the server counts {output}: some came twice"
        elif not count.token_chunks and not output:
            reply.outcome, reply.reason = "short", f"[DONE] without any of {osl} tokens"
        reply.reason = None if reply.reason is None else self._without_key(reply.reason)

    def _without_key(self, said: str) -> str:
        """What a server says may repeat the key that it was sent, and the end of what it says may be cut off."""
        return said if self._key is None else self._key.sub("[redacted]", said)


def _pattern_of(key: str) -> re.Pattern[str] | None:
    """A key wherever it is repeated, also the beginning of a long one; none of a word that hides nothing, such as ``EMPTY``."""
    least, kept = 8, 12
    if len(key) < least:
        return None
    return re.compile(re.escape(key) if len(key) <= kept else rf"{re.escape(key[:kept])}[\x21\x23-\x26\x28-\x5b\x5d-\x7e]*")


def _cut_reason(wire: Wire, output: int | None, osl: int) -> str:
    how = "the stream ended without [DONE]" if wire.stream.http.complete else "the connection ended mid-stream"
    if wire.stream.http.status is None:
        how = "the connection ended before an answer"
    reset = f" ({wire.reset})" if wire.reset else ""
    return f"{how}{reset}, after {output if output is not None else 'an unknown number'} of {osl} tokens"[:_REASON_KEPT]


def _connect_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    what: Any = error.strerror or str(error) or type(error).__name__
    return f"cannot connect: {what}"[:_REASON_KEPT]
