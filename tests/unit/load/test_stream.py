"""Parsing many reads at once must say what parsing each byte for itself says."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from labkit.load.events import ChunkLog
from labkit.load.stream import Stream, whole_events

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def event(used: int, text: str = "a") -> bytes:
    usage = {"prompt_tokens": 3, "completion_tokens": used}
    said = {"id": "x", "choices": [{"text": text}], "usage": usage}
    return b"data: " + msgspec.json.encode(said) + b"\n\n"


def state(log: ChunkLog, stream: Stream) -> tuple[object, ...]:
    """All that a stream has said."""
    rows = {name: list(column) for name, column in log.take()[0].items()}
    count = stream.count
    counted = (count.total(), count.prompt_tokens, count.chunks, count.token_chunks, count.unknown, count.listed)
    said = (stream.over, stream.done, stream.broken, stream.failure, stream.server_id, stream.end_ns, stream.http.error)
    return rows, said, counted


def read(reads: list[bytes], *, late: bool = False, with_head: bool = False) -> tuple[object, ...]:
    """The reads come 1, 2, 3, … ns after the head; what was made of them.

    Args:
        late: everything is kept up to the end.
        with_head: the first of them comes in one piece with the head.
    """
    log = ChunkLog()
    stream = Stream(7, log)
    came = list(enumerate([HEAD, *reads]))
    if with_head and reads:
        came[:2] = [(1, HEAD + reads[0])]
    for at, data in came:
        if stream.take(data, at) and not late:
            stream.settle()
    stream.settle()
    return state(log, stream)


def slowly(reads: list[bytes]) -> tuple[object, ...]:
    """The same with every read parsed for itself by the incremental parsers."""
    log = ChunkLog()
    stream = Stream(7, log)
    for at, data in enumerate([HEAD, *reads]):
        if not stream.over:
            stream._feed(data, at)
    return state(log, stream)


def told(**fields: object) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


LISTED = [told(id="x", choices=[{"text": "ab", "token_ids": ids}]) for ids in ([1], [2, 3], [])]
UNCOUNTED = [told(choices=[{"text": text}]) for text in ("a", "")]
CHAT = [told(choices=[{"delta": delta}], usage={"completion_tokens": 5}) for delta in ({"content": "a"}, {"reasoning": "b"}, {})]

BODIES = st.one_of(
    st.integers(1, 40).map(event),
    st.sampled_from(
        [*LISTED, *UNCOUNTED, *CHAT, told(choices=[{"text": "a", "token_ids": [4]}], usage={"completion_tokens": 3})]
    ),
    st.sampled_from(
        [
            event(1) + event(2),
            event(3, "wörd")[:-1],
            b"\n" + event(4),
            b": ping\n\n",
            b"data: [DONE]\n\n",
            b"data: {}\n\n",
            b"data:{}\n\n",
            b"data: {\n\n",
            b"data: {\r\n}\n\n",
            b"data: {\ndata: }\n\n",
            b'data: {"error": {"message": "gone"}}\n\n',
            b"event: error\ndata: {}\n\n",
            b'data: {"choices": [], "usage": {"completion_tokens": 9}}\n\n',
        ]
    ),
)
LAST = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
PIECES = st.one_of(BODIES.map(chunk), st.sampled_from([LAST, b"0\r\n\r\n", b"5\r\n", b"\n\n\r\n", b"}\n\n\r\n", b"x"]))


def assert_agree(reads: list[bytes]) -> None:
    expected = slowly(reads)
    assert [read(reads, late=late, with_head=head) for late in (False, True) for head in (False, True)] == [expected] * 4


@given(reads=st.lists(st.lists(PIECES, min_size=1, max_size=3).map(b"".join), max_size=90))
def test_at_once_and_one_by_one_agree(reads):
    assert_agree(reads)


@given(reads=st.lists(st.sampled_from([*LISTED, *UNCOUNTED, *CHAT, *map(event, range(1, 9))]), max_size=20).map(sorted))
def test_runs_of_like_events_agree_with_single_ones(reads):
    assert_agree([*map(chunk, reads), LAST])


@given(pieces=st.lists(PIECES, max_size=12), cuts=st.lists(st.integers(0, 1500), max_size=20))
def test_wherever_the_reads_are_cut(pieces, cuts):
    data = b"".join(pieces)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    assert_agree([data[a:b] for a, b in itertools.pairwise(edges) if a < b])


def test_the_usual_stream_is_parsed_at_once():
    plain = [chunk(event(n)) for n in range(1, 6)]
    slowly(plain)  # teaches the sizes
    events, per_read = whole_events(plain) or ([], None)
    assert [e.usage.completion_tokens for e in events if e.usage] == [1, 2, 3, 4, 5]
    assert per_read is None
    events, per_read = whole_events([plain[0] + plain[1], plain[2]]) or ([], None)
    assert (len(events), per_read) == (3, [2, 1])
    assert read([plain[0], plain[1] + plain[2], plain[3]])[0]["t_ns"] == [1, 2, 2, 3]


def test_a_read_is_parsed_when_asked_or_when_it_may_be_the_last():
    log = ChunkLog()
    stream = Stream(7, log)
    assert stream.take(HEAD, 0)
    stream.settle()
    assert not stream.take(chunk(event(1)), 1)
    assert len(log.take()[0]["t_ns"]) == 0
    assert stream.take(chunk(b"data: [DONE]\n\n"), 2)
    stream.settle()
    assert stream.done
    assert len(log.take()[0]["t_ns"]) == 1
