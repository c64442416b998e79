"""Conversations against a server that keeps every prompt: what must hold is worked out from its log and the rows alone."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace

import pytest

from labkit.load.target import VLLM

THINK_NS = 30_000_000
IDS = replace(VLLM, token_ids=True)


def talks(server, rows):
    """``{conversation: [(row, the server's log entry)]}`` in the order of the turns."""
    by_id = {truth.request_id: truth for truth in server.log}
    found = defaultdict(list)
    for row, _ in rows:
        found[row["conversation"]].append((row, by_id[row["sent_id"]]))
    for number, turns in found.items():
        turns.sort(key=lambda pair: pair[0]["turn"])
        assert [row["turn"] for row, _ in turns] == list(range(len(turns))), number
    return dict(sorted(found.items()))


def check_times(turns, think_ns=THINK_NS):
    """A later turn is due exactly its think time after the answer before has ended, and is not sent before that."""
    for (before, heard), (after, then) in itertools.pairwise(turns):
        assert after["scheduled_ns"] - before["end_ns"] == think_ns
        assert before["end_ns"] + think_ns <= after["sent_ns"] <= then.received_ns
        assert heard.writes[-1][0] < then.received_ns


def test_a_closed_loop_keeps_so_many_conversations_whose_prompts_hold_all_that_was_said(server, bench):
    work = {"turns": 4, "think_s": THINK_NS / 1e9, "concurrency": 3, "requests": 18, "isl": "uniform:5-20", "osl": "uniform:2-6"}
    result, rows = bench.measure(server.url, "plain?ttft=5&itl=2", **work)
    assert result.counts == {"ok": 18}
    assert result.unsent == 0
    assert [row["index"] for row, _ in rows] == list(range(18))
    found = talks(server, rows)
    assert [len(turns) for turns in found.values()] == [4, 4, 4, 4, 2]
    first = itertools.count()
    for turns in found.values():
        check_times(turns)
        for row, truth in turns:
            assert row["index"] == next(first)  # one conversation behind the other
            assert row["turns"] == len(turns)
            assert row["isl"] == row["prompt_tokens"] == len(truth.prompt)
            assert row["osl"] == truth.asked
        for (before, heard), (after, then) in itertools.pairwise(turns):
            assert then.prompt[: len(heard.prompt)] == heard.prompt
            assert 5 <= after["isl"] - before["isl"] - before["osl"] <= 20
    assert len({tuple(turns[0][1].prompt[:4]) for turns in found.values()}) == 5
    edges = [(turns[0][0]["scheduled_ns"], 1) for turns in found.values()]
    edges += [(turns[-1][0]["end_ns"], -1) for turns in found.values()]
    alive = list(itertools.accumulate(step for _, step in sorted(edges)))
    assert max(alive) == 3


def test_an_open_loop_starts_conversations_on_the_clock_whatever_the_others_do(server, bench):
    work = {"turns": "empirical:1,2,3", "think_s": "exponential:0.05", "rate": 50.0, "arrivals": "constant", "osl": 3}
    work |= {"concurrency": None, "requests": 30, "seed": 5}
    (result, rows), (_, again) = (bench.measure(server.url, "plain?ttft=150&itl=1", **work) for _ in range(2))
    found = talks(server, rows)
    assert {len(turns) for turns in found.values()} == {1, 2, 3}
    for number, turns in found.items():
        due_ns = turns[0][0]["scheduled_ns"] - result.measure_ns
        assert due_ns / 1e6 == pytest.approx(number * 20.0, abs=1e-3)
        assert turns[0][0]["sent_ns"] >= turns[0][0]["scheduled_ns"]
    assert result.stop_ns >= max(row["sent_ns"] for row, _ in rows)

    def pauses(rows):
        return [
            after["scheduled_ns"] - before["end_ns"]
            for turns in talks(server, rows).values()
            for (before, _), (after, _) in itertools.pairwise(turns)
        ]

    assert pauses(rows) == pauses(again)
    assert min(pauses(rows)) >= 0
    assert len(set(pauses(rows))) == len(pauses(rows)) > 5


def test_a_failed_turn_ends_its_conversation_and_what_it_leaves_out_is_counted(server, bench):
    work = {"turns": 5, "isl": 10, "osl": 5, "concurrency": 2, "requests": 20}
    result, rows = bench.measure(server.url, "plain?ttft=2&itl=0&most=45", **work)
    assert result.counts == {"ok": 12, "http_error": 4}  # prompts of 10, 25, 40, and 55 which is refused
    assert result.unsent == 4
    for turns in talks(server, rows).values():
        assert [(row["outcome"], row["isl"], row["turns"]) for row, _ in turns] == [
            *(("ok", isl, 5) for isl in (10, 25, 40)),
            ("http_error", 55, 5),
        ]
    assert "a prompt of 55 is too long" in rows[3][0]["reason"]
    assert len(server.log) >= 16


def test_what_outgrows_the_model_is_not_sent(server, bench):
    work = {"turns": "empirical:2,6", "isl": 10, "osl": 5, "concurrency": 2, "requests": 15, "clip_tokens": 62, "seed": 3}
    result, rows = bench.measure(server.url, "plain?ttft=2&itl=0", **work)
    assert result.counts == {"ok": 15}  # 10 + 5 a turn: the fourth ends at 60
    assert result.unsent == 0
    found = talks(server, rows)
    *whole, _ = found.values()
    assert {len(turns) for turns in whole} == {2, 4}
    assert all(row["turns"] == len(turns) for turns in whole for row, _ in turns)
    assert max(row["isl"] + row["osl"] for row, _ in rows) <= 62


def test_chat_alternates_the_roles_and_its_words(server, bench):
    _, rows = bench.measure(server.url, "plain?ttft=2&itl=0", turns=3, isl=7, osl=4, concurrency=1, requests=6, api="chat")
    for turns in talks(server, rows).values():
        for row, truth in turns:
            roles = [message["role"] for message in truth.prompt]
            assert roles == ["user", "assistant"] * row["turn"] + ["user"]
            assert [len(message["content"].split()) for message in truth.prompt] == [7, 4] * row["turn"] + [7]
        assert turns[2][1].prompt[:3] == turns[1][1].prompt
        assert len({message["content"] for message in turns[2][1].prompt}) == 5


def test_a_served_history_is_what_the_server_answered(server, bench):
    work = {"turns": 3, "isl": 7, "osl": 4, "concurrency": 2, "requests": 6, "history": "served"}
    result, rows = bench.measure(server.url, "tokenids?ttft=2&itl=0", dialect=IDS, **work)
    assert result.counts == {"ok": 6}
    for turns in talks(server, rows).values():
        for (_, heard), (after, then) in itertools.pairwise(turns):
            assert len(heard.answer) == 4
            assert then.prompt[: len(heard.prompt) + 4] == heard.prompt + heard.answer
            assert after["isl"] == len(then.prompt)
    _, rows = bench.measure(server.url, "reasoning?ttft=2&itl=0", api="chat", **work)
    for turns in talks(server, rows).values():
        answers = [message["content"] for message in turns[2][1].prompt if message["role"] == "assistant"]
        assert answers == ["wörd " * 2] * 2  # without what was thought aloud


def test_an_answer_that_nobody_can_tell_ends_its_conversation(server, bench):
    work = {"turns": 3, "isl": 7, "osl": 4, "concurrency": 1, "requests": 6, "history": "served"}
    result, rows = bench.measure(server.url, "plain?ttft=2&itl=0", dialect=IDS, **work)
    assert result.counts == {"ok": 2}
    assert result.unsent == 4
    assert [row["turn"] for row, _ in rows] == [0, 0]


@pytest.mark.parametrize(("load", "mixed"), [({"concurrency": 3}, False), ({"concurrency": None, "rate": 100.0}, True)])
def test_conversations_of_the_warm_up_are_none_of_the_measured(server, bench, load, mixed):
    work = {"turns": 300, "think_s": 0.01, "isl": 3, "osl": 2, "warmup_s": 0.4, "duration_s": 0.6, "requests": None, **load}
    result, rows = bench.measure(server.url, "plain?ttft=2&itl=0", **work)
    warm = [row for row, _ in rows if row["phase"] == "warmup"]
    measured = [row for row, _ in rows if row["phase"] == "measure"]
    assert all(row["conversation"] < 0 and row["index"] < 0 for row in warm)
    assert all(row["conversation"] >= 0 and row["scheduled_ns"] >= result.measure_ns for row in measured)
    assert all(row["scheduled_ns"] < result.stop_ns == result.measure_ns + 600_000_000 for row, _ in rows)
    assert result.unsent == 0
    assert any(row["scheduled_ns"] >= result.measure_ns for row in warm) == mixed
    assert {row["turn"] for row in measured} > {0, 1}
    firsts = [row for row in measured if row["turn"] == 0]
    assert len(firsts) == 3 if not mixed else len(firsts) > 20


def test_a_slot_waits_while_its_reader_thinks(server, bench):
    """The end comes while all think: nobody else may begin in their place."""
    _, rows = bench.measure(
        server.url, "plain?ttft=2&itl=0", turns=2, think_s=60.0, osl=2, concurrency=3, requests=None, duration_s=0.4
    )
    assert [(row["conversation"], row["turn"]) for row, _ in rows] == [(0, 0), (1, 0), (2, 0)]
