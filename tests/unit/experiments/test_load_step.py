"""What is said of a shift under a load step, held against a queue whose truth is known; and the way through stand-ins."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest

from labkit.errors import ComparisonError, SpecError
from labkit.experiments.load_step import LoadStep, Shift, load_step, measure_load_step, shifted, step_of
from labkit.spec import Slo, Topology, Workload
from tests.support.queues import queued, stepped

SLO = Slo(ttft_s=0.8, tpot_s=0.05)
SHIFTED = (Shift(0, "2P2D", 15.01, 1.2, 1.9), Shift(0, "1P3D", 40.02, 1.4, None))


@lru_cache
def found() -> LoadStep:
    return load_step(stepped(), (15.0, 40.0), ("1P3D", "2P2D"), slo=SLO, shifts=SHIFTED, bucket_s=5.0, resamples=200)


def words(found: LoadStep) -> str:
    return " ".join(str(found).split())


def test_a_shift_that_ends_a_queue_is_found_with_its_gain():
    gain = found().gain
    assert gain is not None
    assert gain.low > 1.5
    before = found().effects["before"]["slo_attainment"].ratio
    assert before is not None
    assert before.low <= 1 <= before.high
    text = words(found())
    assert text.startswith("Shifting a decode worker to prefill while the load steps up (1P3D → 2P2D → 1P3D, against 1P3D")
    assert "goodput rose during the step" in text
    assert "2 switches: new requests went to the new split after 1.2 to 1.4 s" in text
    assert "the old router was empty after 1.9 s at most; no worker was restarted" in text
    kept = replace(found(), shifts=tuple(replace(shift, started=1) for shift in SHIFTED))
    assert "what left was empty after 1.9 s at most; 2 workers were started for them and others drained" in words(kept)
    assert "0 of " in text
    assert "What to do (a guess with fewer than 3 repeats): shift to 2P2D as soon as such a step begins" in text


def test_goodput_over_time_counts_each_request_where_it_was_sent():
    stays, shifts = found().courses["stays"], found().courses["shifts"]
    assert [bucket.requests for bucket in stays] == [bucket.requests for bucket in shifts], "the same requests"
    assert sum(bucket.requests for bucket in stays) == sum(found().requests.values())
    assert [(bucket.start_s, bucket.end_s) for bucket in stays] == [(5.0 * at, 5.0 * at + 5) for at in range(12)]
    at_most = max(range(12), key=lambda at: stays[at].requests)
    assert 3 <= at_most < 8, "most are sent during the step"
    assert (shifts[7].share or 0) > 0.9 > 0.1 > (stays[7].share or 0), "the queue has grown without the shift"
    assert stays[0].goodput_hz == pytest.approx(stays[0].good / (5.0 * 2))
    late = found().goodput_hz("step")
    assert late[0] is not None
    assert late[0] == pytest.approx(sum(bucket.good for bucket in stays[3:8]) / 50.0)


def test_a_step_that_one_prefill_worker_takes_is_not_shown_to_need_a_shift():
    one = load_step(stepped(rates=(1.0, 1.2)), (15.0, 40.0), ("1P3D", "2P2D"), slo=SLO, resamples=200)
    assert "no difference of goodput is shown during the step" in words(one) or (one.gain is not None and one.gain.estimate < 1.3)
    assert "No shift was made." in words(one)


def test_records_of_other_sides_are_refused():
    with pytest.raises(ComparisonError, match="stays"):
        load_step(queued(("1P1D",), repeats=1)[0], (1.0, 2.0), ("1P3D", "2P2D"), slo=SLO)


def test_a_repeat_that_was_interrupted_is_left_out_on_both_sides():
    records = stepped()
    first, last = records.windows[:2], tuple(replace(window, stopped="interrupted") for window in records.windows[3:])
    cut = replace(records, windows=(*first, records.windows[2], *last))
    one = load_step(cut, (15.0, 40.0), ("1P3D", "2P2D"), slo=SLO, resamples=50)
    assert one.repeats == 1
    assert sum(bucket.requests for bucket in one.courses["stays"]) == sum(one.requests.values())
    with pytest.raises(ComparisonError, match="no repeat of the load step came to its end"):
        load_step(replace(records, windows=(first[0], *last)), (15.0, 40.0), ("1P3D", "2P2D"), slo=SLO)


def test_the_step_is_read_from_the_arrivals():
    work = Workload(isl=8, osl=4, arrivals="step:0=1,15=3,30=1", duration_s=45.0)
    assert step_of(work) == (15.0, 30.0)
    for arrivals, duration_s in (("step:0=1,15=3", 45.0), ("ramp:1-3", 45.0), ("step:0=1,15=3,30=1", 30.0)):
        with pytest.raises(SpecError, match="no step up and down again"):
            step_of(Workload(isl=8, osl=4, arrivals=arrivals, duration_s=duration_s))
    with pytest.raises(SpecError, match="no step up and down again"):
        step_of(Workload(isl=8, osl=4, rate=1.0, duration_s=45.0))


def test_one_decode_worker_becomes_a_prefill_worker():
    assert str(shifted(Topology("1P3D"))) == "2P2D"
    assert str(shifted(Topology("1P+2D@tp2"))) == "1P@tp2+1P+1D@tp2"
    for split in ("1P1D", "4A"):
        with pytest.raises(SpecError, match="no decode worker to spare"):
            shifted(Topology(split))


def test_the_lab_shifts_at_the_step_and_back_while_the_load_runs(open_lab):
    work = Workload(isl=16, osl=6, arrivals="step:0=5,0.5=20,1.5=5", duration_s=2.5)
    with open_lab("1P2D", workload=work, slo=Slo(ttft_s=5.0), kind="scaling") as lab:
        one = measure_load_step(lab, repeats=1, bucket_s=0.5)
        assert str(lab.deployment.topology) == "1P2D"
    assert [window.side for window in lab.run.windows] == ["stays", "shifts"]
    assert [shift.after for shift in one.shifts] == ["2P1D", "1P2D"]
    assert one.shifts[0].at_s > 0.4
    assert one.shifts[1].at_s > max(1.4, one.shifts[0].at_s)
    assert one.failed == (0, 0)
    epochs = set(
        lab.run.records().requests.filter(lab.run.records().requests["measurement"].to_numpy() == 1)["epoch"].to_pylist()
    )
    assert epochs == {0, 1, 2}, "its requests went to all three splits"
    assert lab.run.manifest["load_step"]["shifts"][0]["after"] == "2P1D"
    assert lab.run.manifest["load_step_verdict"] == str(one)
