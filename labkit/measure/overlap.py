"""ITL against overlapping prefill tokens: what prefills beside a gap cost it, by their size, and the price of a prefill token.

A gap meets the prefills that are under way at its middle; why the middle, and how prefills are shifted for the null, stands in
``measure.interference``. x is the sum of their prompt tokens: 0 for a clear gap. Of a prompt that is computed in chunks x is the
whole prompt, whatever the part in the step that the gap waits for: that is not told. So two figures a token:

    slope  b of  L = a_k + b · x,  least squares with an intercept a_k for each stratum k (one worker in one window at equal
           decode-batch size, as there): how much longer a single gap is for each token of the prompts beside it
    price  Σ over seen gaps (L − mean L of clear gaps in its stratum) / Σ over streams Σ tokens of the prefills beside it:
           how much later a stream's tokens come for each token that is computed beside it

Chunks lessen the slope, for a gap waits for a chunk alone, and leave the price what it is, for there are more such gaps. Beyond
the chunk a longer prompt lengthens no gap: then b is no line, which is held against the b of seen gaps alone. A
prefill is beside a stream if its middle lies in one of the stream's gaps. With no effect the numerator of both is 0 on average
however heavy the tail of L, because a middle lies in a prefill with the same probability however long its gap.

Both are less the mean of the same over shifted prefills, in gaps that the effect was taken out of.
The interval is the wider, at either end, of what shifts give by chance and of a jackknife over twentieths of a window with
Student's t.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from labkit.measure.digest import Digest
from labkit.measure.exposure import Scope, Scoped, scoped
from labkit.measure.interference import NO_LENGTH, Interference, estimate, null_ratios, too_few
from labkit.measure.overlap_bins import Bin, bins_of, edges_of
from labkit.measure.pool import Pool, totals
from labkit.measure.records import Records, Window
from labkit.measure.statistics import NORMAL_95, student
from labkit.measure.timing import Bools, Floats, Ints

#: Slopes that differ by no more than this share are one line for all that matters.
_BENT: Final = 0.25
_UNKNOWN: Final = "the prompt tokens of {} of {} prefills are not known"


@dataclass(frozen=True, slots=True)
class PerToken:
    """Seconds for each prefill token, with its 95 % interval; ``None`` with a reason."""

    value: float | None
    low: float | None
    high: float | None
    reason: str = ""

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def __str__(self) -> str:
        """In ms for each 1,000 tokens, which is µs a token."""
        if self.value is None or self.low is None or self.high is None:
            return f"undefined: {self.reason}"
        value, low, high = (_figure(1e6 * part) for part in (self.value, self.low, self.high))
        return f"{'+' * (self.value >= 0)}{value} ms per 1,000 prefill tokens [{low}, {high}]"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 9.5 else f"{value:.1f}" if abs(value) >= 0.95 else f"{value:.2f}"


@dataclass(frozen=True, slots=True)
class Overlap:
    """What prefills do to the gaps between tokens of a side, at one scope.

    Attributes:
        scope: prefills on the gap's own ``worker``, or anywhere in the ``deployment``.
        interference: the same in one number.
        bins: gaps by the prefill tokens beside them, clear ones first; as measured, not held at equal batch size. Empty where
            nothing is known, which ``interference.reason`` explains.
        slope, price: see the module.
        is_line: whether seen gaps alone have the same slope within a quarter, or as far as can be told; ``None`` where prompts
            of one length, or too few, cannot tell.
    """

    scope: Scope
    interference: Interference
    bins: tuple[Bin, ...]
    slope: PerToken
    price: PerToken
    is_line: bool | None = None

    @property
    def clear(self) -> Bin | None:
        """The gaps with no prefill beside them."""
        return next((one for one in self.bins if not one.most), None)


def overlaps(sides: Mapping[str, Sequence[tuple[Records | Digest, Window]]], *, seed: int = 0) -> dict[str, dict[Scope, Overlap]]:
    """Every side at both scopes, in bins that all sides of a scope share.

    Takes some seconds for 100,000 gaps a side.

    Args:
        sides: per label the windows, each with the records of its run or what was taken in of them; they are pooled.
        seed: of the shifts and the resampling.
    """
    found = {side: scoped(measured) for side, measured in sides.items()}
    done: dict[str, dict[Scope, Overlap]] = {side: {} for side in sides}
    for scope in ("worker", "deployment"):
        pools = {side: Pool.of(one[scope].found) for side, one in found.items() if one[scope].found and not _unknown(one[scope])}
        edges = edges_of([pool.tokens(np.zeros(len(pool.units))) for pool in pools.values()])
        for side, one in found.items():
            done[side][scope] = _overlap(one[scope], scope, pools.get(side), edges, seed)
    return done


def _overlap(one: Scoped, scope: Scope, pool: Pool | None, edges: Floats, seed: int) -> Overlap:
    number = estimate(one.found, scope, one.source, one.reason, seed=seed)
    if pool is None:
        none = PerToken(None, None, None, number.reason or _unknown(one))
        return Overlap(scope, number, (), none, none)
    here = np.zeros(len(pool.units))
    tokens, (seen, clear) = pool.tokens(here), pool.split(here)
    bins = bins_of(pool, tokens, seen, clear, edges, seed)
    few = _few(pool, seen, clear)
    if few:
        none = PerToken(None, None, None, few)
        return Overlap(scope, number, bins, none, none)
    beside = pool.computed(here)
    slope, price = _slope(pool, tokens, seen, clear, seed), _price(pool, beside, seen, clear, seed)
    return Overlap(scope, number, bins, slope, price, _is_line(pool, tokens, seen, clear))


def _unknown(one: Scoped) -> str:
    tokens = np.concatenate([unit.tokens for unit in one.found]) if one.found else np.zeros(0)
    lacking = int(np.isnan(tokens).sum())
    return _UNKNOWN.format(lacking, len(tokens)) if lacking else ""


def _few(pool: Pool, seen: Bools, clear: Bools) -> str:
    """As of the one number: gaps count in strata that have both kinds."""
    counts = [np.bincount(pool.stratum[which], minlength=pool.strata) for which in (seen, clear)]
    both = (counts[0] > 0) & (counts[1] > 0)
    return too_few(pool.prefills_met(), int(counts[0][both].sum()), int(counts[1][both].sum()))


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Where gaps are added up: per stratum, and per block of time within it, or in one block.

    Attributes:
        cell: of each gap, block · strata + stratum.
    """

    cell: Ints
    blocks: int
    strata: int

    @classmethod
    def of(cls, pool: Pool, *, by_block: bool) -> _Cells:
        if by_block:
            return cls(pool.block * pool.strata + pool.stratum, pool.blocks, pool.strata)
        return cls(pool.stratum, 1, pool.strata)

    def add(self, which: Bools, values: Floats) -> tuple[Floats, Floats]:
        """Counts and sums of the chosen per stratum (the last axis): of all, then of all without one block after the other."""
        counts, sums = (part.reshape(self.blocks, -1) for part in totals(self.cell, self.blocks * self.strata, which, values))
        if self.blocks == 1:
            return counts, sums
        rest = [np.concatenate([part.sum(0)[None], part.sum(0) - part]) for part in (counts, sums)]
        return rest[0], rest[1]


