"""What watches the end-to-end tests sees every socket that others reach, and no other."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.known_listeners import KNOWN
from tests.support.listeners import WATCHED, Known, Watch, listeners

ROOT = Path(__file__).parents[2]
HOLD = "import socket, sys; s = {}; print(flush=True); sys.stdin.read()"


@contextmanager
def held(word: str, code: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", HOLD.format(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={WATCHED: word}
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == b"\n"
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


@pytest.fixture
def word() -> str:
    return uuid.uuid4().hex


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_server(('', 0))",
        "socket.create_server(('::', 0), family=socket.AF_INET6)",
        "socket.create_server(('::', 0), family=socket.AF_INET6, dualstack_ipv6=True)",
        "socket.socket(type=socket.SOCK_DGRAM); s.bind(('0.0.0.0', 0))",
    ],
)
def test_a_socket_on_all_addresses_is_found_by_the_thread_alone(word: str, code: str):
    with Watch(word, every_s=0.02) as watch, held(word, code) as process:
        from tests.support.waiting import until

        until(lambda: watch.exposed, "the find")
        with pytest.raises(AssertionError, match=f"process {process.pid} .* listens on (0.0.0.0|::) port"):
            watch.check()
        watch.check()  # told once


@pytest.mark.parametrize(
    "code",
    [
        "socket.create_server(('127.0.0.1', 0))",
        "socket.create_server(('127.0.0.7', 0))",
        "socket.create_server(('::1', 0), family=socket.AF_INET6)",
        "socket.socket(); s.bind(('0.0.0.0', 0))",  # bound, and not listening
        "socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1', 0))",
        "socket.socket(socket.AF_UNIX); s.bind('\\0' + __import__('uuid').uuid4().hex); s.listen()",
    ],
)
def test_a_socket_that_only_this_machine_reaches_is_none(word: str, code: str):
    with Watch(word) as watch, held(word, code):
        watch.check()


def test_others_are_not_watched(word: str):
    with Watch(word) as watch, held("another", "socket.create_server(('', 0))"):
        watch.check()


def test_what_is_known_is_tolerated_and_counted(word: str):
    known = Known(re.compile("create_server"), "a test", "it is one")
    with Watch(word, [known]) as watch, held(word, "socket.create_server(('', 0))") as process:
        watch.check()
        assert watch.tolerated["a test"].pid == process.pid


def test_own_listeners_are_told_with_their_address(word: str):
    with socket.create_server(("127.0.0.1", 0)) as server, Watch(word) as watch:
        mine = [one for one in watch.own() if one.port == server.getsockname()[1]]
        assert [(one.protocol, one.address, one.local) for one in mine] == [("tcp", "127.0.0.1", True)]
        assert mine[0] in listeners()


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.who)
def test_every_exception_stands_in_the_documentation_with_its_reason(known: Known):
    text = " ".join((ROOT / "docs" / "security.md").read_text().split())
    assert known.who in text
    assert " ".join(known.reason.split()) in text
