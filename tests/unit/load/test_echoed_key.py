"""A server that repeats the key that it was sent: nothing that is recorded repeats it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from labkit.load.client import Client, Reply
from labkit.load.events import ChunkLog
from labkit.load.target import Requests, Target
from labkit.spec import Workload
from tests.support.pages import served

KEY = "c4n4ry-" + "0123456789abcdef" * 4


@contextmanager
def echo(how: str) -> Iterator[str]:
    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            said = self.headers["Authorization"]
            self.send_response(401 if how in ("body", "cut") else 200)
            kind = said if how == "kind" else "text/event-stream"
            self.send_header("Content-Type", kind)
            self.end_headers()
            event = {"id": said, "choices": [{"index": 0, "text": "x"}]} if how == "id" else {"error": {"message": f"bad {said}"}}
            texts = {
                "body": f"Incorrect key: {said}", "cut": "x" * 260 + said, "broken": f"data: {{{said}\n\n", "kind": "",
            }  # fmt: skip
            self.wfile.write(texts.get(how, f"data: {json.dumps(event)}\n\n").encode())

        def log_message(self, *_: object) -> None: ...

    with served(Echo) as url:
        yield url


async def ask(target: Target) -> Reply:
    client = Client(target, ChunkLog())
    requests = Requests(target, Workload(isl=9, osl=5, concurrency=1, requests=9))
    body = requests.body("measure", 0)
    try:
        return await client.request(requests.head(body, "r0"), body, request=0, osl=5, timeout_s=10)
    finally:
        client.close()


@pytest.mark.parametrize("how", ["body", "cut", "stream", "broken", "kind", "id"])
def test_no_reply_repeats_the_key(how: str):
    with echo(how) as url:
        reply = asyncio.run(ask(Target(url, "m", 4096, KEY)))
    assert reply.outcome != "ok"
    assert "c4n4ry" not in repr(reply)
    assert "[redacted]" in repr(reply)


def test_a_word_that_hides_nothing_stays():
    with echo("body") as url:
        reply = asyncio.run(ask(Target(url, "m", 4096, "EMPTY")))
    assert reply.reason == "HTTP 401: Incorrect key: Bearer EMPTY"
