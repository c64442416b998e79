"""Parsing the reads of many streams together must say what parsing each byte for itself says."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from labkit.load.events import ChunkLog
from labkit.load.intake import Intake, whole_events
from labkit.load.stream import Stream

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


class Reading:
    """A wire that has nothing but its stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.looks = 0

    def feed(self, data: bytes, t_ns: int) -> None:
        self.stream.feed(data, t_ns)
        self.look()

    def look(self) -> None:
        self.looks += self.stream.over


def read(reads: list[bytes], *, with_head: bool = False, among: int = 0) -> tuple[object, ...]:
    """The reads come 1, 2, 3, … ns after the head; what was made of them.

    Args:
        with_head: the first of them comes in one piece with the head.
        among: so many streams of the usual kind are read in the same rounds, half of them before it.
    """
    log = ChunkLog()
    wire, others = Reading(Stream(7, log)), [Reading(Stream(100 + i, ChunkLog())) for i in range(among)]
    came = list(enumerate([HEAD, *reads]))
    if with_head and reads:
        came[:2] = [(1, HEAD + reads[0])]
    intake = Intake(log)
    for at, data in came:
        usual = chunk(event(at)) if at else HEAD
        wires, datas = [*others[: among // 2], wire, *others[among // 2 :]], [usual] * among
        intake.take(wires, [*datas[: among // 2], data, *datas[among // 2 :]], [at] * (among + 1))
    assert wire.looks or not wire.stream.over, "whoever waits for its end is told"
    rows, *rest = state(log, wire.stream)
    assert isinstance(rows, dict)
    own = [at for at, request in enumerate(rows["request"]) if request == 7]
    return {name: [column[at] for at in own] for name, column in rows.items()}, *rest


def slowly(reads: list[bytes]) -> tuple[object, ...]:
    """The same by the incremental parsers, each read in two pieces."""
    log = ChunkLog()
    stream = Stream(7, log)
    for at, data in enumerate([HEAD, *reads]):
        for piece in filter(None, (data[:1], data[1:])):
            stream.feed(piece, at)
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
    found = [read(reads, with_head=head, among=among) for head in (False, True) for among in (0, 3)]
    assert found == [expected] * 4


@given(reads=st.lists(st.lists(PIECES, min_size=1, max_size=3).map(b"".join), max_size=90))
def test_at_once_and_one_by_one_agree(reads):
    assert_agree(reads)


def test_nothing_counts_behind_an_error_in_the_same_read():
    broken_off = chunk(event(1)) + chunk(b'data: {"error": {"message": "gone"}}\n\n') + chunk(event(2))
    assert_agree([broken_off])
    _, said, counted = read([broken_off])
    assert said[3] == '{"message":"gone"}'
    assert counted[3] == 1, "one chunk with a token"


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
    rows = read([plain[0], plain[1] + plain[2], plain[3]])[0]
    assert isinstance(rows, dict)
    assert rows["t_ns"] == [1, 2, 2, 3]


def test_rows_of_a_round_keep_to_their_streams():
    log = ChunkLog()
    wires = [Reading(Stream(number, log)) for number in range(5)]
    intake = Intake(log)
    intake.take(wires, [HEAD] * 5, [1] * 5)
    for at in (2, 3):
        intake.take(wires, [chunk(event(10 * at + number)) for number in range(5)], [100 * at + number for number in range(5)])
    rows = log.take()[0]
    assert list(rows["request"]) == [0, 1, 2, 3, 4] * 2
    assert list(rows["t_ns"]) == [200, 201, 202, 203, 204, 300, 301, 302, 303, 304]
    assert list(rows["tokens"])[5:] == [10] * 5


def test_the_end_that_comes_with_the_last_token_is_the_end():
    wire = Reading(Stream(7, ChunkLog()))
    Intake(ChunkLog()).take([wire], [HEAD + chunk(event(1)) + LAST], [9])
    assert (wire.stream.done, wire.stream.end_ns, wire.stream.http.complete, wire.looks > 0) == (True, 9, True, True)
    assert wire.stream.count.total() == (1, "usage")
