"""A hostile network between client and router: it cuts, stalls, trickles, garbles, answers twice, or in the router's place.

Of the requests that are sent after the blow two in five are hit. Each kind says how a hit one may end and what its record must
give as the reason; all others must be answered in full, with every token at its time.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from tests.faults import truth
from tests.faults.expectation import UNHARMED, Expectation, endings, statuses
from tests.faults.injection import Injection
from tests.faults.proxy import Exchange
from tests.faults.stage import Moment, Stage

_HIT_PART = 0.4
_TIMEOUT_S = 2.0
#: An event of an untouched stream reaches its record so soon; the median of all, as the machine may be busy.
_LATE_S = 0.25
_SAID = b'{"error": {"message": "the proxy is tired", "code": 503}}'


class Hit:
    """One request that is hit: gives every piece of its answer to ``act``, and keeps what that wants to know."""

    def __init__(self, exchange: Exchange, client: asyncio.StreamWriter, rng: random.Random) -> None:
        self.exchange, self.client, self.rng = exchange, client, rng
        self.event = rng.randrange(1, 4)  # which of its reads with an event in it is hurt
        self.seen = 0
        self.done = False
        client.transport.set_write_buffer_limits(0)

    async def write(self, data: bytes) -> None:
        """On its way before this returns."""
        self.client.write(data)
        await self.client.drain()

    def cut(self, how: str) -> None:
        """End both connections: ``FIN``, or ``RST``."""
        if how == "FIN":
            self.client.write_eof()
        else:
            sock: socket.socket = self.client.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError(f"cut by {how}")

    def due(self, data: bytes) -> bool:
        """Whether this is the read that is hurt: once, at ``event`` of those that have an event in them."""
        if b"data:" not in data:
            return False
        self.seen += 1
        if self.done or (self.seen < self.event and b"[DONE]" not in data):
            return False
        self.done = True
        return True


#: Does to a piece of an answer what its kind is about.
Act = Callable[[Hit, bytes], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Network(Injection):
    """One kind of hostility.

    Attributes:
        act: what is done to each piece of a hit answer, its head first.
        outcomes: how a hit request may end.
        reason: what its record must say then, where it did not end as ok.
        repeats: parts of an answer come more than once.
    """

    act: Act
    outcomes: frozenset[str]
    reason: str = ""
    repeats: bool = False
    moments: tuple[Moment, ...] = ("loading", "resplitting")
    engines: Any = ("stand-ins", "mocker")
    setting: dict[str, Any] = field(default_factory=lambda: {"proxy": "wanted"})

    def strike(self, stage: Stage, moment: Moment, rng: random.Random) -> None:
        assert stage.proxy is not None
        hits: dict[int, Hit] = {}

        async def hostile(exchange: Exchange, data: bytes, client: asyncio.StreamWriter) -> None:
            ours = re.fullmatch(r"labkit-[0-9a-f]{8}-\d+", exchange.request) is not None
            if ours and exchange.passed_bytes == 0 and exchange.number not in hits and rng.random() < _HIT_PART:
                hits[exchange.number] = Hit(exchange, client, rng)
                exchange.touched = self.name
            if exchange.number in hits:
                await self.act(hits[exchange.number], data)
            else:
                client.write(data)
                await client.drain()

        stage.strike()
        stage.proxy.pass_on = hostile

    def expects(self, stage: Stage, moment: Moment) -> Expectation:
        if self.outcomes == {"ok"}:
            return UNHARMED
        return Expectation(
            endings=endings("finished"), statuses=statuses("finished"), path_hit=True, repeats=self.repeats, end_s=100.0
        )

    def examine(self, stage: Stage) -> list[str]:
        assert stage.proxy is not None
        if stage.run is None:
            return []
        records = truth.recorded(stage.run)
        rows = {str(row["sent_id"]): row for row in records.rows}
        touched = {one.request: one for one in stage.proxy.exchanges if one.touched}
        if not touched:
            return ["no request was hit: this shows nothing"]
        found = []
        for name in touched.keys() & rows.keys():
            row = rows[name]
            outcome, reason = str(row["outcome"]), str(row["reason"])
            if outcome == "cancelled":
                continue
            if outcome not in self.outcomes:
                found.append(f"{name} was hit and is {outcome} ({reason}), not {' or '.join(sorted(self.outcomes))}")
            elif outcome != "ok" and not re.search(self.reason, reason):
                found.append(f"the reason of {name} is {reason!r}, which does not say {self.reason!r}")
        others = {n: row for n, row in rows.items() if n not in touched and row["outcome"] not in ("ok", "cancelled")}
        found += [f"{name} was not touched and is {row['outcome']}: {row['reason']}" for name, row in others.items()]
        found += _at_their_times(stage, rows, touched)
        return found if len(found) <= 6 else [*found[:5], f"… and {len(found) - 5} more of these"]


def _at_their_times(stage: Stage, rows: dict[str, dict[str, Any]], touched: dict[str, Exchange]) -> list[str]:
    """Whether untouched requests have their tokens when these came: never before, and soon after."""
    assert stage.proxy is not None
    assert stage.run is not None
    stamps: dict[int, list[int]] = defaultdict(list)
    for table in truth.tables(stage.run, "chunks"):
        for row in table.select(["request", "t_ns"]).to_pylist():
            stamps[row["request"]].append(row["t_ns"])
    found, late_s = [], list[float]()
    for one in stage.proxy.exchanges:
        row = rows.get(one.request)
        if row is None or one.request in touched or row["outcome"] != "ok":
            continue
        first = min(stamps[row["request"]]) - one.events_ns[0]
        last = max(stamps[row["request"]]) - one.events_ns[-1]
        if first < 0 or max(stamps[row["request"]]) > row["end_ns"]:
            found.append(f"{one.request} has its first token {-first / 1e6:.3f} ms before it was passed on")
        late_s += [first / 1e9, last / 1e9]
    if late_s and median(late_s) > _LATE_S:
        found.append(f"tokens of untouched requests are recorded {median(late_s):.2f} s after they were passed on")
    return found


# --- what is done ---


def _cut(where: str, how: str) -> Act:
    async def act(hit: Hit, data: bytes) -> None:
        if where == "head":
            hit.cut(how)
        if not (hit.due(data) if where != "done" else b"[DONE]" in data):
            await hit.write(data)
        elif where == "chunk":
            start = data.index(b"data:")
            await hit.write(data[: start + (len(data) - start) // 2 if b"[DONE]" not in data else start + 2])
            hit.cut(how)
        elif where == "event":
            await hit.write(data if b"[DONE]" not in data else _before_done(data))
            hit.cut(how)
        else:
            await hit.write(_before_done(data))
            hit.cut(how)

    return act


def _before_done(data: bytes) -> bytes:
    """All in front of the chunk that holds ``[DONE]``."""
    return data[: max(0, data.rfind(b"\r\n", 0, data.rfind(b"\r\n", 0, data.index(b"data: [DONE]"))) + 2)]


def _stall(seconds: float) -> Act:
    async def act(hit: Hit, data: bytes) -> None:
        if hit.due(data):
            await asyncio.sleep(seconds)
        await hit.write(data)

    return act


async def _trickle(hit: Hit, data: bytes) -> None:
    for number in range(len(data)):
        await hit.write(data[number : number + 1])


async def _no_http(hit: Hit, data: bytes) -> None:
    await hit.write(bytes(hit.rng.randrange(1, 256) for _ in range(200)).replace(b"HTTP", b"....") + b"\r\n\r\n")
    hit.cut("FIN")


def _edit(change: Callable[[bytes, Hit], bytes]) -> Act:
    """Another read in the place of the one that is hurt; all else as it is."""

    async def act(hit: Hit, data: bytes) -> None:
        await hit.write(change(data, hit) if hit.due(data) else data)

    return act


def _head(change: Callable[[bytes], bytes]) -> Act:
    """Another head."""

    async def act(hit: Hit, data: bytes) -> None:
        await hit.write(change(data) if hit.exchange.passed_bytes == 0 else data)

    return act


def _smaller_size(data: bytes, hit: Hit) -> bytes:
    return re.sub(rb"(?i)([0-9a-f]+)(\r\ndata:)", lambda found: b"%x" % (int(found[1], 16) - 3) + found[2], data, count=1)


def _no_size(data: bytes, hit: Hit) -> bytes:
    return re.sub(rb"(?i)([0-9a-f]+)(\r\ndata:)", rb"zz\2", data, count=1)


def _no_json(data: bytes, hit: Hit) -> bytes:
    return data.replace(b'"', b"{", 1) if b'"' in data else data.replace(b"[DONE]", b"[DONE?")


def _no_utf8(data: bytes, hit: Hit) -> bytes:
    found = re.search(rb'"text": ?"(..)', data)
    return data[: found.start(1)] + b"\xff\xfe" + data[found.end(1) :] if found else data.replace(b"[DONE]", b"[\xffONE]")


def _twice(data: bytes, hit: Hit) -> bytes:
    """The last whole chunk of the read again."""
    chunks: list[bytes] = re.findall(rb"(?is)[0-9a-f]+\r\ndata: \{.*?\n\n\r\n", data)
    if not chunks:
        return data
    at = data.rindex(chunks[-1]) + len(chunks[-1])
    return data[:at] + chunks[-1] + data[at:]


async def _second_answer(hit: Hit, data: bytes) -> None:
    ends = data.endswith(b"0\r\n\r\n")
    await hit.write(data + (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nsecond words" if ends else b""))


def _instead(status: str, headers: str, body: bytes) -> Act:
    """The proxy's own answer."""

    async def act(hit: Hit, data: bytes) -> None:
        await hit.write(f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        hit.cut("FIN")

    return act


async def _redirect(hit: Hit, data: bytes) -> None:
    port = hit.client.get_extra_info("sockname")[1]
    await _instead("307 Temporary Redirect", f"Location: http://127.0.0.1:{port}/up/1/v1/completions\r\n", b"")(hit, data)


def _header(name: bytes, value: bytes | None) -> Act:
    """One header with another value; ``None``: without it."""
    line = b"" if value is None else name + b": " + value + b"\r\n"
    return _head(lambda data: re.sub(rb"(?im)^" + name + rb":.*\r\n", lambda _: line, data))


_OK, _CUT, _BAD, _HTTP, _LATE = (frozenset({one}) for one in ("ok", "cut", "bad_stream", "http_error", "timeout"))
_SHORT_WAIT: dict[str, Any] = {"proxy": "wanted", "timeout_s": _TIMEOUT_S}
_PLACES = {
    "head": ("before the head", "ended before an answer"),
    "chunk": ("in the middle of a chunk", "ended mid-stream"),
    "event": ("between two events", "ended mid-stream"),
    "done": ("before [DONE]", r"ended mid-stream.*after (\d+) of \1 tokens"),
}
#: name → what, how it is done, outcomes, reason
_KINDS: dict[str, tuple[str, Act, frozenset[str], str]] = {
    "trickle": ("one byte at a time", _trickle, _OK, ""),
    "no-http": ("bytes that are no HTTP", _no_http, _BAD, "no HTTP"),
    "chunk-size": ("a chunk longer than its size", _edit(_smaller_size), _BAD, "chunk"),
    "no-chunk-size": ("a chunk whose size is no number", _edit(_no_size), _BAD, "no chunk size"),
    "json": ("an event that is no JSON", _edit(_no_json), _BAD, "unreadable event|ended without|chunk"),
    "utf8": ("an event that is no UTF-8", _edit(_no_utf8), _BAD, "unreadable event"),
    "two-answers": ("a second answer behind the first", _second_answer, _OK, ""),
    "status-500": (
        "500 with a body", _instead("500 Internal Server Error", "", b"the proxy fell over"), _HTTP, "HTTP 500.*fell over",
    ),
    "status-503": (
        "503 with JSON", _instead("503 Service Unavailable", "Content-Type: application/json\r\n", _SAID), _HTTP,
        "HTTP 503.*the proxy is tired",
    ),
    "redirect": ("a redirect", _redirect, _HTTP, "HTTP 307"),
    "length": ("a head that promises ten bytes", _head(
        lambda data: re.sub(rb"(?im)^transfer-encoding:.*\r\n", b"Content-Length: 10\r\n", data)
    ), _CUT, "without \\[DONE\\]"),
    "encoding": ("a head that promises gzip", _head(
        lambda data: data.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)
    ), _BAD, "content encoding"),
    "content-type": ("a head that says HTML", _header(b"content-type", b"text/html"), _OK, ""),
}  # fmt: skip

INJECTIONS: tuple[Injection, ...] = (
    *(
        Network(
            name=f"net-cut-{place}-{how.lower()}", what=f"the connection is cut by {how} {words}", act=_cut(place, how),
            outcomes=_CUT, reason=reason,
        )
        for place, (words, reason) in _PLACES.items()
        for how in ("FIN", "RST")
    ),
    Network(
        name="net-stall", what="an answer stands still longer than the request's timeout", act=_stall(2.5 * _TIMEOUT_S),
        outcomes=_LATE, reason=f"no end within {_TIMEOUT_S:g} s", setting=_SHORT_WAIT,
    ),
    Network(name="net-stall-short", what="an answer stands still for 0.7 s", act=_stall(0.7), outcomes=_OK),
    Network(
        name="net-event-twice", what="an event comes twice", act=_edit(_twice), outcomes=_OK | _BAD, reason="came twice",
        repeats=True,
    ),
    *(
        Network(name=f"net-{name}", what=words, act=act, outcomes=outcomes, reason=reason)
        for name, (words, act, outcomes, reason) in _KINDS.items()
    ),
)  # fmt: skip
