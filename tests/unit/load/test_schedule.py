import hashlib
import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LoadError
from labkit.load.draws import Draw, clip, draw_lengths, rng
from labkit.load.schedule import Schedule
from labkit.load.served import fitted
from labkit.load.target import Requests, Target
from labkit.spec import Lengths, Workload


def workload(**fields):
    return Workload(**{"rate": 10.0, "duration_s": 100.0, **fields})


def test_constant_arrivals_are_exact_and_end_with_the_phase():
    times = list(Schedule(workload(arrivals="constant", rate=4.0, duration_s=1.0)).arrivals("measure"))
    assert times == [0.0, 0.25, 0.5, 0.75]


def test_constant_arrivals_do_not_drift_over_blocks():
    times = list(Schedule(workload(arrivals="constant", rate=1000.0, duration_s=5.0)).arrivals("measure"))
    assert len(times) == 5000
    assert times[4999] == 4999 / 1000.0


@pytest.mark.parametrize(
    ("arrivals", "burstiness", "variation"), [("poisson", 1.0, 1.0), ("gamma", 0.25, 2.0), ("gamma", 4.0, 0.5)]
)
def test_random_arrivals_have_rate_and_burstiness(arrivals, burstiness, variation):
    work = workload(arrivals=arrivals, burstiness=burstiness, rate=20.0, duration_s=None, requests=20_000)
    gaps = np.diff([0.0, *Schedule(work).arrivals("measure")])
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.06)  # 1/sqrt(shape)


def test_a_number_of_requests_bounds_the_measure_phase_and_seconds_the_warmup():
    schedule = Schedule(workload(duration_s=None, requests=7, warmup_s=2.0, arrivals="constant"))
    assert len(list(schedule.arrivals("measure"))) == 7
    assert len(list(schedule.arrivals("warmup"))) == 20


def test_streams_are_independent_of_each_other():
    base, other = workload(isl="uniform:10-500", osl="normal:64,8"), workload(isl=7, osl="normal:64,8", warmup_s=3.0)
    one, two = Schedule(base), Schedule(other)
    assert list(one.arrivals("measure")) == list(two.arrivals("measure"))
    assert [one.lengths("measure", i)[1] for i in range(50)] == [two.lengths("measure", i)[1] for i in range(50)]
    assert len({one.lengths("measure", i)[0] for i in range(50)}) > 20


def test_lengths_are_addressed_by_index_whatever_was_asked_before():
    work = workload(isl="uniform:10-5000", osl="lognormal:100,1")
    forwards = [Schedule(work).lengths("measure", i) for i in range(0, 5000, 37)]
    shared = Schedule(work)
    assert [shared.lengths("measure", i) for i in range(4995, -1, -37)][::-1] == forwards
    assert shared.lengths("warmup", 5) != shared.lengths("measure", 5)


def test_another_seed_gives_other_requests():
    assert list(Schedule(workload(seed=1)).arrivals("measure")) != list(Schedule(workload(seed=2)).arrivals("measure"))


@pytest.mark.parametrize(
    ("text", "centre"), [("512", 512), ("uniform:100-300", 200), ("normal:400,30", 400), ("lognormal:300,0.5", 300)]
)
def test_lengths_follow_their_distribution(text, centre):
    drawn = draw_lengths(Lengths.parse(text), rng(0, Draw.ISL, "measure", 0), 20_000)
    assert np.median(drawn) == pytest.approx(centre, rel=0.03)
    assert drawn.min() >= 1


def test_uniform_lengths_include_both_ends_and_small_normals_are_clipped_to_one():
    uniform = draw_lengths(Lengths.parse("uniform:3-5"), rng(0, Draw.ISL, "measure", 0), 500)
    assert set(uniform.tolist()) == {3, 4, 5}
    assert draw_lengths(Lengths.parse("normal:1,5"), rng(0, Draw.ISL, "measure", 0), 500).min() == 1


def test_a_closed_loop_has_no_arrivals():
    with pytest.raises(ValueError, match="closed loop"):
        next(Schedule(Workload(concurrency=1, requests=1)).arrivals("measure"))


