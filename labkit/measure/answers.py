"""What the chunks say of each request, taken in part by part: memory grows with requests, never with chunks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from labkit.measure.chunks import TokenChunks
from labkit.measure.columns import UNKNOWN, Bools, Ints, Select


@dataclass(frozen=True, slots=True, eq=False)
class NewGaps:
    """Gaps that a part of the chunks ended, request after request.

    Attributes:
        row, counts: whose they are, and how many of each.
        gap_ns: ``chunk_gap_s`` of the definitions, in ns.
        late: rows of requests whose chunks in this part are older than those of a part before.
    """

    row: Ints
    counts: Ints
    gap_ns: Ints
    late: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """One entry per row of a requests table. Only chunks with tokens count; -1 is unknown.

    Attributes:
        counts: chunks.
        first_ns, last_ns: arrival of the first and of the last; -1 without one.
        first_tokens: tokens of the first.
        longest_gap_ns: between two of them; 0 with fewer.
        bundled: chunks after the first with several tokens. surplus: their tokens beyond one in each, zeros of the ITL.
        uncounted: chunks after the first of which the server did not say how many tokens they hold.
        tokens_inside: tokens that came inside the window. uncounted_inside: chunks there of unknown count.
    """

    counts: Ints
    first_ns: Ints
    last_ns: Ints
    first_tokens: Ints
    longest_gap_ns: Ints
    bundled: Ints
    surplus: Ints
    uncounted: Ints
    tokens_inside: Ints
    uncounted_inside: Ints

    @classmethod
    def none(cls, requests: int) -> Self:
        """Before the first part."""
        start = {"first_ns": UNKNOWN, "last_ns": UNKNOWN, "first_tokens": UNKNOWN}
        return cls(**{name.name: np.full(requests, start.get(name.name, 0), np.int64) for name in fields(cls)})

    def select(self, which: Select) -> Self:
        """The entries of a mask or of row numbers."""
        return type(self)(**{name.name: getattr(self, name.name)[which] for name in fields(self)})

    def extended(self, requests: int) -> Self:
        """The same, and so many further requests of which nothing is known yet."""
        more = type(self).none(requests)
        return type(self)(
            **{name.name: np.concatenate([getattr(self, name.name), getattr(more, name.name)]) for name in fields(self)}
        )

    def add(self, chunks: TokenChunks, start_ns: Ints | None = None, stop_ns: Ints | None = None) -> NewGaps:
        """Take in a further part of the chunks, with the bounds of the window that the request of each row belongs to."""
        if not len(chunks):
            nothing = np.zeros(0, np.int64)
            return NewGaps(nothing, nothing, nothing, nothing)
        heads, lengths, t_ns = chunks.heads, chunks.lengths, chunks.t_ns
        row = chunks.row[heads]
        new = self.counts[row] == 0
        gap_ns = np.diff(t_ns, prepend=0)
        gap_ns[heads] = np.where(new, 0, t_ns[heads] - self.last_ns[row])
        late = row[gap_ns[heads] < 0]
        self.first_ns[row[new]] = t_ns[heads[new]]
        self.first_tokens[row[new]] = chunks.tokens[heads[new]]
        self.last_ns[row] = t_ns[heads + lengths - 1]
        self.counts[row] += lengths
        self.longest_gap_ns[row] = np.maximum(self.longest_gap_ns[row], np.maximum.reduceat(gap_ns, heads))
        self._count_later(row, chunks, heads[new])
        if start_ns is not None and stop_ns is not None:
            self._count_inside(row, chunks, start_ns[row], stop_ns[row])
        ends_one = np.ones(len(chunks), np.bool_)
        ends_one[heads[new]] = False
        return NewGaps(row, lengths - new, gap_ns[ends_one], late)

    def _count_later(self, row: Ints, chunks: TokenChunks, first: Ints) -> None:
        if (chunks.tokens == 1).all():
            return
        tokens = chunks.tokens.copy()
        tokens[first] = 1
        self.bundled[row] += _sums(tokens > 1, chunks.heads)
        self.surplus[row] += _sums(np.maximum(tokens, 1) - 1, chunks.heads)
        self.uncounted[row] += _sums(tokens == UNKNOWN, chunks.heads)

    def _count_inside(self, row: Ints, chunks: TokenChunks, start_ns: Ints, stop_ns: Ints) -> None:
        tokens = chunks.tokens
        if chunks.t_ns.min() < start_ns.max() or chunks.t_ns.max() >= stop_ns.min():
            start, stop = (np.repeat(bound, chunks.lengths) for bound in (start_ns, stop_ns))
            tokens = np.where((chunks.t_ns >= start) & (chunks.t_ns < stop), tokens, 0)
        self.tokens_inside[row] += _sums(tokens, chunks.heads)
        if (tokens == UNKNOWN).any():
            self.uncounted_inside[row] += _sums(tokens == UNKNOWN, chunks.heads)


def _sums(values: Ints | Bools, heads: Ints) -> Ints:
    """Sum of the values from each head to the next."""
    sums: Ints = np.add.reduceat(values, heads, dtype=np.int64)
    return sums
