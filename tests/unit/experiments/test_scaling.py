"""What is said of scaling, held against splits whose truth is known; and the way through a lab of stand-ins."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from labkit.errors import ComparisonError, SpecError
from labkit.experiments.scaling import Scaling, change_of, measure_scaling, scaling, scaling_axes, together
from labkit.spec import Role, Slo, Workload
from tests.support import synthetic
from tests.support.queues import queued

SPLITS = ("1P1D", "2P1D", "3P1D", "1P2D", "1P3D")
SLO = Slo(ttft_s=0.5, tpot_s=0.03)


@lru_cache
def found(shared: float = 0.0, rate: float = 2.6) -> Scaling:
    records, manifest = queued(SPLITS, shared=shared, rate=rate)
    return scaling(records, scaling_axes(4), slo=SLO, manifest=manifest, resamples=200)


def words(found: Scaling) -> str:
    return " ".join(str(found).split())


def test_workers_that_share_nothing_are_found_independent():
    steps = {(step.before, step.after): (step.own, step.others) for step in found().steps}
    assert steps[("1P1D", "2P1D")] == ("shorter", "same")
    assert steps[("1P1D", "1P2D")] == ("shorter", "same")
    assert {others for _, others in steps.values()} == {"same"}
    assert found().outcome == "reproduced"
    text = words(found())
    assert "Adding a prefill worker (1P1D → 2P1D) took p50 TTFT from" in text
    assert "and left ITL as it was, within 10%: p50 ITL from" in text
    assert "Verdict on “prefill and decode workers scale independently”: reproduced." in text
    assert "More prefill workers shorten TTFT up to" in text
    assert "Not independent hardware" not in text


def test_workers_that_share_cores_are_found_not_independent_and_it_says_why():
    one = found(shared=0.3)
    assert one.outcome == "not reproduced"
    assert {step.others for step in one.steps} == {"longer"}
    text = words(one)
    assert "and did not leave ITL as it was: p50 ITL from" in text
    assert "not reproduced: 1P1D → 2P1D" in text
    assert "! Not independent hardware: from 2P1D on workers share devices (w0 (prefill) and w2 (decode) share core 0)" in text
    assert "All splits compute on the same 2 cores: an added worker brings no hardware." in text


def test_small_changes_that_creep_are_seen_against_the_first_split():
    one = found(shared=0.06)
    second = one.axis(Role.PREFILL)[1]
    assert together([second.comparison.row("itl_p50_s")]) == "same", "6 % more than before"
    assert (second.first, second.others) == ("1P1D", "longer"), "and 12 % more than on the first"
    assert "did not leave ITL as it was on 1P1D: p50 ITL from" in words(one)


def test_a_later_worker_that_helps_where_an_earlier_did_not_is_no_advice():
    one = found()
    first, second = one.axis(Role.PREFILL)
    idle = replace(first, comparison=found(rate=0.2).axis(Role.PREFILL)[0].comparison)
    odd = replace(one, steps=tuple(idle if step is first else step for step in one.steps))
    assert idle.own != "shorter"
    assert second.own == "shorter"
    text = words(odd)
    assert "Of the prefill workers that were added 2P1D → 3P1D shortened TTFT, 1P1D → 2P1D before it did not" in text
    assert "that may be chance" in text


def test_where_no_role_waits_nothing_is_claimed_of_scaling():
    one = found(rate=0.2)
    assert one.outcome in ("only when", "open")
    assert "More prefill workers are not shown to shorten TTFT at this load: spend none on it." in words(one)


def test_what_is_not_known_well_enough_is_open():
    records, manifest = queued(SPLITS, repeats=1, length_s=10.0)
    few = scaling(records, scaling_axes(4), slo=SLO, manifest=manifest, resamples=100)
    assert few.points[0].figures["ttft_p99_s"].value is None
    assert few.points[0].figures["ttft_p99_s"].reason.startswith("n too small")
    assert few.outcome == "open"
    assert "(TTFT p99: n too small (n=" in words(few), "what is said rests on p50 alone"
    assert "open: 1 repeat says nothing of the spread between repeats. Take 3 or more." in words(few)
    assert "What to do (a guess with fewer than 3 repeats): " in words(few)
    assert few.steps[0].of_own[1].ratio is None


def test_goodput_and_how_busy_each_role_is_stand_in_the_table():
    records, manifest = synthetic.run(("1P1D", "2P1D", "1P2D") * 2, rate=2.0, duration_s=20.0)
    for epoch in manifest["epochs"]:
        epoch["devices"] = {worker: {"cores": [number]} for number, worker in enumerate(epoch["roles"])}
    one = scaling(records, scaling_axes(3), slo=Slo(ttft_s=1.0), manifest=manifest, resamples=50)
    base, wider = one.point("1P1D").pressed[Role.PREFILL], one.point("2P1D").pressed[Role.PREFILL]
    assert base.used is not None
    assert wider.used is not None
    assert wider.used < base.used
    assert one.point("2P1D").figures["goodput_request_s"].value >= one.point("1P1D").figures["goodput_request_s"].value
    head, first, *_ = str(one).splitlines()
    assert max(map(len, str(one).splitlines())) <= 96, "a notebook would break them"
    assert "goodput req/s" in head
    assert first.split()[0] == "1P1D"
    assert f"{base.used * 100:.0f}" in first.split()


def test_a_step_is_judged_by_the_whole_interval():
    rows: dict[str, Any] = {row.key: row for row in found().steps[0].comparison.rows}
    assert change_of(rows["ttft_p50_s"]) == "shorter"
    assert change_of(rows["itl_p50_s"]) == "same"
    assert together([rows["ttft_p50_s"], rows["itl_p50_s"]]) == "shorter"
    assert together([]) == "open"


def test_the_axes_begin_with_the_same_split_and_leave_out_what_is_too_large():
    axes = scaling_axes(4)
    assert [str(split) for split in axes[Role.PREFILL]] == ["1P1D", "2P1D", "3P1D"]
    assert [str(split) for split in axes[Role.DECODE]] == ["1P1D", "1P2D", "1P3D"]
    assert [str(split) for split in scaling_axes(10, tp=2)[Role.DECODE]][-1] == "1P@tp2+8D@tp2"
    assert [str(split) for split in scaling_axes(5, fixed=2)[Role.PREFILL]] == ["2P2D", "3P2D"]
    with pytest.raises(SpecError, match="a pool of 2 workers cannot vary one role"):
        scaling_axes(2)


def test_a_point_that_was_not_measured_is_named():
    records, _ = queued(("1P1D", "2P1D"), repeats=1, length_s=10.0)
    with pytest.raises(ComparisonError, match="1P2D"):
        scaling(records, scaling_axes(3), slo=SLO)


def test_every_point_is_measured_in_one_warm_pool_and_kept(open_lab):
    work = Workload(isl=16, osl=6, rate=20.0, duration_s=0.6)
    with open_lab("1P2D", workload=work, slo=Slo(ttft_s=5.0), kind="scaling") as lab:
        pids = [worker.tree.pid for worker in lab.deployment.workers]
        one = measure_scaling(lab, repeats=2)
        assert [worker.tree.pid for worker in lab.deployment.workers] == pids
        assert str(lab.deployment.topology) == "1P1D"
    assert [window.side for window in lab.run.windows] == ["1P1D", "2P1D", "1P2D"] * 2
    assert [point.topology for point in one.points] == ["1P1D", "2P1D", "1P2D"]
    assert lab.run.manifest["scaling"]["outcome"] == one.outcome
    assert lab.run.manifest["verdict"] == str(one)
    assert {point.failed for point in one.points} == {0}


def test_a_load_that_follows_the_server_is_no_fixed_load(open_lab):
    with open_lab("1P2D", workload=Workload(isl=16, osl=4, concurrency=2, requests=4)) as lab:
        with pytest.raises(SpecError, match="as much as it can take"):
            measure_scaling(lab)
        assert not lab.run.windows