def expected(arrivals, until_s):
    """Requests expected up to an instant, by summing the rate in small steps: another way than the code's."""
    kind, text = arrivals.split(":")
    at = (np.arange(200_000) + 0.5) * until_s / 200_000
    if kind == "ramp":
        first, last = map(float, text.split("-"))
        rate = first + (last - first) * at / 100
    elif kind == "burst":
        rate = np.where(at % 20 < 5, 50.0, 2.0)
    else:
        rate = np.where(at < 30, 3.0, 40.0)
    return rate.sum() * until_s / 200_000


@pytest.mark.parametrize("arrivals", ["ramp:1-60", "ramp:60-0", "burst:2-50@5/20", "step:0=3,30=40"])
def test_rates_that_change_are_kept_at_every_instant(arrivals):
    times = [
        np.array(list(Schedule(Workload(arrivals=arrivals, duration_s=100, seed=seed)).arrivals("measure"))) for seed in range(8)
    ]
    for until_s in (10.0, 33.0, 70.0, 100.0):
        seen, mean = sum(int((of_seed < until_s).sum()) for of_seed in times), 8 * expected(arrivals, until_s)
        assert abs(seen - mean) < 4.5 * mean**0.5
    assert all((np.diff(of_seed) >= 0).all() and of_seed[0] >= 0 and of_seed[-1] < 100 for of_seed in times)


def test_a_burst_without_low_rate_sends_in_bursts_only():
    times = np.array(list(Schedule(Workload(arrivals="burst:50@5/20", requests=1000)).arrivals("measure")))
    assert len(times) == 1000
    assert (times % 20 <= 5).all()
    assert times[-1] == pytest.approx(80, abs=20)


@settings(max_examples=60)
@given(
    arrivals=st.sampled_from(["constant", "poisson", "gamma", "ramp:0-9", "ramp:9-1", "burst:9@1/3", "step:0=0,1=5,2=0"]),
    duration_s=st.floats(0.01, 30),
    burstiness=st.floats(0.05, 20),
    seed=st.integers(0, 2**40),
)
def test_arrivals_rise_end_in_time_and_repeat(arrivals, duration_s, burstiness, seed):
    rate = {} if ":" in arrivals else {"rate": 5.0}
    work = Workload(arrivals=arrivals, duration_s=duration_s, warmup_s=1.0, burstiness=burstiness, seed=seed, **rate)
    for phase, until_s in (("warmup", 1.0), ("measure", duration_s)):
        times = list(Schedule(work).arrivals(phase))
        assert times == sorted(times) == list(Schedule(work).arrivals(phase))
        assert all(0 <= at_s < until_s for at_s in times)


def test_the_warm_up_of_a_ramp_has_its_first_rate():
    work = Workload(arrivals="ramp:20-500", duration_s=10, warmup_s=100)
    assert len(list(Schedule(work).arrivals("warmup"))) == pytest.approx(2000, rel=0.1)


@pytest.fixture
def trace(tmp_path):
    """50 requests, three of them at each second but in no order; the first block of all is the same."""
    rows = [
        {"timestamp": 1000 * ((i * 7) % 17), "input_length": 600 + i, "output_length": 1 + i, "hash_ids": [0, 100 + i]}
        for i in range(50)
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def test_a_trace_is_sent_whole_at_its_times(trace):
    schedule = Schedule(Workload(trace=trace, time_scale=0.5))
    times = list(schedule.arrivals("measure"))
    assert len(times) == schedule.count("measure") == 50
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0, 8)
    assert sorted(schedule.lengths("measure", i) for i in range(50)) == [(600 + i, 1 + i) for i in range(50)]
    assert list(schedule.arrivals("warmup")) == []
    assert len(list(Schedule(Workload(trace=trace, duration_s=3.5)).arrivals("measure"))) == 12


def test_the_first_rows_or_a_sample(trace):
    first = Schedule(Workload(trace=trace, requests=10))
    assert {first.lengths("measure", i)[0] for i in range(10)} == set(range(600, 610))
    sampled = [Schedule(Workload(trace=trace, requests=10, sample=True, seed=seed)) for seed in (1, 1, 2)]
    rows = [[of_seed.lengths("measure", i)[0] for i in range(10)] for of_seed in sampled]
    assert rows[0] == rows[1] != rows[2]
    assert len(set(rows[0])) == 10
    assert "10 of 50 requests drawn at random" in sampled[0].notes()[0]
    with pytest.raises(LoadError, match="has 50 requests, 51 were asked for"):
        Schedule(Workload(trace=trace, requests=51))


