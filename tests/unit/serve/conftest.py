"""What the tests of pool, front, trees and deployment share: stand-ins, and the proof that none is left."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.serve.deployment import Deployment
from labkit.spec import Topology
from tests.support.fake_engine import MODEL, FakeEngine, fake_node
from tests.support.trees import mark, none_left, start

__all__ = ["deploy", "engine", "mark", "said", "start"]

Deploy = Callable[..., Deployment]


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """An engine of stand-ins, none of which may be left at the end of the test."""
    engine = FakeEngine(mark=uuid.uuid4().hex)
    yield engine
    none_left(engine.mark)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def deploy(engine: FakeEngine, tmp_path: Path, said: list[str]) -> Iterator[Deploy]:
    deployments: list[Deployment] = []

    def begin(topology: str = "2A", cores: int = 8, model: object = MODEL, **options: object) -> Deployment:
        deployment = Deployment(
            model, Topology(topology), engine, fake_node(cores),  # type: ignore[arg-type]
            logs=tmp_path / "logs", progress=said.append, ready_timeout_s=20.0, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        deployments.append(deployment)
        return deployment

    yield begin
    for deployment in deployments:
        deployment.close()
