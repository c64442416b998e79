"""Shared by all tests: what a test may need of the machine, and what no test may leave behind."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

from labkit.serve.hardware import inspect_node
from tests.support.jupyterlab import no_browser

#: Nothing here asserts how fast this machine is just now.
settings.register_profile("labkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("labkit")


def pytest_configure() -> None:
    """Whoever starts the tests in the background has interrupts and hang-ups ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip ``gpu`` and ``browser`` tests where there is none, with the reason. ``-m "not engine"`` leaves out real workers."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    reason = inspect_node().no_gpu if wanting else None
    for item in wanting:
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))
    if (missing := no_browser()) is not None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test sees the engines of this interpreter and no keys, whatever the shell that started it had set."""
    for name in ("LABKIT_ENVIRONMENT", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
