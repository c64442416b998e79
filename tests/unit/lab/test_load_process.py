"""Inside the shard's process: whatever goes wrong is said, so that nobody waits in vain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from labkit.errors import LoadError
from labkit.lab import load_process
from labkit.spec import Workload


class Failing:
    """Stands for a shard whose run fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def run(self, *_: Any, **__: Any) -> None:
        raise self.error


class Voice:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def say(self, message: dict[str, Any]) -> None:
        self.said.append(message)


ORDER = {
    "measurement": 0,
    "workload": Workload(isl=8, osl=2, concurrency=1, requests=1).to_dict(),
    "first_request": 0,
    "shards": 1,
    "start_ns": None,
}


@pytest.mark.parametrize(
    ("error", "what", "traced"),
    [
        (LoadError("no target is set", remedy="set one"), "no target is set", False),
        (ZeroDivisionError("of a slot"), "the load client failed: ZeroDivisionError: of a slot", True),
    ],
)
def test_a_run_that_fails_says_so(capfd: pytest.CaptureFixture[str], error: Exception, what: str, traced: bool):
    voice = Voice()
    asyncio.run(load_process._run(Failing(error), ORDER, voice))  # type: ignore[arg-type]
    (said,) = voice.said
    assert (said["said"], said["do"], said["what"]) == ("error", "run", what)
    assert said["remedy"]
    assert ("Traceback" in capfd.readouterr().err) is traced
