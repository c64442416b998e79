"""The real client against servers that mean harm, over real sockets: each request ends as a record with its reason, within its
time, and the client's memory does not follow what the server sends."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pytest

from tests.support.measured import Bench

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TOKEN = b'data: {"id":"x","choices":[{"text":"a"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(TOKEN), TOKEN)
MANY = 1 << 18
LIMIT_S = 0.6

Send = Callable[[socket.socket, threading.Event], None]


def drip(first: bytes, data: bytes) -> Send:
    """A byte at a time, for longer than the client's patience."""

    def send(peer: socket.socket, end: threading.Event) -> None:
        peer.sendall(first)
        for at in range(len(data)):
            peer.sendall(data[at : at + 1])
            if end.wait(LIMIT_S / 20):
                return
        end.wait()

    return send


def flood(first: bytes, then: bytes) -> Send:
    """The same without end, as fast as it is taken."""

    def send(peer: socket.socket, _: threading.Event) -> None:
        peer.sendall(first)
        for data in repeat(then):
            peer.sendall(data)

    return send


def reset(data: bytes) -> Send:
    """These bytes, and then an RST instead of an orderly end."""

    def send(peer: socket.socket, _: threading.Event) -> None:
        peer.sendall(data)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return send


#: behaviour → (what the server does, outcome, words of the reason)
HARM: dict[str, tuple[Send, str, str]] = {
    "drips-head": (drip(b"", HEAD * 9), "timeout", "no end within 0.6 s"),
    "drips-body": (drip(HEAD, CHUNK * 9), "timeout", "no end within 0.6 s"),
    "endless-header": (flood(b"HTTP/1.1 200 OK\r\nX: ", b"y" * MANY), "bad_stream", "a line of more than 16 KiB"),
    "endless-headers": (flood(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 9000), "bad_stream", "headers of more than 64 KiB"),
    "endless-continue": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 9000), "bad_stream", "headers of more than 64 KiB"),
    "endless-chunk": (flood(HEAD + b"ffffffffffff\r\n", b"x" * MANY), "bad_stream", "an event of more than 4 MiB"),
    "endless-size": (flood(HEAD, b"f" * MANY), "bad_stream", "a line of more than 16 KiB"),
    "endless-trailer": (flood(HEAD + b"0\r\n", b"T: x\r\n" * 9000), "bad_stream", "headers of more than 64 KiB"),
    "endless-comments": (flood(HEAD + b"ffffffffffff\r\n", b": x\n" * (MANY // 4)), "timeout", "no end within 0.6 s"),
    "endless-error": (flood(b"HTTP/1.1 500 No\r\n\r\n", b"x" * MANY), "timeout", "no end within 0.6 s"),
    "endless-done": (flood(HEAD + CHUNK + b"e\r\ndata: [DONE]\n\n\r\n", b"e\r\ndata: [DONE]\n\n\r\n" * 9000), "short", "1 of 12"),
    "endless-json": (flood(HEAD + b"ffffffffffff\r\ndata: ", b"[" * MANY), "bad_stream", "an event of more than 4 MiB"),
    "closes": (lambda peer, end: None, "cut", "the connection ended before an answer"),
    "resets": (reset(HEAD + CHUNK), "cut", "the connection ended mid-stream (ConnectionResetError"),
    "resets-head": (reset(HEAD[:10]), "cut", "the connection ended before an answer (ConnectionResetError"),
    "binary": (flood(b"", bytes(range(256)) * 64), "bad_stream", "no HTTP status line"),
}


class HostileServer:
    """Accepts on 127.0.0.1 and does to every client what ``send`` says, once it has read the request's head."""

    def __init__(self, send: Send) -> None:
        self._send, self._end = send, threading.Event()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> HostileServer:
        self._threads.append(threading.Thread(target=self._accept))
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(peer,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            peer.settimeout(20)
            read = b""
            while b'"ignore_eos":true}' not in read:
                read += peer.recv(65536)
            self._send(peer, self._end)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Bench]:
    running = Bench(tmp_path_factory.mktemp("hostile"))
    running.memory_at_start = peak_memory(running)
    yield running
    running.agent.close()


def peak_memory(bench: Bench) -> int:
    """Most bytes that the shard's process ever held."""
    status = Path(f"/proc/{bench.agent.pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


@pytest.mark.parametrize("name", HARM)
def test_harm_becomes_a_record_with_its_reason(bench, name):
    send, outcome, reason = HARM[name]
    with HostileServer(send) as server:
        result, rows = bench.measure(
            server.url, name, concurrency=2, requests=2, timeout_s=LIMIT_S if outcome == "timeout" else 30.0
        )
    assert result.counts == {outcome: 2}
    for row, _ in rows:
        assert reason in row["reason"], row
        assert len(row["reason"]) <= 300
        assert row["scheduled_ns"] <= row["sent_ns"] <= row["end_ns"] <= result.end_ns
    assert peak_memory(bench) - bench.memory_at_start < 64 << 20


def test_a_shard_that_met_them_all_still_measures(bench):
    """After hostile answers the next measurement is as it should be, in the same process."""

    def answer(peer: socket.socket, _: threading.Event) -> None:
        peer.sendall(HEAD + CHUNK + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    with HostileServer(answer) as server:
        result, rows = bench.measure(server.url, "fair", concurrency=2, requests=4, osl=1)
    assert result.counts == {"ok": 4}
    assert [[chunk["tokens"] for chunk in chunks] for _, chunks in rows] == [[1]] * 4
