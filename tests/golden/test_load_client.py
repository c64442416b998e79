"""The load client against a server that knows the truth.

What is expected is worked out here in plain Python from the server's own log; nothing of labkit.measure takes part. The client
cannot see a chunk before the server wrote it, so every difference is one-sided; how late it may be is generous, because
the machine may be busy.
"""

from __future__ import annotations

import itertools
import statistics

import pytest

from labkit.lab.load_agent import LoadAgent
from labkit.spec import Workload

LATE_MS = 250.0  # a read may be stamped so much after the write on a busy machine
EARLY_MS = 0.05  # the kernel's stamp is moved from one clock to another
OSL = 12
#: behaviour → (outcome, tokens in each chunk)
STREAMS = {
    "plain": ("ok", [1] * OSL),
    "onechunk": ("ok", [OSL]),
    "bundled": ("ok", [4] * (OSL // 4)),
    "emptyfirst": ("ok", [0] + [1] * OSL),
    "reasoning": ("ok", [1] * OSL),
    "notext": ("ok", [1] * OSL),
    "nousage": ("ok", [None] * OSL),
    "lastusage": ("ok", [None] * OSL),
    "bytes": ("ok", [1] * OSL),
    "crlf": ("ok", [1] * OSL),
    "close": ("ok", [1] * OSL),
    "never_done_close": ("ok", [1] * OSL),
    "barelydone": ("ok", [1] * OSL),
    "cut": ("cut", [1] * (OSL // 2)),
    "nodone": ("cut", [1] * OSL),
    "short": ("short", [1] * (OSL - 2)),
    "badjson": ("bad_stream", [1] * (OSL // 2)),
    "badutf8": ("bad_stream", [1] * (OSL // 2)),
    "inerror": ("http_error", [1] * (OSL // 2)),
}


def truths(server, rows):
    """The server's log entry of each row, matched by the id that the client sent."""
    by_id = {truth.request_id: truth for truth in server.log}
    return [by_id[row["sent_id"]] for row, _ in rows]


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("behaviour", sorted(STREAMS))
def test_tokens_times_and_outcomes_agree_with_the_server(server, bench, behaviour, api):
    outcome, tokens = STREAMS[behaviour]
    result, rows = bench.measure(server.url, f"{behaviour}?ttft=15&itl=3", api=api)
    assert result.counts == {outcome: 6}
    assert [row["index"] for row, _ in rows] == list(range(6))
    for (row, chunks), truth in zip(rows, truths(server, rows), strict=True):
        assert row["outcome"] == outcome
        assert (row["reason"] is None) == (outcome == "ok")
        assert [chunk["tokens"] for chunk in chunks] == tokens
        writes = [at for at, count in truth.writes if count or behaviour == "emptyfirst"][: len(chunks)]
        assert len(writes) == len(chunks)
        assert row["sent_ns"] <= truth.received_ns
        for chunk, written in zip(chunks, writes, strict=True):
            assert -EARLY_MS <= (chunk["t_ns"] - written) / 1e6 < LATE_MS
        if outcome == "ok" and behaviour != "nousage":
            assert (row["output_tokens"], row["tokens_from"]) == (OSL, "usage")
            assert row["prompt_tokens"] == (21 if api == "completions" else 7)
        assert truth.prompt_tokens == (21 if api == "completions" else None)
        assert row["scheduled_ns"] <= row["sent_ns"] <= row["end_ns"] <= result.end_ns


def test_first_token_and_gaps_are_those_that_the_server_made(server, bench):
    _, rows = bench.measure(server.url, "plain?ttft=40&itl=10", requests=30, concurrency=5, osl=20)
    client_ttft, server_ttft, client_gaps, server_gaps = [], [], [], []
    for (row, chunks), truth in zip(rows, truths(server, rows), strict=True):
        written = [at for at, count in truth.writes if count]
        client_ttft.append(chunks[0]["t_ns"] - row["sent_ns"])
        server_ttft.append(written[0] - row["sent_ns"])
        client_gaps += [b["t_ns"] - a["t_ns"] for a, b in itertools.pairwise(chunks)]
        server_gaps += [b - a for a, b in itertools.pairwise(written)]
    assert len(client_gaps) == len(server_gaps) == 30 * 19
    assert -EARLY_MS * 1e6 <= statistics.median(client_ttft) - statistics.median(server_ttft) < 20e6
    assert abs(statistics.median(client_gaps) - statistics.median(server_gaps)) < 2e6


def test_text_flags_follow_the_text(server, bench):
    for behaviour, expected in (("plain", {True}), ("notext", {False}), ("reasoning", {True}), ("emptyfirst", {True, False})):
        _, rows = bench.measure(server.url, f"{behaviour}?ttft=1&itl=0", requests=1, concurrency=1, api="chat")
        assert {chunk["text"] for chunk in rows[0][1]} == expected


@pytest.mark.parametrize("status", [400, 500, 503])
def test_http_errors_are_records_with_the_servers_words(server, bench, status):
    _, rows = bench.measure(server.url, f"http{status}", requests=2, concurrency=2)
    for row, chunks in rows:
        assert (row["outcome"], row["http_status"], chunks) == ("http_error", status, [])
        assert f"told to answer {status}" in row["reason"]


@pytest.mark.parametrize(
    ("behaviour", "outcome", "reason"),
    [
        ("garbage", "bad_stream", "no HTTP status line"),
        ("json", "bad_stream", "no event stream but application/json"),
        ("silent", "timeout", "no end within 0.3 s"),
        ("hang", "timeout", "no end within 0.3 s"),
    ],
)
def test_servers_that_do_not_stream(server, bench, behaviour, outcome, reason):
    _, rows = bench.measure(server.url, behaviour, requests=2, concurrency=2, timeout_s=0.3 if outcome == "timeout" else 20.0)
    assert [(row["outcome"], chunks) for row, chunks in rows] == [(outcome, [])] * 2
    assert all(reason in row["reason"] for row, _ in rows)


def test_a_whole_answer_at_once_has_one_instant(server, bench):
    _, rows = bench.measure(server.url, "length?ttft=2&itl=1")
    for (row, chunks), truth in zip(rows, truths(server, rows), strict=True):
        assert row["outcome"] == "ok"
        assert [chunk["tokens"] for chunk in chunks] == [1] * OSL
        assert all(chunk["t_ns"] >= truth.writes[-1][0] - EARLY_MS * 1e6 for chunk in chunks)


def test_a_slow_stream_that_runs_into_the_limit_keeps_its_chunks(server, bench):
    _, rows = bench.measure(server.url, "plain?ttft=5&itl=200", requests=1, concurrency=1, timeout_s=0.9)
    row, chunks = rows[0]
    assert row["outcome"] == "timeout"
    assert 1 <= len(chunks) < OSL
    assert row["output_tokens"] == len(chunks)


def test_nobody_listening_is_refused(bench):
    _, rows = bench.measure("http://127.0.0.1:1", "plain", requests=2, concurrency=1)
    assert [(row["outcome"], row["sent_ns"]) for row, _ in rows] == [("refused", None)] * 2
    assert all("cannot connect" in row["reason"] for row, _ in rows)


def test_a_fresh_connection_for_every_request(server, bench):
    _, rows = bench.measure(server.url, "plain?ttft=1&itl=0", requests=8, concurrency=2)
    assert len({truth.connection for truth in truths(server, rows)}) == 8


def test_open_loop_sends_on_schedule_whatever_the_answers_do(server, bench):
    work = {"rate": 100.0, "arrivals": "constant", "concurrency": None, "requests": 40, "osl": 4}
    result, rows = bench.measure(server.url, "plain?ttft=400&itl=1", **work)
    base = result.measure_ns
    for index, (row, _) in enumerate(rows):
        assert row["index"] == index
        assert (row["scheduled_ns"] - base) / 1e6 == pytest.approx(index * 10.0, abs=1e-3)
        assert row["sent_ns"] >= row["scheduled_ns"]
    assert rows[-1][0]["scheduled_ns"] - base < 400e6  # all were due before the first answer could be there
    assert all(len(chunks) == 4 for _, chunks in rows)


def test_same_seed_same_bodies_whatever_the_shards(server, tmp_path):
    work = Workload(isl="uniform:5-40", osl="uniform:2-6", concurrency=3, requests=12, seed=9)
    bodies = []
    for shards in (1, 3):
        start = len(server.log)
        for shard in range(shards):
            with LoadAgent.start(tmp_path / f"{shards}-{shard}", shard=shard) as agent:
                agent.target(0, server.url, "plain?ttft=1&itl=0", vocab=4096)
                assert agent.run(0, work, shards=shards).wait(30).counts == {"ok": 12 // shards}
        bodies.append(sorted(truth.body_sha for truth in server.log[start:]))
    assert bodies[0] == bodies[1]
    assert len(set(bodies[0])) == 12
