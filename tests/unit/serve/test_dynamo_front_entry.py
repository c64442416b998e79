"""The exchange beside Dynamo's frontend: events pass, no port is opened, and another frontend takes it over."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from labkit.serve.engines import dynamo_front_entry
from labkit.serve.engines.dynamo_frontend import rendezvous
from tests.support.listeners import WATCHED, Watch
from tests.support.waiting import until

CODE = f"import runpy; runpy.run_path({dynamo_front_entry.__file__!r})['_exchange'](__import__('sys').argv[1])"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("m")  # a socket's name is short


@pytest.fixture
def ends(folder: Path) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A publisher and a subscriber, connected as Dynamo connects its own, before there is an exchange."""
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher, context.socket(zmq.SUB) as subscriber:
        publisher.linger = 0
        publisher.connect(f"ipc://{folder}/events-in")
        subscriber.subscribe(b"")
        subscriber.connect(f"ipc://{folder}/events-out")
        yield publisher, subscriber


def passes(ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes]], what: bytes) -> None:
    publisher, subscriber = ends

    def came() -> bool:
        publisher.send(what)
        return bool(subscriber.poll(20)) and subscriber.recv() == what

    until(came, f"an event through the exchange {what!r}")


def test_events_pass_no_port_is_open_and_the_next_frontend_takes_over(
    folder: Path, ends: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]
):
    url, word = rendezvous(folder)[dynamo_front_entry.BROKER], uuid.uuid4().hex

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", CODE, url], env={WATCHED: word})

    with Watch(word) as watch:
        first = start()
        second = None
        try:
            passes(ends, b"of the first")
            second = start()
            passes(ends, b"of the first, while the second waits")
            first.kill()
            first.wait()
            passes(ends, b"of the second")
            watch.check()
        finally:
            for process in (first, second):
                if process is not None:
                    process.kill()
                    process.wait()
