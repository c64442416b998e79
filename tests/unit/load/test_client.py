"""What the golden tests do not reach: https with kept connections, retokenised counts, names that do not resolve."""

from __future__ import annotations

import asyncio
import json

import pytest

from labkit.load.client import Client, Reply
from labkit.load.events import ChunkLog
from labkit.load.target import Requests, Target
from labkit.spec import Workload
from tests.support.certificate import make_certificate, server_context
from tests.support.oracle_server import OracleServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(certificate):
    with OracleServer(server_context(certificate)) as running:
        yield running


async def ask(target: Target, times: int = 1, count_text=None):
    log = ChunkLog()
    client = Client(target, log, count_text=count_text)
    requests = Requests(target, Workload(isl=9, osl=5, concurrency=1, requests=9))
    replies = []
    for index in range(times):
        body = requests.body("measure", index)
        replies.append(await client.request(requests.head(body, f"r{index}"), body, request=index, osl=5, timeout_s=10))
    client.close()
    return replies, log


def test_https_keeps_its_connections(secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    replies, log = asyncio.run(ask(Target(secure.url, "plain?ttft=1&itl=0", 4096, "k3y"), times=4))
    assert [reply.outcome for reply in replies] == ["ok"] * 4
    assert len(log.take()[0]["t_ns"]) == 20
    assert {truth.connection for truth in secure.log[-4:]} == {secure.log[-1].connection}
    assert secure.log[-1].authorization == "Bearer k3y"


def test_a_kept_connection_that_the_server_closed_is_replaced(secure, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    replies, _ = asyncio.run(ask(Target(secure.url, "close?ttft=1&itl=0", 4096), times=2))
    assert [reply.outcome for reply in replies] == ["ok"] * 2
    assert secure.log[-1].connection != secure.log[-2].connection


def test_untrusted_certificates_are_refused_by_name(secure):
    (reply,), _ = asyncio.run(ask(Target(secure.url, "plain", 4096)))
    assert reply.outcome == "refused"
    assert "certificate not trusted" in (reply.reason or "")


def test_counts_without_usage_come_from_the_text_and_say_so():
    with OracleServer() as server:
        target = Target(server.url, "nousage?ttft=1&itl=0", 4096)
        (reply,), _ = asyncio.run(ask(target, count_text=lambda text: len(text.split())))
        (plain,), _ = asyncio.run(ask(target))
    assert (reply.output_tokens, reply.tokens_from) == (5, "retokenised")
    assert (plain.output_tokens, plain.tokens_from, plain.outcome) == (None, None, "ok")


def test_a_name_that_does_not_resolve_is_refused():
    (reply,), _ = asyncio.run(ask(Target("http://no-such-host.invalid", "m", 4096)))
    assert (reply.outcome, reply.sent_ns) == ("refused", None)


def test_events_that_list_more_tokens_than_the_server_counts_are_a_broken_stream():
    """A network that repeats an event would make throughput too good."""

    def event(**more: object) -> bytes:
        return b"data: " + json.dumps({"id": "a", **more}).encode() + b"\n\n"

    token = event(choices=[{"text": "x", "token_ids": [7]}])
    usage = event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 5})

    async def answered(events: bytes) -> Reply:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + events + b"data: [DONE]\n\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            target = Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "m", 4096)
            (reply,), _ = await ask(target)
            return reply

    assert asyncio.run(answered(token * 5 + usage)).outcome == "ok"
    twice = asyncio.run(answered(token * 6 + usage))
    assert (twice.outcome, twice.output_tokens) == ("bad_stream", 5)
    assert twice.reason == "its events list 6 tokens and the server counts 5: some came twice"
