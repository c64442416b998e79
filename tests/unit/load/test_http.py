import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.load.http import ResponseParser

CHUNKED = (
    b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1A;name=value\r\nabcdefghijklmnopqrstuvwxyz\r\n5\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"
)
LENGTH = b"HTTP/1.1 503 Gone\r\nContent-Length: 9\r\n\r\nno worker"
CLOSE = b"HTTP/1.0 200 OK\r\n\r\nuntil the\r\nend"
ALL = {"chunked": CHUNKED, "length": LENGTH, "close": CLOSE}


def parse(data: bytes, cuts: list[int]) -> tuple[object, ...]:
    parser = ResponseParser()
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    body = b"".join(parser.feed(data[a:b]) for a, b in itertools.pairwise(edges))
    parser.eof()
    return parser.status, body, parser.complete, parser.error, parser.headers, parser.surplus


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        ("chunked", 200, b"helloabcdefghijklmnopqrstuvwxyzhello"),
        ("length", 503, b"no worker"),
        ("close", 200, b"until the\r\nend"),
    ],
)
def test_framings(kind, status, body):
    got = parse(ALL[kind], [])
    assert got[:4] == (status, body, True, None)


@given(kind=st.sampled_from(sorted(ALL)), cuts=st.lists(st.integers(0, 400), max_size=40))
def test_splits_do_not_matter(kind, cuts):
    assert parse(ALL[kind], cuts) == parse(ALL[kind], [])


@pytest.mark.parametrize("kind", sorted(ALL))
def test_byte_by_byte(kind):
    assert parse(ALL[kind], list(range(len(ALL[kind])))) == parse(ALL[kind], [])


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_are_survived_and_splits_do_not_matter(data, cuts):
    assert parse(data, cuts) == parse(data, [])


@given(tail=st.binary(max_size=200), cuts=st.lists(st.integers(0, 400), max_size=10))
def test_any_bytes_after_a_good_head_are_survived(tail, cuts):
    head = CHUNKED[: CHUNKED.index(b"5\r\nhello")]
    assert parse(head + tail, cuts) == parse(head + tail, [])


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP status line"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n", "no HTTP header"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "switched protocols"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "content length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer coding"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", "content encoding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n", "no chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n", "longer than its size"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000, "16 KiB"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "64 KiB"),
    ],
)
def test_what_is_no_response_is_an_error_and_not_an_exception(data, error):
    parser = ResponseParser()
    assert parser.feed(data) in (b"", b"hel")
    assert error in (parser.error or "")
    assert parser.feed(b"more") == b""


@pytest.mark.parametrize("kind", sorted(ALL))
def test_a_head_that_is_known_says_what_it_said_first(kind):
    def read():
        parser = ResponseParser()
        length = parser.head(ALL[kind])
        body = parser.feed(ALL[kind][length:])
        parser.eof()
        return length, parser.status, parser.headers, body, parser.complete, parser.error

    first = read()
    assert read() == read() == first
    assert first[1:2] + first[3:] == (parse(ALL[kind], [])[0], *parse(ALL[kind], [])[1:4])


def test_more_heads_than_are_kept_are_read_all_the_same():
    for number in range(200):
        parser = ResponseParser()
        head = b"HTTP/1.1 200 OK\r\nX: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % number
        assert parser.head(head + b"5\r\n") == len(head)
        assert (parser.between, parser.headers["x"]) == (True, str(number))


def test_a_body_that_breaks_off_is_not_complete():
    for kind in ("chunked", "length"):
        parser = ResponseParser()
        parser.feed(ALL[kind][:-3])
        parser.eof()
        assert not parser.complete


def test_only_clean_connections_are_reusable():
    def reusable(data):
        parser = ResponseParser()
        parser.feed(data)
        parser.eof()
        return parser.reusable

    assert reusable(CHUNKED)
    assert reusable(LENGTH)
    assert not reusable(CLOSE)
    assert not reusable(CHUNKED + b"x")
    assert not reusable(LENGTH.replace(b"\r\n\r\n", b"\r\nConnection: Close\r\n\r\n", 1))
