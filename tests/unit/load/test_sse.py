import itertools

from hypothesis import given
from hypothesis import strategies as st

from labkit.load.sse import EVENT_LIMIT, EventSplitter

STREAM = (
    b'data: {"a": 1}\n\n: ping\n\nid: 7\r\ndata:{"b": 2}\r\n\r\nevent: message\rdata: x\rdata: y\r\r'
    b"retry: 5\n\ndata\n\ndata: [DONE]\n\nevent: error\n: worker lost\n\ndata: after\n\ndata: unfinished"
)
EVENTS = [b'{"a": 1}', b'{"b": 2}', b"x\ny", b"", b"[DONE]"]


def split(data: bytes, cuts: list[int]) -> tuple[object, ...]:
    splitter = EventSplitter()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    events = [event for a, b in itertools.pairwise(edges) for event in splitter.feed(data[a:b])]
    return events, splitter.failure, splitter.error


def test_events_of_every_line_end_up_to_a_failure():
    assert split(STREAM, []) == (EVENTS, "worker lost", None)


def test_byte_by_byte():
    assert split(STREAM, list(range(len(STREAM)))) == split(STREAM, [])


@given(cuts=st.lists(st.integers(0, 400), max_size=40))
def test_splits_do_not_matter(cuts):
    assert split(STREAM, cuts) == split(STREAM, [])


@given(
    data=st.lists(
        st.sampled_from([b"data: x", b"data:", b"\n", b"\r", b"\r\n", b"event: error", b": c", b"\n\n", b"\xff", b"{"]),
        max_size=30,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 200), max_size=20),
)
def test_hostile_streams_are_survived_and_splits_do_not_matter(data, cuts):
    assert split(data, cuts) == split(data, [])


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=20))
def test_any_bytes_are_survived(data, cuts):
    assert split(data, cuts) == split(data, [])


def test_events_have_a_limit_and_memory_too():
    for piece in (b"x" * 65536, b"data: " + b"x" * 65536 + b"\n", b"data\n" * 10_000):
        splitter = EventSplitter()
        fed = 0
        while splitter.error is None and fed <= 40 * EVENT_LIMIT:
            assert splitter.feed(piece) == []
            fed += len(piece)
        assert "more than 4 MiB" in (splitter.error or "")
        assert splitter.feed(b"\n\ndata: x\n\n") == []