def test_a_trace_with_other_times_or_lengths(trace):
    work = Workload(trace=trace, rate=10.0, arrivals="constant", osl=3)
    assert list(Schedule(work).arrivals("measure")) == [i / 10 for i in range(50)]
    assert Schedule(work).lengths("measure", 0) == (600, 3)
    closed = Schedule(Workload(trace=trace, concurrency=3, duration_s=9))
    assert closed.count("measure") == 50


def test_what_is_clipped_is_counted(trace):
    schedule = Schedule(fitted(Workload(trace=trace), 640))
    assert all(isl + osl <= 640 for isl, osl in (schedule.lengths("measure", i) for i in range(50)))
    _, clipped = schedule.notes()
    over = [(600 + i) + (1 + i) - 640 for i in range(50)]
    assert clipped.startswith(f"{sum(cut > 0 for cut in over)} of 50 requests are longer than 640 tokens")
    assert f"{sum(cut for cut in over if cut > 0)} tokens of prompts and 0 of answers" in clipped
    assert len(Schedule(fitted(Workload(trace=trace), 4096)).notes()) == 1
    for loop in ({"concurrency": 3, "duration_s": 9}, {"rate": 5.0, "duration_s": 9}):
        _, clipped = Schedule(fitted(Workload(trace=trace, **loop), 640)).notes()
        counted = (
            "the first 50"
            if "concurrency" in loop
            else str(len(list(Schedule(Workload(trace=trace, **loop)).arrivals("measure"))))
        )
        assert f" of {counted} requests are longer" in clipped, "how many a closed loop sends in its time is not known before"
    assert fitted(Workload(rate=1, requests=1), 64).clip_tokens is None
    assert fitted(Workload(trace=trace, api="chat"), 640).clip_tokens == 576


