from __future__ import annotations

from labkit.load.events import UNKNOWN, ChunkLog
from labkit.load.tally import Tally


def log(*rows: tuple[int, int, bool]) -> ChunkLog:
    made = ChunkLog()
    for request, tokens, text in rows:
        made.add(request, 5, tokens, text)
    return made


def test_a_request_begins_once_with_its_first_token_or_its_end():
    tally = Tally()
    assert tally.take(log((0, 0, False), (1, 1, True), (1, 1, True)), [], 0)[1:] == (2, 1), "a role alone is no token"
    assert tally.take(log((0, 3, True), (1, 1, True)), [1, 2], 0)[1:] == (4, 2), "request 2 ended without a token"
    assert tally.take(log((0, 1, True)), [0], 0)[1:] == (1, 0)
    assert tally.take(log((7, 1, True)), [7], 0)[1:] == (1, 1), "begun and ended between two looks"
    assert not tally._answering, "those that have ended are forgotten"


def test_text_decides_where_tokens_are_not_counted():
    columns, tokens, begun = Tally().take(log((0, UNKNOWN, False), (1, UNKNOWN, True)), [], 0)
    assert (columns["tokens"], tokens, begun) == ([None, None], 0, 1)


def test_only_requests_of_the_measurement_that_sends_count():
    tally = Tally()
    columns, tokens, begun = tally.take(log((4, 2, True), (5, 2, True), (6, UNKNOWN, True)), [4], 5)
    assert (len(columns["request"]), tokens, begun) == (3, 2, 2)
    assert tally.take(log((5, 1, True)), [5], 6)[1:] == (0, 0), "the next measurement sends now"
