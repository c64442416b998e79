"""The turns of conversations: what is drawn, how it is numbered, where it ends."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LoadError
from labkit.load.draws import Draw, draw_seconds, rng
from labkit.load.schedule import Schedule
from labkit.load.served import fitted
from labkit.load.target import OPENAI, VLLM, Requests, Target
from labkit.spec import Durations, Workload

TARGET = Target("http://127.0.0.1:9", "m", 4096)


def talks(count, phase="measure", **fields):
    schedule = Schedule(Workload(**{"concurrency": 4, "duration_s": 1.0, **fields}))
    return [schedule.turns(phase, number) for number in range(count)]


works = st.fixed_dictionaries(
    {
        "turns": st.sampled_from(["1", "4", "uniform:1-7", "lognormal:3,0.8", "empirical:1,1,20"]),
        "isl": st.sampled_from(["7", "uniform:1-300", "lognormal:40,1"]),
        "osl": st.sampled_from(["3", "uniform:1-90"]),
        "think_s": st.sampled_from(["0", "exponential:2", "uniform:1-3"]),
        "seed": st.integers(0, 2**40),
        "api": st.sampled_from(["completions", "chat"]),
    }
)


@settings(max_examples=25)
@given(work=works, phase=st.sampled_from(["measure", "warmup"]))
def test_prompts_grow_by_what_was_said_and_requests_are_numbered_one_conversation_after_the_other(work, phase):
    index = 0
    for turns in talks(600, phase, **work):
        said = 0
        for at, turn in enumerate(turns):
            assert turn.index == index
            assert turn.isl == said + turn.new
            assert (turn.think_ns == 0) or at
            said, index = said + turn.new + turn.osl, index + 1


@settings(max_examples=25)
@given(work=works, limit=st.integers(2, 700), requests=st.integers(1, 1500))
def test_a_limit_or_a_number_ends_conversations_and_changes_nothing_before(work, limit, requests):
    """However long the model and however many requests: the same conversations, as far as they go."""
    whole = talks(300, **work)
    schedule = Schedule(Workload(**work, concurrency=4, requests=requests, clip_tokens=limit))
    starts = schedule.starts("measure")
    sent = [schedule.turns("measure", number) for number in range(starts)]
    assert [turn.index for turns in sent for turn in turns] == list(range(requests))
    assert schedule.turns("measure", starts) == ()
    room = 16 if work["api"] == "chat" else 0
    for turns, all_turns in zip(sent[:-1], whole, strict=False):
        assert 1 <= len(turns) <= len(all_turns)
        for at, (turn, as_drawn) in enumerate(zip(turns, all_turns, strict=False)):
            assert turn.isl + turn.osl <= limit
            if not at and as_drawn.isl + as_drawn.osl > limit:
                break  # the first turn is clipped as a request of its own would be
            assert (turn.isl, turn.new, turn.osl, turn.think_ns) == (as_drawn.isl, as_drawn.new, as_drawn.osl, as_drawn.think_ns)
        else:
            if len(turns) < len(all_turns):
                beyond = all_turns[len(turns)]
                assert beyond.isl + beyond.osl + room * len(turns) > limit


def test_what_is_left_out_is_said():
    work = Workload(turns="empirical:2,6", isl=10, osl=5, concurrency=8, requests=15, clip_tokens=62, seed=3)
    schedule = Schedule(work)
    drawn = [len(turns) for turns in talks(schedule.starts("measure"), turns="empirical:2,6", isl=10, osl=5, seed=3)]
    counted, clipped = schedule.notes()
    assert counted == f"the 15 requests are the turns of {len(drawn)} conversations, fewer than the 8 at a time"
    long = drawn.count(6)
    assert clipped == f"{long} of {len(drawn)} conversations would outgrow 62 tokens and end before: {2 * long} turns left out"
    (first,) = Schedule(Workload(turns=3, isl=10, osl=5, concurrency=1, duration_s=9, clip_tokens=15)).notes()[:1]
    assert first.startswith("10000 of the first 10000 conversations would outgrow 15 tokens and end before: 20000 turns")
    *_, cut = Schedule(Workload(turns=1, isl=20, osl=5, concurrency=1, requests=4, clip_tokens=15)).notes()
    assert cut.endswith("clipped: 40 tokens of prompts and 0 of answers left out")
    (served,) = Schedule(Workload(turns=3, concurrency=1, duration_s=9, history="served")).notes()
    assert "not the same byte for byte" in served


def test_a_model_shorter_than_a_conversation_clips_it_and_others_do_not():
    work = Workload(turns=10, isl=100, osl=100, concurrency=1, requests=10)
    assert work.longest == 2000
    assert fitted(work, 2000) is work
    assert fitted(work, None) is work
    assert fitted(work, 1999).clip_tokens == 1999
    assert fitted(fitted(work, 1500), 1999).clip_tokens == 1500
    chat = Workload(turns=10, isl=100, osl=100, concurrency=1, requests=10, api="chat")
    assert chat.longest == 2000 + 9 * 16
    assert fitted(chat, 2144 + 64) is chat
    assert fitted(chat, 2144 + 63).clip_tokens == 2143


def test_arrivals_are_of_conversations_and_gaps_of_requests():
    schedule = Schedule(Workload(turns=5, rate=2.0, arrivals="constant", requests=52))
    assert list(schedule.arrivals("measure")) == [n / 2 for n in range(11)]
    assert (schedule.count("measure"), schedule.starts("measure")) == (52, 11)
    assert schedule.gap_s == pytest.approx(0.5 * 11 / 52)


@pytest.mark.parametrize(
    ("text", "mean", "deviation"),
    [
        ("1.5", 1.5, 0),
        ("uniform:1-3", 2, 0.577),
        ("exponential:2", 2, 2),
        ("normal:5,0.5", 5, 0.5),
        ("empirical:1,1,4", 2, 1.414),
    ],
)
def test_durations_follow_their_distribution(text, mean, deviation):
    drawn = draw_seconds(Durations.parse(text), rng(0, Draw.THINK, "measure", 0), 20_000)
    assert drawn.mean() == pytest.approx(mean, rel=0.03)
    assert drawn.std() == pytest.approx(deviation, rel=0.03)


def test_long_tails_of_durations_are_cut():
    drawn = draw_seconds(Durations.parse("lognormal:2,0.5"), rng(0, Draw.THINK, "measure", 0), 20_000)
    assert np.median(drawn) == pytest.approx(2, rel=0.03)
    assert draw_seconds(Durations.parse("lognormal:80000,5"), rng(0, Draw.THINK, "measure", 0), 500).max() == 86_400
    assert draw_seconds(Durations.parse("normal:1,9"), rng(0, Draw.THINK, "measure", 0), 500).min() == 0


def test_turns_of_a_conversation_begin_with_its_shared_prefix_once():
    work = Workload(turns=3, isl=20, osl=4, concurrency=1, requests=60, prefix_groups=2, prefix_tokens=12)
    requests = Requests(TARGET, work)
    prompts = [[json.loads(requests.body("measure", number, turn))["prompt"] for turn in range(3)] for number in range(20)]
    assert {len(turns[2]) for turns in prompts} == {3 * 20 + 2 * 4}
    beginnings = {tuple(turns[0][:12]) for turns in prompts}
    assert len(beginnings) == 2
    for turns in prompts:
        assert turns[2][:44] == turns[1]
        assert turns[1][:20] == turns[0]
        assert tuple(turns[2][24:36]) not in beginnings
    assert len({tuple(turns[2][at : at + 4]) for turns in prompts for at in (12, 20, 24, 44, 48)}) == 100


def test_a_served_history_needs_somebody_who_knows_the_tokens():
    work = Workload(turns=2, concurrency=1, requests=2, history="served")
    with pytest.raises(LoadError, match="needs the tokens of the answers"):
        Requests(Target("http://127.0.0.1:9", "m", 4096, dialect=OPENAI), work)
    assert VLLM.token_ids is False
    assert Requests(TARGET, Workload(turns=2, concurrency=1, requests=2, history="served", api="chat")).served


def test_same_seed_same_conversations_on_every_machine():
    sha = hashlib.sha256()
    fields = {"turns": "uniform:1-5", "think_s": "lognormal:2,0.5", "isl": "uniform:5-90", "osl": "uniform:1-40", "seed": 11}
    requests = Requests(TARGET, Workload(**fields, rate=3.0, requests=60))
    for number in range(requests.schedule.starts("measure")):
        for turn, drawn in enumerate(requests.schedule.turns("measure", number)):
            sha.update(requests.body("measure", number, turn))
            sha.update(repr(round(drawn.think_ns / 1e9, 3)).encode())
    assert sha.hexdigest()[:16] == "27389bbe28d7bbaa"
