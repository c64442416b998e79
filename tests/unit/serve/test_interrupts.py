"""Ctrl-C between the start of something and the statement that keeps it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from labkit.errors import LaunchError
from labkit.lab.load_agent import LoadAgent
from labkit.lab.telemetry_agent import TelemetryAgent
from labkit.serve.engines.base import Command
from labkit.serve.fork_server import ForkServer
from labkit.serve.interrupts import Held, held_back
from tests.support.waiting import until


def interrupt() -> None:
    """As a terminal, or a notebook's stop button, does it."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    left = signal.signal(signal.SIGINT, before)
    assert left is signal.default_int_handler, "as it was"


def test_a_block_goes_on_to_its_end_and_the_interrupt_comes_behind_it():
    done = []

    def block() -> None:
        with held_back() as held:
            interrupt()
            until(lambda: held.came, "the interrupt")
            done.append("begun")
            with held_back() as inner:
                interrupt()
                until(lambda: inner.came, "the second")
            done.append("noted")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["begun", "noted"]


def test_without_an_interrupt_nothing_is_raised_and_errors_go_through():
    with held_back() as held:
        held.check()
    with pytest.raises(LaunchError), held_back():
        raise LaunchError("no", remedy="none")


def ask_on_another_thread(held: Held) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(held.check).result()


def fail(_: Held) -> None:
    raise LaunchError("what was being started failed for it", remedy="none")


@pytest.mark.parametrize("end", [ask_on_another_thread, fail])
def test_a_wait_inside_may_ask_and_an_error_does_not_hide_the_interrupt(end: Callable[[Held], None]):
    def block() -> None:
        with held_back() as held:
            interrupt()
            until(lambda: held.came, "the interrupt")
            end(held)

    with pytest.raises(KeyboardInterrupt):
        block()


@pytest.mark.parametrize("ignored", [True, False])
def test_where_no_interrupt_is_raised_the_block_is_as_any_other(ignored: bool):
    def block() -> object:
        with held_back():
            return signal.getsignal(signal.SIGINT)

    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert block() is signal.SIG_IGN
        signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(block).result() is signal.default_int_handler


FORK_SERVER = "import time; time.sleep(600)"

STARTS: dict[str, Callable[[Path], object]] = {
    "load shard": lambda folder: LoadAgent.start(folder),
    "telemetry sampler": lambda folder: TelemetryAgent.start(folder, gpus=()),
    "fork server": lambda folder: ForkServer(Command((sys.executable, "-c", FORK_SERVER), {}), folder / "log"),
}


@pytest.mark.parametrize("what", STARTS)
def test_a_start_that_is_interrupted_leaves_no_process(what: str, tmp_path: Path):
    mine = psutil.Process()
    before = set(mine.children(recursive=True))

    def ours() -> set[psutil.Process]:
        return set(mine.children(recursive=True)) - before

    def when_it_has_begun() -> None:
        until(ours, "a process", 30.0)
        interrupt()

    watch = threading.Thread(target=when_it_has_begun)
    watch.start()
    with pytest.raises(KeyboardInterrupt) as kept:  # with the traceback, as a notebook keeps it
        STARTS[what](tmp_path)
    watch.join()
    until(lambda: not [one for one in ours() if one.status() != psutil.STATUS_ZOMBIE], f"the end of the {what}", 30.0)
    del kept
