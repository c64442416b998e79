"""A server that knows what it did, and a shard that is measured against it."""

from __future__ import annotations

import pytest

from tests.support.measured import Bench
from tests.support.oracle_server import OracleServer


@pytest.fixture(scope="module")
def server():
    with OracleServer() as running:
        yield running


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    running = Bench(tmp_path_factory.mktemp("run"))
    yield running
    running.agent.close()
