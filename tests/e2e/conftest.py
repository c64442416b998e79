"""Real vLLM workers for the end-to-end tests: one lab a module, since a launch takes half a minute."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.lab import Lab
from labkit.spec import Workload
from tests.support.known_listeners import KNOWN
from tests.support.listeners import WATCHED, Watch
from tests.support.seeded_weights import seeded_demo
from tests.support.waiting import MARK, marked, until

WORKLOAD = Workload(isl=256, osl=16, rate=1.2, duration_s=4.0)


@pytest.fixture(scope="package", autouse=True)
def sockets() -> Iterator[Watch]:
    """Watches the listeners of all that the tests start, from before the first of them."""
    word = uuid.uuid4().hex
    os.environ[WATCHED] = word
    with Watch(word, KNOWN) as watch:
        yield watch
    print(*(f"tolerated: {who}: {one}" for who, one in watch.tolerated.items()), sep="\n")
    os.environ.pop(WATCHED, None)


@pytest.fixture(autouse=True)
def _loopback_only(sockets: Watch) -> Iterator[None]:
    """No engine, router, shard, sampler, kernel or server is ever reached from another machine, but for what ``KNOWN`` names."""
    yield
    sockets.check()


@pytest.fixture(scope="package")
def mark() -> Iterator[str]:
    """A word in the environment of every process that the tests start, so that leftovers are found without asking the lab."""
    word = f"e2e-{uuid.uuid4()}"
    os.environ[MARK] = word
    yield word
    os.environ.pop(MARK, None)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, mark: str) -> Iterator[Lab]:
    """Two workers with weights that make every prompt token matter, aggregated to begin with.

    A module's own: while it is open no other lab of this process can have the same hardware.
    """
    folder = tmp_path_factory.mktemp("e2e")
    segments = shared_memory()
    with Lab(seeded_demo(folder / "weights"), "2A", workload=WORKLOAD, results=folder / "results") as lab:
        yield lab
    until(lambda: not marked(mark), "the end of every process of the lab")
    assert shared_memory() <= segments


@pytest.fixture
def aggregated(lab: Lab) -> Lab:
    """The module's lab, aggregated."""
    lab.resplit("2A")
    return lab


def shared_memory() -> set[str]:
    """Names of the segments in /dev/shm."""
    return {entry.name for entry in Path("/dev/shm").iterdir()}
