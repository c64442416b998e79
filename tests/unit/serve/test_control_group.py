from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from labkit.serve.control_group import cpu_limit, free_memory, memory_limit

GIB = 2**30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Limited to 4 GiB and half a CPU on a machine with 16 GiB available: 3 GiB in use, 2 of them files that were read."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 * GIB))
    files = {"inactive_file": GIB, "active_file": GIB, "anon": GIB}
    (tmp_path / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in files.items()))
    for name, text in {"memory.max": 4 * GIB, "memory.current": 3 * GIB, "cpu.max": "50000 100000"}.items():
        (tmp_path / name).write_text(f"{text}\n")
    return tmp_path


def test_files_that_are_kept_in_memory_count_as_free(group: Path):
    assert (memory_limit(group), free_memory(group), cpu_limit(group)) == (4 * GIB, 3 * GIB, 0.5)


def test_the_machine_may_have_less_than_the_limit(group: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=GIB))
    assert free_memory(group) == GIB


def test_without_a_limit_the_machine_decides(group: Path, tmp_path: Path):
    (group / "memory.max").write_text("max\n")
    (group / "cpu.max").write_text("max 100000\n")
    assert (memory_limit(group), free_memory(group), cpu_limit(group)) == (None, 16 * GIB, None)
    assert (memory_limit(tmp_path / "none"), free_memory(tmp_path / "none"), cpu_limit(tmp_path / "none")) == (
        None,
        16 * GIB,
        None,
    )
