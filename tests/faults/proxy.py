"""Between client and router: passes everything on, and keeps a log of every request that shares nothing with the lab.

A client asks ``http://127.0.0.1:PORT/up/ROUTER_PORT/v1/…``; the router gets ``/v1/…``. ``pass_on`` is the seam: what a hostile
network does to an answer is another ``PassOn``, set as ``Proxy.pass_on`` while the scene runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.fake_worker import Truth

_HEAD_BYTES = 65536


@dataclass(slots=True)
class Exchange:
    """One request on its way.

    Attributes:
        request: its ``X-Request-Id``.
        asked: ``max_tokens``.
        number: of the proxy's requests, from 0.
        passed_bytes: of the answer so far.
        status: of the answer.
        tokens: that the answer said it has, or else events with a choice in them that were passed on.
        finished: the answer was passed on to its end.
        touched: how it was hurt; empty where it was passed on as it came.
        events_ns: when each read that has an event in it was about to be passed on.
    """

    request: str
    asked: int
    number: int
    passed_bytes: int = 0
    status: int = 0
    tokens: int = 0
    finished: bool = False
    touched: str = ""
    events_ns: list[int] = field(default_factory=list)
    rest: bytes = field(default=b"", repr=False)


#: Takes what the router sent of an answer, and gives it to the client, or does not. A ConnectionError cuts both connections.
PassOn = Callable[[Exchange, bytes, asyncio.StreamWriter], Awaitable[None]]


async def unchanged(_exchange: Exchange, data: bytes, client: asyncio.StreamWriter) -> None:
    """The network as it should be."""
    client.write(data)
    await client.drain()


class Proxy:
    """Runs on a thread of its own until ``close``.

    Args:
        truth: folder of its log, ``proxy-PID.jsonl``, in the words of ``fake_worker.Truth``.

    Attributes:
        pass_on: see above.
        exchanges: every request so far.
    """

    def __init__(self, truth: Path) -> None:
        self.pass_on: PassOn = unchanged
        self.exchanges: list[Exchange] = []
        self._truth = Truth(str(truth), "proxy")
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        self._up.wait(10)

    @property
    def url(self) -> str:
        """Base URL, without the router's part."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Cut every connection and end."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20))
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                self._loop.run_until_complete(task)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection can carry another."""
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(head))
        found = re.match(rb"(\S+) /up/(\d+)(/\S*)", head)
        if found is None:
            return False
        name = re.search(rb"(?im)^x-request-id:\s*(\S+)", head)
        asked = re.search(rb'"max_(?:completion_)?tokens":\s*(\d+)', body)
        exchange = Exchange(name[1].decode() if name else "", int(asked[1]) if asked else 0, len(self.exchanges))
        self.exchanges.append(exchange)
        self._truth.say(exchange.request, "received", stream=b'"stream":true' in body.replace(b" ", b""), asked=exchange.asked)
        upstream: asyncio.StreamWriter | None = None
        try:
            back, upstream = await asyncio.open_connection("127.0.0.1", int(found[2]), limit=2**20)
            plain = re.sub(rb"(?im)^connection:.*\r\n", b"", head[found.end() :])
            upstream.write(found[1] + b" " + found[3] + plain.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + body)
            await upstream.drain()
            await self._answer(exchange, back, writer)
            if exchange.finished:
                self._truth.say(exchange.request, "done", status=exchange.status, tokens=exchange.tokens)
            else:
                self._truth.say(exchange.request, "cut", why="the router hung up", tokens=exchange.tokens)
            return exchange.finished
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError) as error:
            self._truth.say(exchange.request, "cut", why=str(error) or type(error).__name__, tokens=exchange.tokens)
            raise
        finally:
            if upstream is not None:
                upstream.transport.abort()

    async def _answer(self, exchange: Exchange, back: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Pass an answer on as it comes, and read along; it ends where its framing says so, or with its connection."""
        head = await back.readuntil(b"\r\n\r\n")
        exchange.status = int(head.split(maxsplit=2)[1])
        await self._pass(exchange, re.sub(rb"(?im)^connection:.*\r\n", b"", head), client)
        chunked = re.search(rb"(?im)^transfer-encoding:\s*chunked", head) is not None
        left = 0 if chunked else _length(head)
        while not exchange.finished:
            if not chunked:
                exchange.finished = left <= 0
                if exchange.finished:
                    break
            data = await back.read(65536)
            if not data:
                return
            left -= len(data)
            exchange.rest += data
            if chunked:
                exchange.finished = exchange.rest.endswith(b"0\r\n\r\n")
                self._count_tokens(exchange)  # before it is passed on: what a client has, a server wrote
            await self._pass(exchange, data, client)

    async def _pass(self, exchange: Exchange, data: bytes, client: asyncio.StreamWriter) -> None:
        if b"data:" in data:
            exchange.events_ns.append(time.monotonic_ns())
        await self.pass_on(exchange, data, client)
        exchange.passed_bytes += len(data)

    def _count_tokens(self, exchange: Exchange) -> None:
        *events, exchange.rest = exchange.rest.split(b"\n\n")
        before = exchange.tokens
        for event in events:
            if told := re.search(rb'"completion_tokens":\s*(\d+)', event):
                exchange.tokens = int(told[1])
            elif re.search(rb'"choices":\s*\[\s*\{', event):
                exchange.tokens += 1
        if exchange.tokens != before:  # at once: an answer that stands still is not cut before its router hangs up
            self._truth.say(exchange.request, "token", tokens=exchange.tokens)


def _length(head: bytes) -> int:
    found = re.search(rb"(?im)^content-length:\s*(\d+)", head)
    return int(found[1]) if found else 0
