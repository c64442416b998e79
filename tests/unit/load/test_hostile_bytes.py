"""Whatever bytes a server sends, in whatever pieces: one verdict, whole rows, bounded memory, and nothing raised.

What is asked of the parsers together (HTTP framing, events, JSON, counts, verdict) is that how a response was cut into reads
does not matter: one read of everything is the reference for all other ways.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.load.client import Client, Reply
from labkit.load.events import ChunkLog
from labkit.load.intake import Intake
from labkit.load.sse import EVENT_LIMIT
from labkit.load.stream import Stream
from labkit.load.target import Target

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
OSL = 4


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def event(said: dict[str, Any] | bytes, end: bytes = b"\n") -> bytes:
    return b"data: " + (said if isinstance(said, bytes) else msgspec.json.encode(said)) + end * 2


def usage(used: int) -> dict[str, int]:
    return {"prompt_tokens": 9, "total_tokens": 9 + used, "completion_tokens": used}


def completions(end: bytes = b"\n") -> list[bytes]:
    tokens = [
        {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": f" wö{n}"}], "usage": usage(n)}
        for n in range(1, OSL + 1)
    ]
    last = {"id": "cmpl-1", "choices": [], "usage": usage(OSL)}
    return [event(said, end) for said in (*tokens, last, b"[DONE]")]


def chat() -> list[bytes]:
    deltas = [{"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": "a\u2028b"}, {"content": ""}]
    choices = [{"index": 0, "delta": delta, "token_ids": [7]} for delta in deltas]
    return [*(event({"id": "chatcmpl-1", "choices": [choice]}) for choice in choices), event(b"[DONE]")]


def whole(events: list[bytes]) -> bytes:
    return CHUNKED + b"".join(map(chunk, events)) + b"0\r\n\r\n"


BODY = b"".join(completions())
RESPONSES = {
    "vllm": whole(completions()),
    "chat": whole(chat()),
    "two a chunk": whole([b"".join(completions()[at : at + 2]) for at in range(0, OSL + 2, 2)]),
    "across chunks": CHUNKED + b"".join(chunk(BODY[at : at + 37]) for at in range(0, len(BODY), 37)) + b"0\r\nT: x\r\n\r\n",
    "extensions": whole(completions()).replace(b"\r\ndata", b';name="v\r\x00"\r\ndata'),
    "crlf and comments": whole([b": ping\r\n\r\n", *completions(b"\r\n"), b"id: 5\r\nretry: 9\r\n\r\n"]),
    "bare cr": whole(completions(b"\r")),
    "prompt counted once": whole([completions()[0], *(one.replace(b"prompt_tokens", b"x") for one in completions()[1:])]),
    "length": HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "close": HEAD + b"\r\n" + BODY,
    "informed": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3 + whole(completions()),
    "refused": b"HTTP/1.1 503 Busy\r\nContent-Type: application/json\r\nContent-Length: 21\r\n\r\n" + b'{"error": "busy now"}',
    "told": whole([*completions()[:2], event({"error": {"message": "engine died", "code": 500}}), event(b"[DONE]")]),
    "told by kind": whole([*completions()[:2], b"event: error\ndata: gone\n\n", *completions()[2:]]),
    "done twice": whole([*completions(), event(b"[DONE]"), *completions(), b"event: error\ndata: late\n\n", event(b"{")]),
    "byte order mark": whole([b"\xef\xbb\xbf" + completions()[0], *completions()[1:]]),
    "no json": whole([*completions()[:2], event(b"{\x00"), b"event: error\ndata: late\n\n", *completions()]),
    "two carriage returns": whole(completions()).replace(b"chunked\r\n", b"chunked\r\r\n"),
    "noise before the end": whole(completions()).replace(b"\r\ne\r\n", b"\r\n\xffe\r\n"),
    "gzip": HEAD + b"Content-Encoding: gzip\r\n\r\n" + BODY,
}
ENDS_WELL = {
    *("vllm", "chat", "two a chunk", "across chunks", "extensions", "crlf and comments", "bare cr", "length", "close"),
    *("informed", "done twice", "byte order mark", "prompt counted once"),
}


def judged(reads: list[bytes]) -> dict[str, Any]:
    """All that is recorded of a response that came in these reads, at one instant, before the connection ended."""
    log = ChunkLog()
    stream = Stream(7, log, keep=True)
    intake, reading = Intake(log), SimpleNamespace(stream=stream, feed=stream.feed, look=lambda: None)
    for data in reads:
        intake.take([reading], [data], [5])
        check_bounds(stream)
    stream.eof(5)
    check_bounds(stream)
    assert stream.over
    reply = Reply(sent_ns=0)
    wire: Any = SimpleNamespace(stream=stream, reset=None)
    Client(Target("http://127.0.0.1:9", "m", 4096), log)._judge(wire, reply, OSL)
    rows = {name: [*column] for name, column in log.take()[0].items()}
    return {"rows": rows, "kept": stream.kept, **{name: getattr(reply, name) for name in Reply.__slots__}}


def check_bounds(stream: Stream) -> None:
    http, sse = stream.http, stream._sse
    assert len(http._buffer) <= 16 * 1024
    assert len(sse._line) + sum(map(len, sse._data)) <= EVENT_LIMIT
    assert len(stream.error_body) <= 1000
    assert len(stream.failure or "") <= 300


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


@pytest.mark.parametrize("name", RESPONSES)
def test_the_usual_responses_end_as_they_should(name):
    reply = judged([RESPONSES[name]])
    assert (reply["outcome"] == "ok") == (name in ENDS_WELL), reply
    if name in ENDS_WELL:
        assert (reply["done"], reply["output_tokens"], len(reply["rows"]["tokens"])) == (True, OSL, OSL)


@pytest.mark.parametrize("name", RESPONSES)
def test_every_cut_in_two_and_every_byte_for_itself(name):
    data = RESPONSES[name]
    expected = judged([data])
    for at in range(1, len(data)):
        assert judged([data[:at], data[at:]]) == expected, data[max(at - 20, 0) : at + 20]
    assert judged([data[at : at + 1] for at in range(len(data))]) == expected


@pytest.mark.parametrize("name", RESPONSES)
def test_every_prefix_is_a_record_with_a_reason(name):
    """The connection ends after each byte in turn: what had come is kept, and only a whole answer passes for one."""
    data, before = RESPONSES[name], -1
    for end in range(len(data)):
        reply = judged([data[:end]])
        assert reply["outcome"] in ("ok", "cut", "http_error", "bad_stream", "short"), reply
        assert (reply["reason"] is None) == (reply["outcome"] == "ok")
        assert len(reply["rows"]["tokens"]) >= before
        before = len(reply["rows"]["tokens"])
        if reply["outcome"] == "ok":
            assert name in ENDS_WELL
            assert (reply["done"], reply["output_tokens"]) == (True, OSL)


NOISE = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from(
        [
            *(
                b"\r",
                b"\n",
                b"\r\n",
                b"\n\n",
                b"\r\r",
                b"\x00",
                b"\xff",
                b"\xef\xbb\xbf",
                b"data:",
                b"event: error\n",
                b":",
                b"data\n",
            ),
            *(b"0\r\n\r\n", b"ffffffffffff\r\n", b"-1\r\n", b"5;x\r\n", b"data: [DONE]\n\n", b"data: {}\n\n", b"[" * 3000),
            *(b"9" * 30, b"9" * 5000, b"-7", b"1e999", b"NaN", b"null", b'"', b"}", b"\\ud800", b'"error":', b'"usage":'),
            *(
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 200 OK\r\n\r\n",
                b"Content-Length: 9\r\n",
                b"Transfer-Encoding: x\r\n",
            ),
        ]
    ),
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A real response to which something was done: bytes put in, taken out, doubled, or another one's tail."""
    data = bytearray(RESPONSES[draw(st.sampled_from(sorted(RESPONSES)))])
    for _ in range(draw(st.integers(1, 4))):
        at, to = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        match draw(st.sampled_from(["put", "replace", "cut", "double", "splice"])):
            case "put":
                data[at:at] = draw(NOISE)
            case "replace":
                noise = draw(NOISE)
                data[at : at + len(noise)] = noise
            case "cut":
                del data[at : min(to, at + 40)]
            case "double":
                data[to:to] = data[at:to]
            case _:
                data[at:] = RESPONSES[draw(st.sampled_from(sorted(RESPONSES)))][at:]
    return bytes(data)


