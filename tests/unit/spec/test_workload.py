"""Workloads and lengths: round trips, and one message for each thing that cannot be meant."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.errors import SpecError
from labkit.spec.workload import Lengths, Workload

whole = st.integers(1, 10_000_000)
decimals = st.floats(1e-9, 1e9)
lengths = st.one_of(
    whole.map(str),
    st.tuples(whole, whole).map(lambda ab: f"uniform:{min(ab)}-{max(ab)}"),
    st.tuples(whole, decimals).map(lambda ab: f"normal:{ab[0]},{ab[1]:.17f}"),
    st.tuples(whole, decimals).map(lambda ab: f"lognormal:{ab[0]},{ab[1]:.17f}"),
    st.lists(whole, min_size=1, max_size=9).map(lambda values: f"empirical:{','.join(map(str, values))}"),
)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    positive = st.floats(0.001, 1e6)
    load: dict[str, Any] = draw(st.one_of(positive.map(lambda r: {"rate": r}), whole.map(lambda c: {"concurrency": c})))
    extent: dict[str, Any] = draw(st.one_of(positive.map(lambda s: {"duration_s": s}), whole.map(lambda n: {"requests": n})))
    return Workload(
        isl=draw(lengths),
        osl=draw(lengths),
        arrivals=draw(st.sampled_from(["constant", "poisson", "gamma"])),
        burstiness=draw(positive),
        warmup_s=draw(st.floats(0, 1e4)),
        warmup=draw(st.sampled_from(["given", "auto"])),
        seed=draw(st.integers(0, 2**63)),
        api=draw(st.sampled_from(["completions", "chat"])),
        timeout_s=draw(positive),
        **load,
        **extent,
    )


@given(text=lengths)
def test_lengths_are_written_as_they_are_read(text: str):
    parsed = Lengths.parse(text)
    assert Lengths.parse(str(parsed)) == parsed
    assert Lengths.parse(parsed) is parsed
    assert parsed.typical >= 1


@pytest.mark.parametrize(
    ("given_", "expected", "typical"),
    [
        (512, Lengths("fixed", 512), 512),
        ("512", Lengths("fixed", 512), 512),
        ("uniform:100-900", Lengths("uniform", 100, 900), 500),
        ("uniform:100,900", Lengths("uniform", 100, 900), 500),
        (1_048_576, Lengths("fixed", 1_048_576), 1_048_576),
        ("normal: 512, 64.5", Lengths("normal", 512, 64.5), 512),
        ("lognormal:512,0.5", Lengths("lognormal", 512, 0.5), 512),
        ("empirical:100, 100,400", Lengths("empirical", values=(100, 100, 400)), 200),
        ("file:some lengths.txt", Lengths("file", path="some lengths.txt"), None),
    ],
)
def test_spellings_of_lengths(given_: str | int, expected: Lengths, typical: float | None):
    assert Lengths.parse(given_) == Lengths.parse(str(expected)) == expected
    assert expected.typical == typical


@pytest.mark.parametrize(
    "text",
    [
        *("", "many", "0", 0, -5, "1.5", "1.2.3", "512-900", "fixed:512", ".", True, "zipf:1,2", "normal:512"),
        *("uniform:100", "uniform:900-100", "uniform:1.5-3", "uniform:0-10"),
        *("10000001", "uniform:1-10000001", "normal:10000001,1", f"normal:{'9' * 400},1", f"normal:5,{'9' * 400}"),
        *("empirical:", "empirical:0", "empirical:1,,2", "empirical:1.5", "empirical:99999999", "file:"),
    ],
)
def test_lengths_that_cannot_be_meant_are_named(text: Any):
    with pytest.raises(SpecError) as caught:
        Lengths.parse(text)
    assert repr(text) in caught.value.what
    assert "uniform:100-900" in caught.value.remedy


@given(workload=workloads())
def test_a_workload_survives_json(workload: Workload):
    data = json.loads(json.dumps(workload.to_dict()))
    assert Workload.from_dict(data) == workload


@given(workload=workloads(), seed=st.integers(0, 1000))
def test_another_seed_changes_nothing_else(workload: Workload, seed: int):
    assert {**workload.with_seed(seed).to_dict(), "seed": workload.seed} == workload.to_dict()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"requests": 10}, "neither rate nor concurrency"),
        ({"rate": 1, "concurrency": 2, "requests": 10}, "both rate and concurrency"),
        ({"rate": 1}, "neither duration_s nor requests"),
        ({"rate": 1, "duration_s": 5, "requests": 10}, "both duration_s and requests"),
        ({"rate": 0, "requests": 10}, "rate = 0 is not a positive number"),
        ({"rate": math.inf, "requests": 10}, "rate = inf"),
        ({"rate": math.nan, "requests": 10}, "rate = nan"),
        ({"rate": "2", "requests": 10}, "rate = '2'"),
        ({"rate": True, "requests": 10}, "rate = True"),
        ({"concurrency": 1.5, "requests": 10}, "concurrency = 1.5 is not a whole number"),
        ({"concurrency": 2, "requests": 2.0}, "requests = 2.0 is not a whole number"),
        ({"rate": 1, "requests": 10, "warmup_s": -1}, "warmup_s = -1"),
        ({"rate": 1, "requests": 10, "warmup_s": "auto"}, "warmup_s = 'auto' is not a number of seconds"),
        ({"rate": 1, "requests": 10, "warmup": "none"}, "unknown warmup 'none'"),
        ({"rate": 1, "requests": 10, "timeout_s": 0}, "timeout_s = 0"),
        ({"rate": 1, "requests": 10, "burstiness": -2}, "burstiness = -2"),
        ({"rate": 1, "requests": 10, "arrivals": "bursty"}, "unknown arrivals 'bursty'"),
        ({"rate": 1, "requests": 10, "api": "embeddings"}, "unknown api 'embeddings'"),
        ({"rate": 1, "requests": 10, "seed": -1}, "seed = -1 is negative"),
        ({"rate": 1, "requests": 10, "seed": 1.0}, "seed = 1.0 is not a whole number"),
        ({"rate": 1, "requests": 10, "isl": "long"}, "unknown token length 'long'"),
        ({"rate": 1, "requests": 10, "isl": "trace"}, "has none"),
        ({"requests": 10, "arrivals": "trace"}, "has none"),
        ({"rate": 1, "requests": 10, "arrivals": 3}, "unknown arrivals 3"),
        ({"rate": 1, "requests": 10, "arrivals": "step:0=1"}, "rate = 1 and arrivals 'step:0=1'"),
        ({"concurrency": 1, "requests": 10, "arrivals": "step:0=1"}, "concurrency = 1 and arrivals"),
        ({"requests": 10, "arrivals": "ramp:1-8"}, "'ramp:1-8' have no end"),
        ({"requests": 10, "arrivals": "step:0=1,9=0"}, "have no end"),
        ({"duration_s": 10, "arrivals": "burst:2@9/3"}, "'burst:2@9/3' describe no rate"),
        ({"rate": 1, "requests": 10, "sample": True}, "no trace and number of requests to draw"),
        ({"trace": "t", "sample": True}, "no trace and number of requests to draw"),
        ({"trace": "t", "sample": 1, "requests": 10}, "sample = 1"),
        ({"trace": "t", "rate": 1, "time_scale": 2}, "time_scale = 2 scales nothing"),
        ({"trace": "t", "time_scale": 0}, "time_scale = 0"),
        ({"trace": "t", "duration_s": 1, "requests": 1}, "both duration_s and requests"),
        ({"trace": "t", "rate": 1, "concurrency": 1}, "both rate and concurrency"),
        ({"trace": "t", "prefix_groups": 1, "prefix_tokens": 1}, "both a trace and prefix_groups"),
        ({"trace": "", "rate": 1}, "trace = ''"),
        ({"trace": 5}, "trace = 5"),
        ({"rate": 1, "requests": 10, "prefix_groups": 1}, "prefix_groups = 1 with prefix_tokens = 0"),
        ({"rate": 1, "requests": 10, "prefix_groups": -1, "prefix_tokens": 5}, "prefix_groups = -1"),
        ({"rate": 1, "requests": 10, "clip_tokens": 1}, "clip_tokens = 1"),
        ({"rate": 1, "requests": 10, "clip_tokens": 9.5}, "clip_tokens = 9.5"),
        *(
            ({"rate": 1, "requests": 10, "turns": bad}, f"unknown number of turns {bad!r}")
            for bad in (
                0,
                1001,
                1.5,
                True,
                "many",
                "uniform:2-1001",
                "normal:1001,1",
                "file:a",
                "trace",
                "empirical:1,1001",
            )
        ),
        ({"rate": 1, "requests": 10, "turns": 2, "think_s": -1}, "unknown duration -1"),
        ({"rate": 1, "requests": 10, "think_s": 1}, "think_s = 1 and no turns"),
        ({"rate": 1, "requests": 10, "history": "served"}, "history = 'served' and no turns"),
        ({"rate": 1, "requests": 10, "turns": 2, "history": "mine"}, "unknown history 'mine'"),
        ({"trace": "t", "turns": 2}, "both a trace and turns"),
        ({"rate": 1, "requests": 10, "turns": 2, "warmup": "auto"}, "both turns and warmup = 'auto'"),
    ],
)
def test_what_cannot_be_meant_is_named(values: dict[str, Any], says: str):
    with pytest.raises(SpecError) as caught:
        Workload(**values)
    assert says in caught.value.what
    assert caught.value.remedy


def test_an_unknown_parameter_is_named_with_the_known_ones():
    with pytest.raises(SpecError, match="unknown workload parameter 'qps'") as caught:
        Workload.from_dict({"qps": 3, "requests": 1})
    assert "rate" in caught.value.remedy


@pytest.mark.parametrize(
    ("workload", "text"),
    [
        (Workload(rate=1.5, duration_s=60, osl=32), "ISL 512, OSL 32, 1.5 req/s poisson, 60 s, seed 0"),
        (
            Workload(rate=2, requests=10, arrivals="gamma", burstiness=0.5, seed=3),
            "ISL 512, OSL 128, 2 req/s gamma (burstiness 0.5), 10 requests, seed 3",
        ),
        (
            Workload(trace="data/hour.jsonl", time_scale=0.5, osl=1, requests=9),
            "trace hour.jsonl at 0.5 of its times, OSL 1, 9 requests, seed 0",
        ),
        (Workload(arrivals="ramp: 1-8.0", duration_s=60), "ISL 512, OSL 128, ramp:1-8 req/s, 60 s, seed 0"),
        (Workload(concurrency=8, requests=100), "ISL 512, OSL 128, 8 concurrent, 100 requests, seed 0"),
        (
            Workload(turns=4, concurrency=8, requests=100),
            "ISL 512, OSL 128, 4 turns, 8 concurrent conversations, 100 requests, seed 0",
        ),
        (
            Workload(turns="uniform:2-6", think_s=1.5, rate=2, duration_s=60, history="served"),
            "ISL 512, OSL 128, uniform:2-6 turns, think 1.5 s, served history, 2 conversations/s poisson, 60 s, seed 0",
        ),
        (
            Workload(turns=2, arrivals="ramp:1-8", duration_s=60),
            "ISL 512, OSL 128, 2 turns, ramp:1-8 conversations/s, 60 s, seed 0",
        ),
    ],
)
def test_a_workload_says_what_it_asks(workload: Workload, text: str):
    assert str(workload) == text
    assert workload.is_open_loop == (workload.concurrency is None)


@pytest.mark.parametrize(
    "fields",
    [
        {"trace": "hour.jsonl"},
        {"trace": Path("hour.jsonl"), "requests": 5, "sample": True, "time_scale": 0.25},
        {"trace": "hour.jsonl", "rate": 2.0, "arrivals": "constant", "osl": 8, "clip_tokens": 2048},
        {"trace": "hour.jsonl", "concurrency": 2, "duration_s": 9.0},
        {"trace": "hour.jsonl", "arrivals": "burst:1-2@3/9"},
        {"arrivals": "step:0=1,30=4.5", "requests": 9, "isl": "file:lengths.txt"},
        {"concurrency": 2, "requests": 9, "prefix_groups": 4, "prefix_tokens": 100, "isl": "empirical:5,9"},
        {"concurrency": 2, "requests": 9, "turns": 4},
        {"rate": 2, "requests": 9, "turns": "lognormal:4,0.5", "think_s": "exponential:1.5", "history": "served", "api": "chat"},
    ],
)
def test_workloads_of_files_rates_and_prefixes_survive_json(fields: dict[str, Any]):
    workload = Workload(**fields)
    assert Workload.from_dict(json.loads(json.dumps(workload.to_dict()))) == workload


def test_the_longest_request_is_known_where_no_file_holds_it():
    many = {"rate": 1, "requests": 1}
    assert Workload(**many).longest == 640
    assert Workload(**many, isl="empirical:7,900,3", osl=100).longest == 1000
    assert Workload(**many, isl="lognormal:512,0.5", clip_tokens=2048).longest == 2048
    assert Workload(**many, isl=100, clip_tokens=2048).longest == 228
    assert Workload(trace="hour.jsonl").longest is None
    assert Workload(**many, isl="file:lengths.txt").longest is None
    assert Workload(trace="hour.jsonl", clip_tokens=4096).longest == 4096
    assert Workload(**many, isl="lognormal:512,1000000", osl="normal:5,9999999").longest == 20_000_000
    assert Workload(**many, turns="uniform:2-6").longest == 6 * 640
    assert Workload(**many, turns="lognormal:400,2").longest == 1000 * 640
    assert Workload(**many, turns=3, api="chat").longest == 3 * 640 + 2 * 16
    assert Workload(**many, turns=6, clip_tokens=2048).longest == 2048
    assert Workload(**many, turns=6, isl="file:lengths.txt").longest is None
