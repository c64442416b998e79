"""Who else computes on a GPU, through the real binding on the fake NVML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit.telemetry.gpu_processes import ForeignProcesses
from labkit.telemetry.nvml import Nvml

Configure = Callable[[str], None]
OURS, THEIRS = 4242, 4343


@pytest.fixture
def look(fake_nvml: Configure, tmp_path: Path) -> Iterator[Callable[[], ForeignProcesses]]:
    """Begins to look at GPU 1, with a ``/proc`` of its own."""
    with Nvml() as nvml:
        yield lambda: ForeignProcesses([nvml.gpu(1)], lambda: 7, proc=tmp_path)


def test_workers_are_not_foreign_and_others_on_this_node_are(look, fake_nvml: Configure, tmp_path: Path) -> None:
    fake_nvml("pid 0 0\npid 1 0\n")
    others = look()
    fake_nvml("")
    (tmp_path / str(THEIRS)).mkdir()
    (found,) = others.read({OURS})
    assert (found.t_ns, found.source) == (7, "gpu1")
    assert found.values == {"foreign_processes": 1}, "the driver hides the memory of the second process"
    assert not found.missing
    (found,) = others.read({OURS, THEIRS})
    assert found.values == {"foreign_processes": 0, "foreign_memory_bytes": 0}
    (found,) = others.read({THEIRS})
    assert found.values == {"foreign_processes": 0, "foreign_memory_bytes": 0}, "4242 is not seen on this node"


def test_memory_is_told_where_the_driver_tells_it(look, tmp_path: Path) -> None:
    (tmp_path / str(OURS)).mkdir()
    (found,) = look().read({THEIRS})
    assert found.values == {"foreign_processes": 1, "foreign_memory_bytes": 8 * 2**30}


def test_who_was_there_before_the_workers_is_foreign_even_where_its_number_means_nothing(look) -> None:
    (found,) = look().read({OURS})
    assert found.values == {"foreign_processes": 1}


def test_what_the_lab_has_started_is_its_own_unless_it_was_there_before(look, fake_nvml: Configure, tmp_path: Path) -> None:
    (tmp_path / str(OURS)).mkdir()
    (found,) = look().read(set(), {OURS})
    assert found.values["foreign_processes"] == 2, "a model in the notebook's own kernel"
    fake_nvml("pid 0 0\npid 1 0\n")
    others = look()
    fake_nvml("")
    (found,) = others.read(set(), {OURS})
    assert found.values["foreign_processes"] == 0, "a worker that starts"


def test_of_a_process_that_is_not_seen_here_nothing_is_said(look, fake_nvml: Configure) -> None:
    fake_nvml("pid 0 0\npid 1 0\n")
    others = look()
    fake_nvml("")
    (found,) = others.read({OURS})
    assert found.values == {"foreign_processes": 0, "foreign_memory_bytes": 0}
    assert "a container" in found.missing["foreign_processes"]


def test_a_driver_that_refuses_has_a_reason(look, fake_nvml: Configure) -> None:
    others = look()
    fake_nvml("error nvmlDeviceGetComputeRunningProcesses_v3 4\n")
    (found,) = others.read(set())
    assert (found.values, found.missing) == ({}, {"foreign_processes": "no permission to read it"})
