"""Two labs of one process do not share devices unsaid: a cell that launches is run again while the lab before still serves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import labkit
from labkit.errors import HardwareError
from labkit.lab import held, opening
from labkit.serve.hardware import Node, simulate
from labkit.serve.patience import CalledOff
from labkit.store.run import open_run
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


def test_a_lab_that_is_still_launched_is_closed_too(open_lab: OpenLab, engine: FakeEngine, tmp_path: Path):
    engine.faults = {"w1": ["--never-ready"]}
    with ThreadPoolExecutor(1) as thread:
        launch = thread.submit(open_lab, "2A")
        until(lambda: [*tmp_path.glob("*/logs/w1.log")], "the start of its workers")
        (name,) = labkit.close_labs()
        assert labkit.close_labs() == [], "it holds nothing any more"
        with pytest.raises(CalledOff):
            launch.result(30)
    until(lambda: not marked(engine.mark), "the end of every process")
    assert open_run(tmp_path / name).status == "failed"
    engine.faults = {}
    with open_lab("2A"):
        pass


def test_who_is_told_of_a_launch_may_close_the_lab(open_lab: OpenLab, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opening, "_LATE_S", 0.5)  # the launch waits for whoever is told, and so for this

    def tell(line: str) -> None:
        if "ready after" in line:
            labkit.close_labs()

    with pytest.raises(CalledOff, match=r"called off|closed"):
        open_lab("1A", progress=tell)
    assert not marked(engine.mark)
    with open_lab("1A"):
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
