"""The chunks of any number of requests, request by request, read in the order in which they were written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from labkit.measure.chunks import RequestRows, TokenChunks, sort_out
from labkit.measure.columns import UNKNOWN, Ints, ints
from labkit.measure.digest import Digest

_AT_ONCE: Final = 1 << 18
_LOOK: Final = 1 << 12


def request_by_request(taken: Digest, order: Ints) -> Iterator[TokenChunks]:
    """The chunks with tokens of some requests in batches, those of one request in one batch and in order of time.

    One pass over the parts. A request waits in memory until it is whole and those before it in ``order`` are: in the order of
    their schedule, what was under way at once (and all that was begun during the longest answer).

    Args:
        taken: what was taken in of the records; its counts tell when a request is whole.
        order: rows of ``taken.requests``, each once.

    Yields:
        Chunks whose ``row`` is a position in ``order``, rising from batch to batch.
    """
    place = np.full(len(taken.requests), UNKNOWN, np.int64)
    place[order] = np.arange(len(order))
    missing = taken.answers.counts[order].copy()
    rows = RequestRows(ints(taken.requests, "request"))
    waiting: list[tuple[Ints, Ints, Ints]] = []
    begin = whole = held = 0
    for part in taken.parts:
        chunks = sort_out(part, rows)
        at = place[chunks.row]
        kept = at != UNKNOWN
        waiting.append((at[kept], chunks.t_ns[kept], chunks.tokens[kept]))
        np.subtract.at(missing, waiting[-1][0], 1)
        held += len(waiting[-1][0])
        whole = _whole(missing, whole)
        if held >= _AT_ONCE and whole > begin:
            batch, waiting = _split(waiting, whole)
            begin, held = whole, sum(len(at) for at, *_ in waiting)
            yield batch
    if held:
        yield _split(waiting, len(order))[0]


def _whole(missing: Ints, begin: int) -> int:
    """Up to which position nothing is missing any more."""
    while begin < len(missing):
        some = missing[begin : begin + _LOOK] > 0
        if some.any():
            return begin + int(np.argmax(some))
        begin += len(some)
    return begin


def _split(waiting: list[tuple[Ints, Ints, Ints]], end: int) -> tuple[TokenChunks, list[tuple[Ints, Ints, Ints]]]:
    """What lies before a position, sorted; and what does not."""
    at, t_ns, tokens = (np.concatenate(column) for column in zip(*waiting, strict=True))
    ready = at < end
    rest = [(at[~ready], t_ns[~ready], tokens[~ready])]
    return TokenChunks.of(at[ready], t_ns[ready], tokens[ready]), rest
