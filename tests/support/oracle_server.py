"""A streaming server that knows the truth: it emits known tokens at known times and logs what it really did.

Written apart from labkit and importing nothing of it, so that no mistake can cancel itself out. The model name selects the
behaviour (``BEHAVIOURS``), with options behind a question mark: ``plain?ttft=30&itl=5`` (milliseconds), ``text=0``
(tokens without text), ``most=200`` (longer prompts are refused, in token ids or messages), ``nagle=1`` (no TCP_NODELAY).
Completions and chat.
Runs inside a test (``OracleServer`` starts a thread with a loop of its own) or as a process:
``python tests/support/oracle_server.py --port 0`` prints its port, and writes its log as JSON lines to ``--log FILE`` at exit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import signal
import socket
import ssl
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl

BEHAVIOURS = (
    "plain",  # one token a chunk, usage in every chunk
    "onechunk",  # the whole answer in one chunk
    "bundled",  # k=4 tokens a chunk
    "emptyfirst",  # a first chunk without a token
    "reasoning",  # chat: reasoning_content for the first half
    "notext",  # tokens whose text is empty
    "nousage",  # no usage at all, whatever was asked
    "lastusage",  # usage with the last choice only
    "tokenids",  # no usage in the chunks, token ids instead when asked
    "length",  # content-length instead of chunked
    "close",  # neither: the body ends with the connection
    "bytes",  # every byte a write of its own
    "crlf",  # events with CRLF, comments and an id line between them
    "cut",  # connection ends in the middle
    "barelydone",  # [DONE] without the empty line behind it
    "nodone",  # ends cleanly without [DONE]
    "short",  # two tokens fewer than asked
    "hang",  # headers, then nothing
    "silent",  # nothing at all
    "garbage",  # bytes that are no HTTP
    "badjson",  # an event that is no JSON
    "badutf8",  # an event with invalid UTF-8
    "inerror",  # an error object within the stream
    "json",  # 200 with an ordinary JSON answer
    "strict",  # refuses fields that OpenAI does not know
    "never_done_close",  # [DONE], but the connection stays open without the last chunk
    "http400",
    "http500",
    "http503",
)
VLLM_ONLY = ("ignore_eos", "return_token_ids")


@dataclass
class Truth:
    """What really happened to one request. Instants are CLOCK_MONOTONIC ns, taken just before each write."""

    model: str
    path: str
    request_id: str | None
    connection: int
    received_ns: int
    prompt_tokens: int | None
    asked: int
    body_sha: str
    fields: list[str]
    authorization: str | None
    prompt: list = field(default_factory=list, repr=False)  # token ids or messages
    answer: list[int] = field(default_factory=list, repr=False)  # token ids, where they were asked for
    writes: list[tuple[int, int]] = field(default_factory=list)  # (instant, tokens)
    ended_ns: int | None = None


class Connection:
    """One accepted connection: reads requests, lets the behaviour answer."""

    def __init__(self, oracle: Oracle, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.oracle, self.reader, self.writer, self.number = oracle, reader, writer, number

    async def serve(self) -> None:
        try:
            while await self._one():
                pass
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            self.writer.close()

    async def _one(self) -> bool:
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        path = lines[0].split(" ")[1]
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        now = time.perf_counter_ns()
        asked = json.loads(body) if body else {}
        model, _, query = str(asked.get("model", "")).partition("?")
        prompt = asked.get("prompt")
        truth = Truth(
            model=model,
            path=path,
            request_id=headers.get("x-request-id"),
            connection=self.number,
            received_ns=now,
            prompt_tokens=len(prompt) if isinstance(prompt, list) else None,
            asked=asked.get("max_tokens") or asked.get("max_completion_tokens") or 0,
            body_sha=hashlib.sha256(body).hexdigest(),
            fields=sorted(asked),
            authorization=headers.get("authorization"),
            prompt=prompt if isinstance(prompt, list) else asked.get("messages", []),
        )
        self.oracle.log.append(truth)
        options = {k: float(v) for k, v in parse_qsl(query)}
        at_once = 0 if options.get("nagle") else 1
        self.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, at_once)
        keep = await self._answer(truth, asked, options)
        truth.ended_ns = time.perf_counter_ns()
        return keep and headers.get("connection", "").lower() != "close"

    async def _answer(self, truth: Truth, asked: dict, options: dict[str, float]) -> bool:
        model = truth.model
        if model == "silent":
            await asyncio.sleep(3600)
        if model == "garbage":
            self._raw(b"\x00\xff\x17 this is not HTTP at all\r\n\r\n")
            return False
        if model.startswith("http"):
            return self._plain(int(model[4:]), {"error": {"message": f"told to answer {model[4:]}"}})
        if model not in BEHAVIOURS:
            return self._plain(404, {"error": {"message": f"no model {model}"}})
        refused = [name for name in VLLM_ONLY if name in asked]
        refused += ["continuous_usage_stats"] * ("continuous_usage_stats" in asked.get("stream_options", {}))
        if model == "strict" and refused:
            return self._plain(400, {"error": {"message": f"Unrecognized request argument supplied: {refused[0]}"}})
        if model == "json":
            return self._plain(200, {"choices": [{"text": "hello"}]})
        if len(truth.prompt) > options.get("most", math.inf):
            return self._plain(400, {"error": {"message": f"a prompt of {len(truth.prompt)} is too long"}})
        return await self._stream(truth, asked, options)

    async def _stream(self, truth: Truth, asked: dict, options: dict[str, float]) -> bool:
        model, chat = truth.model, truth.path.endswith("/chat/completions")
        ttft_s, itl_s = options.get("ttft", 20.0) / 1e3, options.get("itl", 5.0) / 1e3
        framing = "length" if model == "length" else "close" if model == "close" else "chunked"
        total = truth.asked - 2 if model == "short" else truth.asked
        per_chunk = total if model == "onechunk" else 4 if model == "bundled" else 1
        stream = asked.get("stream_options") or {}
        continuous = stream.get("continuous_usage_stats", False) and model not in ("nousage", "lastusage", "tokenids")
        with_usage = stream.get("include_usage", False) and model not in ("nousage", "lastusage")
        reply_id = f"{'chatcmpl' if chat else 'cmpl'}-{truth.request_id}-0"
        prompt_tokens = truth.prompt_tokens if truth.prompt_tokens is not None else 7

        def event(kind: str, text: str, tokens: list[int], sent: int, last: bool) -> bytes:
            choice: dict = {"index": 0, "finish_reason": "length" if last else None}
            if chat:
                choice["delta"] = {"role": "assistant", kind: text} if sent == 0 else {kind: text}
            else:
                choice["text"] = text
            if asked.get("return_token_ids") and model == "tokenids":
                choice["token_ids"] = tokens
            message: dict = {"id": reply_id, "object": "chunk", "created": 1, "model": model, "choices": [choice]}
            if continuous or (model == "lastusage" and last):
                message["usage"] = {
                    "prompt_tokens": prompt_tokens,
                    "total_tokens": prompt_tokens + sent,
                    "completion_tokens": sent,
                }
            return self._event(json.dumps(message, ensure_ascii=False))

        parts: list[bytes] = []
        if framing != "length":
            self._raw(self._head(framing))
        if model == "hang":
            await asyncio.sleep(3600)

        def emit(payload: bytes, tokens: int) -> None:
            if framing == "length":
                parts.append(payload)
                return
            data = b"%x\r\n%s\r\n" % (len(payload), payload) if framing == "chunked" else payload
            truth.writes.append((time.perf_counter_ns(), tokens))
            if model == "bytes":
                for at in range(len(data)):
                    self._raw(data[at : at + 1])
            else:
                self._raw(data)

        start = time.perf_counter()
        sent = 0
        if model == "emptyfirst":
            emit(event("content", "", [], 0, last=False), 0)
        due = start + ttft_s
        while sent < total:
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            count = min(per_chunk, total - sent)
            sent += count
            if model == "badjson" and sent > total // 2:
                emit(b'data: {"id": "x", "choices": [\n\n', 0)
                return False
            if model == "badutf8" and sent > total // 2:
                emit(b'data: {"id": "x", "choices": [{"text": "\xff\xfe"}]}\n\n', 0)
                return False
            if model == "inerror" and sent > total // 2:
                emit(self._event(json.dumps({"error": {"message": "engine died", "code": 500}})), 0)
                emit(b"data: [DONE]\n\n", 0)
                break
            text = "" if model == "notext" or options.get("text") == 0 else "wörd " * count
            kind = "reasoning_content" if model == "reasoning" and sent <= total // 2 else "content"
            tokens = [1000 + int(truth.body_sha[:2], 16) + at for at in range(sent - count, sent)]
            truth.answer += tokens if model == "tokenids" else []
            emit(event(kind, text, tokens, sent, last=sent == total), count)
            if model == "cut" and sent >= total // 2:
                await self.writer.drain()
                return False
            due += itl_s
        if with_usage:
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": sent, "total_tokens": prompt_tokens + sent}
            emit(self._event(json.dumps({"id": reply_id, "choices": [], "usage": usage})), 0)
        if model == "barelydone":
            emit(b"data: [DONE]", 0)
        elif model not in ("nodone", "inerror"):
            emit(self._event("[DONE]"), 0)
        if framing == "length":
            payload = b"".join(parts)
            truth.writes.append((time.perf_counter_ns(), sent))
            self._raw(self._head(f"Content-Length: {len(payload)}") + payload)
        elif framing == "chunked" and model != "never_done_close":
            self._raw(b"0\r\n\r\n")
        if model == "never_done_close":
            await asyncio.sleep(3600)
        await self.writer.drain()
        return framing != "close"

    def _event(self, payload: str) -> bytes:
        if self.oracle.log[-1].model == "crlf":
            return f": a comment\r\nid: 1\r\ndata:{payload}\r\n\r\n".encode()
        return f"data: {payload}\n\n".encode()

    def _head(self, framing: str) -> bytes:
        extra = {"chunked": "Transfer-Encoding: chunked\r\n", "close": ""}.get(framing, framing + "\r\n")
        return f"HTTP/1.1 200 OK\r\nServer: oracle\r\nContent-Type: text/event-stream\r\n{extra}\r\n".encode()

    def _plain(self, status: int, answer: dict) -> bool:
        body = json.dumps(answer).encode()
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._raw(head.encode() + body)
        return True

    def _raw(self, data: bytes) -> None:
        if self.writer.is_closing():
            raise ConnectionResetError
        self.writer.write(data)


class Oracle:
    """The server within a running loop."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.log: list[Truth] = []
        self.connections = 0
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port, backlog=4096, ssl=self._tls)
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await Connection(self, reader, writer, self.connections).serve()
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)


class OracleServer:
    """The server in a thread of its own, as a context manager; ``url``, ``log``."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._oracle = Oracle(tls)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._scheme = "https" if tls else "http"

    @property
    def log(self) -> list[Truth]:
        return self._oracle.log

    @property
    def connections(self) -> int:
        return self._oracle.connections

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.port = await self._oracle.start()
        self._ready.set()
        await self._end.wait()
        await self._oracle.stop()

    def __enter__(self) -> OracleServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)


async def _serve_forever(port: int, log: Path | None) -> None:
    oracle = Oracle()
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    print(await oracle.start(port), flush=True)
    await end.wait()
    await oracle.stop()
    if log is not None:
        log.write_text("".join(json.dumps(asdict(truth)) + "\n" for truth in oracle.log))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    runner = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        runner = uvloop.run
    runner(_serve_forever(arguments.port, arguments.log))
