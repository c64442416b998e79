from __future__ import annotations

from collections.abc import Callable

import pytest

from labkit.telemetry.gpu_session import GpuSession, in_short
from labkit.telemetry.nvml import GpuReading, Nvml
from labkit.telemetry.nvml_errors import remedy_of, silent_gpus

Configure = Callable[[str], None]
SECOND = 10**9


class Clock:
    """Stands still until it is set."""

    now_ns = 100 * SECOND

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def read(session: GpuSession) -> dict[str, GpuReading]:
    return dict(session.read())


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each try to find a GPU again: a new handle, or a new session."""
    found: list[str] = []
    renew, reopen = Nvml.renew, Nvml.reopen
    monkeypatch.setattr(Nvml, "renew", lambda self, gpu: (found.append(f"gpu{gpu.index}"), renew(self, gpu))[1])
    monkeypatch.setattr(Nvml, "reopen", lambda self: (found.append("all"), reopen(self))[1])
    return found


def test_a_gpu_is_looked_for_every_two_seconds_and_the_others_keep_their_rates(
    fake_nvml: Configure, clock: Clock, tried: list[str]
) -> None:
    session = GpuSession(clock=clock)
    assert session.open() == {}
    read(session)
    fake_nvml("error *:1 15\n")
    for _ in range(28):
        clock.now_ns += SECOND
        found = read(session)
        assert "sm_active_fraction" in found["gpu0"].values
        assert found["gpu1"].values == {}
    assert tried == ["gpu1"] * 14
    clock.now_ns += 2 * SECOND
    read(session)
    assert tried[14:] == ["all", "gpu0", "gpu1"], "after half a minute NVML itself is opened again"
    fake_nvml("")
    read(session)
    assert "sm_active_fraction" in read(session)["gpu1"].values
    session.close()


def test_where_none_answers_nvml_is_opened_again_and_its_own_reason_is_told(fake_nvml: Configure, clock: Clock) -> None:
    session = GpuSession(clock=clock)
    session.open()
    read(session)
    fake_nvml("error *:0 1\nerror *:1 1\nerror nvmlInitWithFlags 9\n")
    assert set(read(session)["gpu0"].missing.values()) == {"NVML is not initialised"}
    clock.now_ns += 2 * SECOND
    assert set(read(session)["gpu1"].missing.values()) == {"the NVIDIA driver is installed but not loaded"}
    fake_nvml("")
    assert "power_w" in read(session)["gpu1"].values
    session.close()


def test_a_gpu_that_never_answered_is_not_looked_for(fake_nvml: Configure, clock: Clock, tried: list[str]) -> None:
    session = GpuSession([0], clock=clock)
    assert session.open() == {}
    fake_nvml("error *:0 4\n")
    for _ in range(3):
        clock.now_ns += 40 * SECOND
        assert read(session)["gpu0"].values == {}
    assert not tried
    session.close()


def test_one_reason_for_all_is_the_gpus_and_single_ones_are_the_metrics() -> None:
    assert in_short("gpu0", GpuReading(1, {}, {"a": "lost", "b": "lost", "c": "old"})) == {"gpu0": "lost"}
    assert in_short("gpu0", GpuReading(1, {"a": 1.0}, {"b": "lost"})) == {"gpu0/b": "lost"}
    assert in_short("gpu0", GpuReading(1, {"a": 1.0}, {})) == {}


def test_a_silent_gpu_is_an_error_with_a_remedy_and_a_missing_metric_or_driver_is_none() -> None:
    missing = {"gpu": "no driver", "gpu0/power_w": "this card does not report it", "gpu1": "the GPU is lost (fell off the bus)"}
    (error,) = silent_gpus(missing)
    assert error.what == "gpu1 is not read: the GPU is lost (fell off the bus)"
    assert "dmesg" in error.remedy
    assert "rights" in remedy_of("GPU 1: no permission to read it")
    assert "nvidia-smi" in remedy_of("NVML: something new")