CUTS = st.lists(st.integers(0, 10_000), max_size=25)


@settings(max_examples=400)
@given(data=spoiled(), cuts=CUTS)
def test_spoiled_responses_are_judged_alike_however_they_are_cut(data, cuts):
    assert judged(pieces(data, cuts)) == judged([data])


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *completions()[:2],
            *(b"data: x", b"data:", b"\n", b"\r", b"\r\n", b"event: error", b": c", b"\n\n", b"\xff", b"{", b"data: [DONE]"),
            *(b"data: {}\n\n", b"\xef\xbb\xbf", b"data", b"\x00"),
        ]
    ),
    max_size=20,
).map(b"".join)


@settings(max_examples=300)
@given(body=FRAGMENTS, cuts=CUTS, at=st.lists(st.integers(0, 300), max_size=4))
def test_any_events_in_any_chunks_are_judged_alike_however_they_are_cut(body, cuts, at):
    data = CHUNKED + b"".join(map(chunk, pieces(body, at))) + b"0\r\n\r\n"
    assert judged(pieces(data, cuts)) == judged([data])


def test_nothing_counts_behind_the_end():
    """``[DONE]``, then noise: the answer was whole, whether the noise came with the same read or with the next."""
    for late in (b"data: {\n\n", b"event: error\ndata: gone\n\n", event({"error": "x"}), b"data: " + b"x" * (EVENT_LIMIT + 9)):
        reply = judged([CHUNKED, chunk(b"".join(completions())), chunk(late), b"0\r\n\r\n"])
        assert (reply["outcome"], reply["output_tokens"]) == ("ok", OSL)


