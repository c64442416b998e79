"""Fixtures: labs on stand-in engines. A ``conftest.py`` imports them."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.experiments.exploration import Exploration
from labkit.lab.engines import ENGINES
from labkit.lab.lab import Lab
from labkit.spec import Slo, Workload
from tests.support.fake_engine import SHORT, FakeEngine, fake_node
from tests.support.waiting import MARK, marked

OpenLab = Callable[..., Lab]
#: an exploration's load at its beginning
LOAD = Workload(isl=16, osl=12, concurrency=4, duration_s=5.0)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """Stand-ins under the name ``fake``. Everything that the lab starts is marked; none of it may be left."""
    engine = FakeEngine(mark=uuid.uuid4().hex)
    monkeypatch.setitem(ENGINES, "fake", lambda _: engine)
    monkeypatch.setenv(MARK, engine.mark)
    yield engine
    left = marked(engine.mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def open_lab(engine: FakeEngine, tmp_path: Path, said: list[str]) -> OpenLab:
    def begin(topology: str = "2A", **options: object) -> Lab:
        given = {"engine": "fake", "node": fake_node(), "results": tmp_path, "progress": said.append, "workload": SHORT}
        return Lab("demo", topology, **{**given, **options})  # type: ignore[arg-type]

    return begin


@pytest.fixture
def exploration(open_lab: OpenLab) -> Iterator[Exploration]:
    """Of two aggregated stand-ins under ``LOAD``, which is not started."""
    with open_lab("2A", workload=LOAD, slo=Slo(tpot_s=0.5)) as lab:
        under_hand = Exploration(lab)
        yield under_hand
        under_hand.close()
        under_hand.lab.close()  # another one where it was launched anew
