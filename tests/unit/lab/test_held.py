"""Two labs of one process do not share devices unsaid: a cell that launches is run again while the lab before still serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import labkit
from labkit.errors import HardwareError
from labkit.lab import held
from labkit.serve.hardware import Node, simulate
from tests.support.fake_engine import FakeEngine, fake_gpu, fake_node
from tests.support.open_lab import OpenLab
from tests.support.waiting import marked, until


def test_a_cell_that_launches_is_run_again(open_lab: OpenLab, engine: FakeEngine, tmp_path: Path):
    first = open_lab("2A")
    there = marked(engine.mark)
    with pytest.raises(HardwareError, match=f"run {first.run.id} .* holds 8 cores that this one would use") as told:
        open_lab("2A")
    assert "lab.close()" in told.value.remedy
    assert marked(engine.mark) == there
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [first.run.id]
    assert labkit.close_labs() == [first.run.id]
    until(lambda: not marked(engine.mark), "the end of every process")
    assert labkit.close_labs() == []
    with open_lab("2A") as second:
        assert second.run.id != first.run.id


def test_a_launch_that_failed_holds_nothing(open_lab: OpenLab, engine: FakeEngine):
    engine.python = "/nowhere/python"
    with pytest.raises(labkit.errors.LabError):
        open_lab("2A")
    engine.python = None
    with open_lab("2A"):
        pass


def test_labs_on_other_devices_go_side_by_side(open_lab: OpenLab):
    def of(*gpus: int) -> Node:
        return replace(fake_node(), gpus=tuple(map(fake_gpu, gpus)), no_gpu=None)

    with open_lab("1A", node=of(0)), open_lab("1A", node=of(1)), pytest.raises(HardwareError, match="holds 1 GPU that"):
        open_lab("2A", node=of(1, 2))


class Open:
    """A lab that is only a name."""

    def __init__(self, name: str) -> None:
        self.run = SimpleNamespace(id=name)

    def close(self) -> None:
        held.give_back(self)  # type: ignore[arg-type]


def test_what_is_simulated_holds_nothing():
    node = simulate(fake_node(), "h100_sxm", 80 * 2**30)
    labs = [Open("one"), Open("other")]
    for lab in labs:
        held.take(lab, node)  # type: ignore[arg-type]
    assert labkit.close_labs() == ["one", "other"], "none was refused"