BOMBS = {
    "arrays": b"[" * 200_000,
    "objects": b'{"a":' * 100_000,
    "in a field": b'{"error":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a number": b'{"usage":{"completion_tokens":' + b"9" * 100_000 + b"}}",
    "too many tokens": b'{"choices":[],"usage":{"completion_tokens":2147483648}}',
    "fewer than none": b'{"choices":[],"usage":{"completion_tokens":-1}}',
    "half a token": b'{"choices":[],"usage":{"completion_tokens":1.5}}',
    "an id": b'{"id":' + b"9" * 4400 + b"}",
    "half a character": b'{"id":"\\ud800"}',
    "no text": b'{"id":"\xff"}',
    "zeros": b'{"id":"\x00"}',
    "another thing": b"[]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_no_event_ends_the_stream_with_its_beginning_as_reason(name):
    reply = judged([CHUNKED, chunk(completions()[0]), chunk(event(BOMBS[name])), chunk(event(b"[DONE]")), b"0\r\n\r\n"])
    assert reply["outcome"] == "bad_stream"
    assert reply["reason"].startswith("unreadable event b'")
    assert len(reply["reason"]) <= 300
    assert len(reply["rows"]["t_ns"]) == 1


@pytest.mark.parametrize(
    ("reads", "outcome", "reason"),
    [
        ([HEAD, *[b"X: " + b"y" * 900 + b"\r\n"] * 100], "bad_stream", "headers of more than 64 KiB"),
        ([HEAD + b"X: ", *[b"y" * 9_000] * 1200], "bad_stream", "a line of more than 16 KiB"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000] * 9, "bad_stream", "headers of more than 64 KiB"),
        ([CHUNKED, *[b"f" * 9_000] * 9], "bad_stream", "a line of more than 16 KiB"),
        ([CHUNKED + b"fffffffffffff\r\n"], "bad_stream", "no chunk size"),
        ([CHUNKED + b"-5\r\n"], "bad_stream", "no chunk size"),
        ([CHUNKED + b"0\r\n", *[b"T: x\r\n" * 9_000] * 3], "bad_stream", "headers of more than 64 KiB"),
        ([CHUNKED + b"ffffffffffff\r\n", *[b"x" * 900_000] * 9], "bad_stream", "an event of more than 4 MiB"),
        ([CHUNKED + b"ffffffffffff\r\n", *[b"data: xxxxxx\n" * 70_000] * 9], "bad_stream", "an event of more than 4 MiB"),
        ([CHUNKED + b"ffffffffffff\r\n", *[b"event: " + b"x" * 900_000 + b"\n"] * 9], "cut", "mid-stream"),
        ([CHUNKED + b"ffffffffffff\r\n", *[b": x\n" * 200_000] * 9], "cut", "mid-stream"),
        ([b"HTTP/1.1 500 No\r\n\r\n", *[b"x" * 900_000] * 9], "http_error", "HTTP 500: xxx"),
        ([HEAD + b"Content-Length: 99999999999999999999\r\n\r\n"], "bad_stream", "content length"),
        ([HEAD + b"Content-Length: 1, 2\r\n\r\n"], "bad_stream", "content length"),
    ],
)
def test_what_never_ends_is_not_kept(reads, outcome, reason):
    reply = judged(reads)
    assert reply["outcome"] == outcome
    assert reason in reply["reason"]
