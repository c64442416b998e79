"""Chunks that hold tokens, sorted out by the request that they belong to: of a whole table, or of one part after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from labkit.measure.columns import UNKNOWN, Ints, bools, ints

#: Request numbers are looked up in an array while it has at most so many places a request, and some to spare.
_PLACES: Final = 8
_SPARE: Final = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class TokenChunks:
    """Chunks that hold at least one token: those of one request together, in order of time.

    Attributes:
        row: row in the requests table. t_ns: arrival. tokens: -1 where the server did not say.
        heads: positions at which the chunks of another request begin.
    """

    row: Ints
    t_ns: Ints
    tokens: Ints
    heads: Ints

    def __len__(self) -> int:
        return len(self.row)

    @property
    def lengths(self) -> Ints:
        """How many chunks begin at each of ``heads``."""
        return np.diff(self.heads, append=len(self.row))

    @classmethod
    def of(cls, row: Ints, t_ns: Ints, tokens: Ints, *, by_row: bool = True) -> TokenChunks:
        """Sort chunks; those of one instant stay in their order.

        Args:
            row, t_ns, tokens: see the attributes.
            by_row: whether requests must be in the order of their rows; those that come together may stay as they are otherwise.
        """
        if np.any(row[1:] < row[:-1]) and (by_row or not _together(row)):
            order = stable_order(row)
            row, t_ns, tokens = row[order], t_ns[order], _reordered(tokens, order)
        another = row[1:] != row[:-1]
        if np.any((t_ns[1:] < t_ns[:-1]) & ~another):
            order = np.lexsort((t_ns, row))
            return cls.of(row[order], t_ns[order], _reordered(tokens, order))
        heads = np.flatnonzero(another) + 1
        return cls(row, t_ns, tokens, np.concatenate([np.zeros(min(len(row), 1), np.int64), heads]))


class RequestRows:
    """Finds the row of a request in a requests table by the request's number."""

    def __init__(self, request: Ints) -> None:
        self._count = len(request)
        self._first = int(request.min()) if len(request) else 0
        span = int(request.max()) - self._first + 1 if len(request) else 0
        self._row_of = self._order = self._sorted = np.zeros(0, np.int64)
        if span <= _PLACES * len(request) + _SPARE:
            self._row_of = np.full(span, UNKNOWN, np.int32)
            self._row_of[request[::-1] - self._first] = np.arange(len(request) - 1, -1, -1)
        else:
            self._order = np.argsort(request, kind="stable")
            self._sorted = request[self._order]

    def __len__(self) -> int:
        return self._count

    def of(self, request: Ints) -> Ints:
        """The row of each; -1 where the table lacks it."""
        if len(self._sorted):
            at = np.minimum(np.searchsorted(self._sorted, request), len(self._sorted) - 1)
            return np.where(self._sorted[at] == request, self._order[at], UNKNOWN)
        place = request - self._first
        if len(place) and (place.min() < 0 or place.max() >= len(self._row_of)):
            known = (place >= 0) & (place < len(self._row_of))
            row = np.full(len(place), UNKNOWN, np.int64)
            row[known] = self._row_of[place[known]]
            return row
        return self._row_of[place].astype(np.int64)


def sort_out(chunks: pa.Table, rows: RequestRows, *, by_row: bool = False) -> TokenChunks:
    """The chunks with tokens of a table of ``records.CHUNKS``; those of requests that are not among ``rows`` are left out.

    ``by_row`` as for ``TokenChunks.of``.

    A chunk counts when it has ≥ 1 token, with or without text; text decides only where the count is unknown.
    """
    row, t_ns, tokens = rows.of(ints(chunks, "request")), ints(chunks, "t_ns"), ints(chunks, "tokens", UNKNOWN)
    kept = tokens > 0
    unknown = tokens == UNKNOWN
    if unknown.any():
        kept |= unknown & bools(chunks, "text")
    kept &= row != UNKNOWN
    if not kept.all():
        row, t_ns, tokens = row[kept], t_ns[kept], tokens[kept]
    return TokenChunks.of(row, t_ns, tokens, by_row=by_row)


def _together(row: Ints) -> bool:
    """Whether every row occurs in one piece."""
    heads = np.flatnonzero(row[1:] != row[:-1])
    begun = np.concatenate([row[:1], row[heads + 1]])
    return len(begun) <= len(row) // 2 and int(np.bincount(begun - begun.min()).max()) == 1


def _reordered(tokens: Ints, order: Ints) -> Ints:
    return tokens if (tokens == tokens[0]).all() else tokens[order]


def stable_order(numbers: Ints) -> Ints:
    """A stable ascending order, 16 bits at a time: numpy sorts such numbers, and no others, in linear time."""
    low = numbers - numbers.min()
    order = np.argsort(low.astype(np.uint16), kind="stable")
    shift, highest = 16, int(low.max())
    while highest >> shift:
        order = order[np.argsort((low >> shift).astype(np.uint16)[order], kind="stable")]
        shift += 16
    return order