def _slope(pool: Pool, tokens: Floats, seen: Bools, clear: Bools, seed: int) -> PerToken:
    found = _slopes(_Cells.of(pool, by_block=True), tokens, seen | clear, pool.gap_s)
    cells, without = _Cells.of(pool, by_block=False), pool.gap_s - found[0] * tokens
    null = [_slopes(cells, pool.tokens(shift), np.logical_or(*pool.split(shift)), without)[0] for shift in pool.shifts(seed)]
    return _with_interval(found, np.array(null), len(np.unique(pool.block[seen])))


def _is_line(pool: Pool, tokens: Floats, seen: Bools, clear: Bools) -> bool | None:
    cells = _Cells.of(pool, by_block=True)
    slopes = _slopes(cells, tokens, seen | clear, pool.gap_s)
    apart = slopes - _slopes(cells, tokens, seen, pool.gap_s)
    blocks = len(np.unique(pool.block[seen]))
    if not np.isfinite(apart).all() or blocks < 2:
        return None
    return bool(abs(apart[0]) <= max(student(NORMAL_95, blocks - 1) * _jackknife(apart[1:]), _BENT * abs(slopes[0])))


def _slopes(cells: _Cells, tokens: Floats, which: Bools, gap_s: Floats) -> Floats:
    """b of all gaps, then of all without one block after the other; NaN where no stratum has different tokens."""
    n, x = cells.add(which, tokens)
    y, xx, xy = (cells.add(which, values)[1] for values in (gap_s, tokens**2, tokens * gap_s))
    each = np.maximum(n, 1)
    above, below = (xy - x * y / each).sum(1), (xx - x * x / each).sum(1)
    return np.asarray(above / np.where(below > 1e-9 * np.maximum(xx.sum(1), 1), below, np.nan))


def _price(pool: Pool, beside: Floats, seen: Bools, clear: Bools, seed: int) -> PerToken:
    """The null is that of the one number, in seconds a token: a shifted prefill lies over more gaps, or fewer, than its own."""
    cells = _Cells.of(pool, by_block=True)
    n, seen_s = cells.add(seen, pool.gap_s)
    clear_n, clear_s = cells.add(clear, pool.gap_s)
    tokens = cells.add(np.ones(len(beside), np.bool_), beside)[1]
    both = (n > 0) & (clear_n > 0)
    expected_s = np.where(both, n * clear_s / np.maximum(clear_n, 1), 0).sum(1)
    took_s, computed = np.where(both, seen_s, 0).sum(1), np.where(both, tokens, 0).sum(1)
    found = (took_s - expected_s) / np.where(computed > 0, computed, np.nan)
    if not min(took_s[0], expected_s[0]) > 0:
        return PerToken(None, None, None, NO_LENGTH)
    ratios = null_ratios(pool, seen, float(took_s[0] / expected_s[0]), seed)
    return _with_interval(found, (ratios - 1) * expected_s[0] / computed[0], len(np.unique(pool.block[seen])))


def _with_interval(found: Floats, null: Floats, blocks: int) -> PerToken:
    """The first of ``found`` with an interval; the others are without one block each, and ``blocks`` of them saw a prefill."""
    null, rest = null[np.isfinite(null)], found[1:][np.isfinite(found[1:])]
    if not np.isfinite(found[0]) or not len(null) or len(rest) < 2:
        return PerToken(None, None, None, "prefills shifted in time meet no gap at equal batch size")
    half = student(NORMAL_95, max(blocks - 1, 1)) * _jackknife(rest)
    value = float(found[0] - null.mean())
    least, most = np.percentile(null, [2.5, 97.5])
    return PerToken(value, float(min(value - half, found[0] - most)), float(max(value + half, found[0] - least)))


def _jackknife(rest: Floats) -> float:
    """The standard error from what is found without one block each."""
    return float(np.sqrt((len(rest) - 1) / len(rest) * ((rest - rest.mean()) ** 2).sum()))
