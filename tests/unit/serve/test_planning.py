"""What a change would take is said before it is made: by which steps, how long as measured here, or why not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from labkit.errors import HardwareError, SpecError
from labkit.serve.deployment import Deployment
from labkit.serve.engines.base import EngineOptions
from labkit.serve.models import prepare
from labkit.serve.planning import make_plan
from labkit.serve.situation import Pace
from labkit.spec import Model, Topology
from tests.support.waiting import until

Deploy = Callable[..., Deployment]


def kill(deployment: Deployment, name: str) -> None:
    os.kill(next(worker.tree.pid for worker in deployment.workers if worker.name == name), signal.SIGKILL)
    until(lambda: name in deployment.dead, f"the death of {name}")


def test_a_router_swap_is_planned_with_its_proof_and_measured_pace(deploy: Deploy):
    deployment = deploy("2A")
    plan = deployment.plan("1P1D")
    assert (plan.kind, plan.starts, plan.ends, plan.reloads_weights, plan.about_s) == ("swap_router", (), (), False, None)
    assert plan.text == str(plan) == "2A → 1P1D: swaps the router, 1-2 s, no weights reloaded"
    assert plan.proof[0].startswith("w0 prefill: ")
    assert plan.proof[1].startswith("w1 decode: KV bytes received")
    deployment.resplit("1P1D")
    plan = deployment.plan("2A")
    assert plan.about_s is not None
    assert f"{plan.about_s:.1f} s as measured here" in plan.text
    assert deployment.plan("1P1D").kind == "nothing"


@pytest.mark.parametrize(
    ("pool", "wanted", "pace", "about_s"),
    [
        ("2A", "3A", Pace(starts=[20.0, 4.0], swaps=[1.0, 1.2, 9.0]), 4.0 + 1.2),
        ("2A", "3A", Pace(starts=[4.0]), 4.0 + 1.5),
        ("2A", "3A", Pace(swaps=[1.0]), None),
        ("3A", "2A", Pace(), 1.5),
        ("2A of 2", "1A@tp2", Pace(starts=[4.0], swaps=[1.0]), 2.0 + 4.0 + 1.0),
        ("2A of 2", "1A@tp2", Pace(starts=[4.0], swaps=[1.0], rooms=[3.5]), 3.5 + 4.0 + 1.0),
        ("3A of 3", "1P+1D@tp2", Pace(starts=[4.0], swaps=[1.0]), 2.0 + 1.0 + 4.0 + 1.0),
    ],
)
def test_it_takes_what_its_steps_took_before(deploy: Deploy, pool: str, wanted: str, pace: Pace, about_s: float | None):
    """Workers start, the router is swapped; and where no device is free, others end before, which takes its time too."""
    split, _, cores = pool.partition(" of ")
    deployment = deploy(split, cores=int(cores or 8))
    plan = make_plan(replace(deployment._situation, pace=pace), Topology(wanted), EngineOptions())
    assert plan.about_s == about_s
    assert (f"about {about_s:.0f} s" if about_s is not None else "as long as a launch") in plan.text


def test_a_restart_of_one_that_runs_keeps_the_split_that_was_wished_for_since_another_died(deploy: Deploy):
    deployment = deploy("3A")
    kill(deployment, "w2")
    deployment.resplit("1P1D")
    assert deployment.plan_restart("w0").wanted == Topology("1P1D")
    deployment.restart("w0")
    assert (str(deployment.topology), deployment.verified) == ("1P1D", True)
    plan = deployment.plan_restart("w2")
    assert ([place.name for place in plan.starts], plan.wanted) == (["w2"], Topology("1P1D")), "it comes back without a role"
    kill(deployment, "w1")
    deployment.resplit("1A")
    assert deployment.plan_restart("w1").wanted == Topology("1P1D"), "the last split that was wished for"


def test_room_that_was_made_is_measured(deploy: Deploy):
    deployment = deploy("2A", cores=2)
    assert deployment.plan("1A@tp2").makes_room
    done = deployment.resplit("1A@tp2")
    pace = deployment._pace
    assert done.ready_s is not None
    assert [pytest.approx(done.ready_s)] == [
        room_s + start_s for room_s, start_s in zip(pace.rooms, pace.starts[1:], strict=True)
    ]
    assert not deployment.plan("1A@tp2", EngineOptions(max_num_seqs=3), in_place=False).keeps


def test_the_impossible_is_planned_as_such_with_the_nearest_that_is_possible(deploy: Deploy, tmp_path: Path):
    deployment = deploy("2A", cores=4, share=False)
    plan = deployment.plan("3P3D")
    assert plan.kind == "impossible"
    assert "6 workers need 6 cores and this node has 4; the nearest that is possible is " in plan.text
    assert plan.nearest is not None
    assert plan.nearest.accelerators == 4
    with pytest.raises(HardwareError, match="6 workers need 6 cores"):
        deployment.resplit("3P3D")
    assert (deployment.verified, deployment.epoch) == (True, 0)
    wide = deploy("1A", cores=8, model=prepare(Model("demo"), tmp_path))
    plan = wide.plan("1A@tp3")
    assert (plan.kind, plan.nearest) == ("impossible", Topology("1A@tp2"))
    with pytest.raises(SpecError, match="TP 3 does not divide"):
        wide.change("1A@tp3")
