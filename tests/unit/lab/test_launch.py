"""What another lab would be is told, and what it cannot be, while the first one serves."""

from __future__ import annotations

import pytest

from labkit.errors import HardwareError, LabError, SpecError
from labkit.lab.launch import Launch, plan_launch
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Model
from tests.support.fake_engine import SHORT


@pytest.fixture
def lab(open_lab):
    with open_lab("2A", options=EngineOptions(max_num_seqs=8)) as lab:
        yield lab


def test_a_launch_is_said_before_and_keeps_what_was_not_changed(lab):
    launch = plan_launch(lab, "demo", "1P1D", workload=SHORT)
    assert launch.options == EngineOptions(max_num_seqs=8)
    assert (launch.engine, launch.node, str(launch.topology)) == ("fake", lab.deployment.node, "1P1D")
    assert f"closes {lab.run.id} and keeps it, then launches 1P1D of demo" in launch.text
    assert "loads 2 workers" in launch.text
    assert "nothing serves meanwhile" in launch.text
    assert Launch.of(lab).model == Model("demo")
    assert lab.run.status == "running"


@pytest.mark.parametrize(
    ("wish", "kind", "words"),
    [
        ({"model": "nonsense"}, SpecError, "unknown model 'nonsense'"),
        ({"model": "demo", "engine": "none"}, SpecError, "unknown engine 'none'"),
        ({"model": "demo", "topology": "2A@tp3"}, SpecError, "TP 3 does not divide"),
        ({"model": "demo", "topology": "1A@tp64"}, LabError, "TP 64|needs 64 cores"),
        ({"model": "llama-3.1-70b"}, HardwareError, "GiB for its weights in each worker"),
        ({"model": "./nowhere"}, SpecError, "nowhere"),
    ],
)
def test_what_is_impossible_is_told_and_changes_nothing(lab, wish, kind, words):
    with pytest.raises(kind, match=words):
        plan_launch(lab, **wish, workload=SHORT)
    assert lab.run.status == "running"
    assert lab.deployment.front.tree.alive