@given(isl=st.integers(1, 10**7), osl=st.integers(1, 10**7), limit=st.integers(2, 10**6))
def test_clipping_leaves_something_of_both(isl, osl, limit):
    prompt, answer = (int(column[0]) for column in clip(np.array([isl]), np.array([osl]), limit))
    assert 1 <= prompt <= isl
    assert 1 <= answer <= osl
    assert prompt + answer == min(limit, isl + osl)
    assert prompt >= min(isl, limit // 2)
    assert answer >= min(osl, limit // 2)


def prompts(work, phase="measure", count=50):
    requests = Requests(Target("http://127.0.0.1:9", "m", 4096), work)
    return [json.loads(requests.body(phase, i))["prompt"] for i in range(count)]


def test_equal_hash_ids_are_equal_tokens(trace):
    measured = prompts(Workload(trace=trace))
    assert sorted(map(len, measured)) == [600 + i for i in range(50)]
    assert len({tuple(prompt[:512]) for prompt in measured}) == 1
    assert len({tuple(prompt[512:516]) for prompt in measured}) == 50
    assert prompts(Workload(trace=trace), "warmup", 1)[0][:8] != measured[0][:8]
    assert prompts(Workload(trace=trace, seed=1))[0][:8] != measured[0][:8]


def test_prompts_of_a_group_share_its_prefix_and_no_more():
    work = Workload(rate=1, requests=60, isl="uniform:40-90", prefix_groups=3, prefix_tokens=50)
    measured = prompts(work, count=60)
    long = [prompt for prompt in measured if len(prompt) >= 60]
    assert len({tuple(prompt[:50]) for prompt in long}) == 3
    assert len({tuple(prompt[50:54]) for prompt in long}) == len(long)
    prefixes = {tuple(prompt[:40]) for prompt in measured + prompts(work, "warmup")}
    assert len(prefixes) == 3
    assert [len(prompt) for prompt in measured] == [Schedule(work).lengths("measure", i)[0] for i in range(60)]


def test_empirical_lengths_are_those_given(trace, tmp_path):
    work = Workload(rate=1, requests=1, isl="empirical:5,5,5,900", osl=f"file:{trace}")
    drawn = [Schedule(work).lengths("measure", i) for i in range(2000)]
    assert {isl for isl, _ in drawn} == {5, 900}
    assert sum(isl == 5 for isl, _ in drawn) == pytest.approx(1500, abs=100)
    assert {osl for _, osl in drawn} == set(range(1, 51))


GOLDEN = {
    "plain": "b37e43b7e4be0195",
    "prefix": "38b399fd105b3bc9",
    "burst": "f424df47f962e30c",
    "trace": "817883bdfd8c8e60",
}


def digest(work):
    """Of all bodies and send times of the first 40 requests."""
    requests, sha = Requests(Target("http://127.0.0.1:9", "m", 4096), work), hashlib.sha256()
    for i in range(40):
        sha.update(requests.body("measure", i))
    if work.is_open_loop:
        sha.update(repr([round(at_s, 6) for at_s in islice(requests.schedule.arrivals("measure"), 40)]).encode())
    return sha.hexdigest()[:16]


@pytest.mark.parametrize("name", GOLDEN)
def test_same_seed_same_requests_byte_for_byte_on_every_machine(name, trace):
    fields = {
        "plain": {"isl": "lognormal:100,0.5", "osl": "normal:50,9", "rate": 3.0, "requests": 40},
        "prefix": {"isl": 90, "prefix_groups": 4, "prefix_tokens": 64, "concurrency": 4, "requests": 40},
        "burst": {"isl": "empirical:9,99", "arrivals": "burst:1-9@1/3", "duration_s": 60.0, "burstiness": 0.5},
        "trace": {"trace": trace, "requests": 40, "sample": True, "clip_tokens": 620},
    }[name]
    assert digest(Workload(seed=11, **fields)) == digest(Workload(seed=11, **fields)) == GOLDEN[name]
    assert digest(Workload(seed=12, **fields)) != GOLDEN[name]


@settings(max_examples=60)
@given(
    arrivals=st.sampled_from(["constant", "poisson", "gamma"]),
    rate=st.floats(0.5, 500),
    burstiness=st.floats(0.25, 8),
    seed=st.integers(0, 2**40),
    expected_count=st.integers(100, 3000),
)
def test_as_many_arrive_as_the_rate_says(arrivals, rate, burstiness, seed, expected_count):
    """The count of a renewal process over n mean gaps has mean n and variance n · (variation of a gap)², for large n."""
    duration_s = expected_count / rate
    work = Workload(arrivals=arrivals, rate=rate, burstiness=burstiness, duration_s=duration_s, seed=seed)
    times = np.array(list(Schedule(work).arrivals("measure")))
    shape = {"constant": np.inf, "poisson": 1.0, "gamma": burstiness}[arrivals]
    assert abs(len(times) - expected_count) <= 1 + 6.5 * (expected_count / shape) ** 0.5 + 1 / shape
    counted = Schedule(Workload(arrivals=arrivals, rate=rate, burstiness=burstiness, requests=expected_count, seed=seed))
    by_number = np.array(list(counted.arrivals("measure")))
    assert len(by_number) == expected_count
    common = min(len(times), expected_count)
    assert (by_number[:common] == times[:common]).all(), "an end by time or number is the only difference"


@settings(max_examples=40)
@given(
    fields=st.sampled_from(
        [
            {"rate": 7.0, "arrivals": "gamma", "burstiness": 0.4, "isl": "lognormal:90,1", "osl": "uniform:1-50"},
            {"concurrency": 3, "isl": "uniform:1-300", "prefix_groups": 3, "prefix_tokens": 40},
            {"rate": 5.0, "turns": "uniform:1-6", "think_s": "exponential:1", "isl": "uniform:1-90"},
            {"arrivals": "burst:9@1/3", "isl": 5},
        ]
    ),
    warmup_s=st.floats(0, 1e4),
    seed=st.integers(0, 2**40),
)
def test_a_warm_up_changes_nothing_of_what_is_measured(fields, warmup_s, seed):
    def measured(warm):
        work = Workload(**fields, requests=30, warmup_s=warm, seed=seed)
        requests = Requests(Target("http://127.0.0.1:9", "m", 4096), work)
        if warm:
            list(islice(requests.schedule.arrivals("warmup"), 50)) if work.is_open_loop else None
            assert requests.body("warmup", 3) != requests.body("measure", 3)
        starts = requests.schedule.starts("measure")
        times = list(requests.schedule.arrivals("measure")) if work.is_open_loop else []
        talks = [requests.schedule.turns("measure", number) for number in range(starts)]
        return times, talks, [requests.body("measure", n, len(turns) - 1) for n, turns in enumerate(talks)]

    assert measured(warmup_s) == measured(0.0)
