"""A server without TCP_NODELAY: its first token waits for the client to acknowledge the head, 40 ms where the kernel delays that.

The server's log says when each token was written; how much later the client saw it is what the transport did.
"""

from __future__ import annotations

import asyncio
import statistics

import pytest

from labkit.load import tls
from labkit.load.client import Client
from labkit.load.events import ChunkLog
from labkit.load.target import Requests, Target
from labkit.load.transport import check_transport
from labkit.measure.transport import LATE_S, Transport
from labkit.spec import Workload
from tests.support.certificate import make_certificate, server_context
from tests.support.oracle_server import OracleServer

DELAYED_S = 0.03  # the kernel's timer is 40 ms, from the head on, and the token is written 2 ms after it
REQUESTS = 6


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    certificate = make_certificate(tmp_path_factory.mktemp("tls"))
    with pytest.MonkeyPatch.context() as patch, OracleServer(server_context(certificate)) as running:
        patch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        yield running


def late_s(server: OracleServer, model: str, isl: int = 9, *, writes_at_once: bool = False) -> list[float]:
    """How long after its write each request's first token was seen, or its last, whichever is worse."""

    async def ask() -> list[list[int]]:
        log = ChunkLog()
        target = Target(server.url, model, 4096, writes_at_once=writes_at_once)
        client, requests = Client(target, log), Requests(target, Workload(isl=isl, osl=5, concurrency=1, requests=REQUESTS))
        seen = []
        for index in range(REQUESTS):
            body = requests.body("measure", index)
            reply = await client.request(requests.head(body, f"r{index}"), body, request=index, osl=5, timeout_s=10)
            assert reply.outcome == "ok", reply.reason
            seen.append([int(t_ns) for t_ns in log.take()[0]["t_ns"]])
        client.close()
        return seen

    before = len(server.log)
    seen = asyncio.run(ask())
    written = [(truth.writes[0][0], truth.writes[-1][0]) for truth in server.log[before:]]
    return [max(at[0] - first, at[-1] - last) / 1e9 for at, (first, last) in zip(seen, written, strict=True)]


@pytest.mark.parametrize("isl", [9, 50_000], ids=["short prompts", "prompts of many segments"])
def test_https_acknowledges_at_once_and_sees_tokens_when_they_are_written(secure, isl, monkeypatch):
    ours = late_s(secure, "plain?ttft=2&itl=1&nagle=1", isl)
    monkeypatch.setattr(tls, "_QUICKACK", None)
    without = late_s(secure, "plain?ttft=2&itl=1&nagle=1", isl)
    assert statistics.median(without) > DELAYED_S, "the server is one that waits, on fresh and on kept connections alike"
    assert statistics.median(ours) < DELAYED_S / 2


def test_a_server_that_waits_for_acknowledgements_is_told_from_one_that_does_not(secure):
    with OracleServer() as plain:
        for server in (plain, secure):
            waits, quick = (
                check_transport(Target(server.url, f"plain?ttft=2&itl=1{option}", 4096), "completions")
                for option in ("&nagle=1", "")
            )
            assert waits is not None
            assert quick is not None
            assert waits.kept_late_s is not None
            assert waits.kept_late_s > LATE_S
            assert waits.late_s is not None
            assert waits.late_s < LATE_S, "labkit's own way is not delayed"
            assert waits.mark is not None
            assert waits.mark.severity == "note"
            assert not waits.writes_at_once
            assert quick.writes_at_once
            assert quick.kept_late_s is not None
            assert quick.kept_late_s < LATE_S
            assert quick.mark is None


def test_late_acknowledgements_delay_only_servers_that_wait_for_them():
    """So they are left to servers that were seen not to: a delay would pass for the server's."""
    with OracleServer() as plain:
        waits, quick = (late_s(plain, f"plain?ttft=2&itl=20{option}", writes_at_once=True) for option in ("&nagle=1", ""))
    assert statistics.median(waits) > DELAYED_S
    assert statistics.median(quick) < DELAYED_S / 2


def test_connections_that_rest_while_others_are_asked_are_delayed_all_the_same():
    """A connection that has rested for 40 ms acknowledges at once: the look at it must not let it rest."""
    with OracleServer() as plain:
        found = check_transport(Target(plain.url, "plain?ttft=4&itl=30&nagle=1", 4096), "completions")
    assert found is not None
    assert found.kept_late_s is not None
    assert found.kept_late_s > LATE_S


def test_delay_of_the_second_token_counts_where_the_first_comes_with_the_head(secure):
    """So it is with a server that has its first token before it has sent anything."""
    with OracleServer() as plain:
        found = check_transport(Target(plain.url, "plain?ttft=0&itl=2&nagle=1", 4096), "completions")
    assert found is not None
    assert found.kept_late_s is not None
    assert found.kept_late_s > LATE_S


@pytest.mark.parametrize("model", ["close", "http503", "json", "garbage"])
def test_a_server_that_keeps_nothing_or_answers_nothing_leaves_it_open(model):
    with OracleServer() as server:
        found = check_transport(Target(server.url, f"{model}?ttft=1&itl=0", 4096), "completions", timeout_s=5.0)
    assert found is None if model != "close" else isinstance(found, Transport) and found.kept_late_s is None
