"""The knee of a throughput curve: the smallest batch at which a worker gives nearly all that larger ones would.

A step over n tokens takes t(n) seconds and gives n / t(n) tokens per second. At a fixed prompt length the FLOPs of a prefill
step are proportional to n (attention too: each prompt sees itself alone), and its fixed costs (weights read once, launches,
scheduling) are not, so that large steps follow t = c + b · n, whatever the shape of t further down.

* **Plateau**: 1 / b, the throughput that the time of one more token allows. It is fitted to the three largest batches, and to
  more of the upper two octaves for as long as they lie on the same line; with relative errors, c ≥ 0, and the line not above
  smaller batches. It is not the best throughput measured: that grows with the range swept, and is the luckiest of several noisy
  values. With c > 0 throughput comes near the plateau slowly: doubling n gains c / (c + b · n), so "within 5 %" and "a doubling
  gains at most 5 %" say the same.
* **Knee**: the smallest n with n / t(n) ≥ (1 − within) · plateau, where t is linear between the batches measured, and throughput
  is made not to fall (isotonic regression, pool adjacent violators), so that one lucky batch is no knee.
* Where throughput falls off again by more than ``within`` of its best, the larger batches are left out of both, and it is said.

The time of a batch is that of its *undisturbed* steps: the fastest tenth over all repeats. What else runs on a machine only makes
a step longer, by amounts that say nothing of the worker, so that a median is at the mercy of the neighbours (on shared cores it
doubled while the fastest steps stayed within 3 %). How far the medians lie above is told (``disturbed``). Intervals
are bootstrap percentiles: repeats are drawn, the same ones for every batch (what drifts hits all of them), and steps within each.
The knee's lower bound is of the batch *below* the crossing: between two batches t may bend anywhere, so that the straight line is
its upper bound (t is convex), and how far apart the batches lie is part of what is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from labkit.errors import SpecError
from labkit.measure.columns import Floats, Ints
from labkit.measure.statistics import Interval

#: Part of the plateau that the knee may lack.
WITHIN: Final = 0.05
#: Percentile of step times that is taken for a worker left alone.
UNDISTURBED: Final = 10.0
#: Batches that are needed to tell a plateau from a slope.
LEAST_BATCHES: Final = 3
_SLACK: Final = 0.03  # what a smaller batch may lie below the line by chance
_LEAST_REACHED: Final = 0.5  # of a plateau that is told at all: further off it is made of noise
_OCTAVES: Final = 4.0  # batches from a quarter of the largest on tell the plateau

#: ``found``: between the smallest and the largest batch. ``first``: the smallest batch saturates already. ``none``: the largest
#: batch does not.
Kind = Literal["found", "first", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Steps of one size.

    Attributes:
        tokens: new tokens of each step.
        prompts: that they belong to.
        step_s: per repeat, seconds of each step, at least one.
        ttft_s: per repeat, time to first token of each request that such a step served, without the wait for its turn.

    Raises:
        SpecError: no step, or a time that is none.
    """

    tokens: int
    prompts: int
    step_s: tuple[Floats, ...]
    ttft_s: tuple[Floats, ...]

    def __post_init__(self) -> None:
        times = np.concatenate([np.zeros(0), *self.step_s, *self.ttft_s])
        if (
            not all(map(len, (self.step_s, self.ttft_s, *self.step_s, *self.ttft_s)))
            or not (np.isfinite(times) & (times > 0)).all()
        ):
            raise SpecError(
                f"the batch of {self.tokens} tokens has a repeat without steps, or a step without a time",
                remedy="leave out what was not measured",
            )


@dataclass(frozen=True, slots=True)
class Point:
    """What one batch gave.

    Attributes:
        tokens, prompts: of a step.
        steps: measured.
        step_s: of undisturbed steps, with its interval.
        tok_s: tokens per second of step, likewise.
        ttft_s: of the requests in undisturbed steps, likewise.
        median_step_s: of all of its steps.
    """

    tokens: int
    prompts: int
    steps: int
    step_s: Interval
    tok_s: Interval
    ttft_s: Interval
    median_step_s: float


@dataclass(frozen=True, slots=True)
class Knee:
    """Where a worker saturates.

    Attributes:
        kind: whether the knee lies in the range.
        points: of each batch, in the order of their size.
        within: part of the plateau that the knee may lack.
        plateau_tok_s: ``None`` where the batches do not tell one.
        tokens: of a step at the knee. Of ``first`` the smallest batch; ``None`` for ``none``. A lower bound at the smallest batch
            means "or less"; an upper bound of inf, "not in the range".
        prompts: the same in whole prompts, rounded up: what a worker's batch should hold.
        ttft_s: at the knee.
        reached: throughput of the largest batch that counts, as a part of the plateau; 0 where there is none.
        still_gains: what the last doubling of the batch gained, as a part; ``None`` where no batch is half as large.
        falls_from: tokens of the batch after which throughput falls off again; ``None`` where it does not.
    """

    kind: Kind
    points: tuple[Point, ...]
    within: float
    plateau_tok_s: Interval | None
    tokens: Interval | None
    prompts: int | None
    ttft_s: Interval | None
    reached: float
    still_gains: float | None
    falls_from: int | None

    @property
    def disturbed(self) -> float:
        """How much longer than an undisturbed step a usual one took, as a part: the median over the batches."""
        return float(np.median([point.median_step_s / point.step_s.estimate - 1 for point in self.points]))

    @property
    def isl(self) -> int:
        """Tokens of a prompt."""
        return self.points[0].tokens // self.points[0].prompts


def find_knee(
    batches: Sequence[Batch], *, within: float = WITHIN, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Knee:
    """The knee of measured steps of one prompt length.

    Args:
        batches: in any order, each size once, the same number of repeats each.
        within: part of the plateau that the knee may lack.
        seed, resamples, level: of the bootstrap.

    Raises:
        SpecError: fewer than three batches, unequal repeats, a size twice, or ``within`` that is no part.
    """
    batches = sorted(batches, key=lambda batch: batch.tokens)
    _check(batches, within)
    n = np.array([batch.tokens for batch in batches], np.float64)
    step_s, ttft_s = (
        np.array([np.percentile(np.concatenate(getattr(b, name)), UNDISTURBED) for b in batches]) for name in ("step_s", "ttft_s")
    )
    drawn_steps, drawn_ttfts = _resampled(batches, seed, resamples)
    here = _curve(n, step_s, ttft_s, within)
    drawn = [_curve(n, times, ttfts, within) for times, ttfts in zip(drawn_steps, drawn_ttfts, strict=True)]
    repeats, steps = len(batches[0].step_s), [sum(map(len, batch.step_s)) for batch in batches]

    def interval(estimate: float, low: Floats, high: Floats, of: int) -> Interval:
        bounds = (
            np.percentile(values[~np.isnan(values)], q, method="nearest")
            for values, q in ((low, 50 - 50 * level), (high, 50 + 50 * level))
        )
        lowest, highest = (float(bound) for bound in bounds)
        lowest, highest = min(lowest, float(estimate)), max(highest, float(estimate))
        over = "repeats and steps" if repeats > 1 else "steps"
        return Interval(lowest, float(estimate), highest, level=level, n=of, repeats=repeats, over=over)

    def of_batch(i: int, estimate: float, values: Floats) -> Interval:
        return interval(estimate, values, values, steps[i])

    points = tuple(
        Point(
            batch.tokens, batch.prompts, steps[i],
            step_s=of_batch(i, step_s[i], drawn_steps[:, i]),
            tok_s=of_batch(i, n[i] / step_s[i], n[i] / drawn_steps[:, i]),
            ttft_s=of_batch(i, ttft_s[i], drawn_ttfts[:, i]),
            median_step_s=float(np.median(np.concatenate(batch.step_s))),
        )
        for i, batch in enumerate(batches)
    )  # fmt: skip
    isl, found = batches[0].tokens / batches[0].prompts, here.kind != "none"
    plateaus = np.array([one.plateau_tok_s for one in drawn])
    tokens, ttfts = (np.array([getattr(one, name) for one in drawn]) for name in ("tokens", "ttft_s"))
    return Knee(
        kind=here.kind,
        points=points,
        within=within,
        plateau_tok_s=interval(here.plateau_tok_s, plateaus, plateaus, sum(steps)) if np.isfinite(here.plateau_tok_s) else None,
        tokens=interval(here.tokens[1], tokens[:, 0], tokens[:, 1], sum(steps)) if found else None,
        prompts=int(np.ceil(here.tokens[1] / isl - 1e-9)) if found else None,
        ttft_s=interval(here.ttft_s[1], ttfts[:, 0], ttfts[:, 1], sum(steps)) if found else None,
        reached=here.reached,
        still_gains=_last_gain(n[: here.counted], step_s[: here.counted]),
        falls_from=batches[here.counted - 1].tokens if here.counted < len(batches) else None,
    )


def _check(batches: Sequence[Batch], within: float) -> None:
    if not 0 < within < 1:
        raise SpecError(f"within = {within!r} is no part of a plateau", remedy="use 0.05 for 5 %")
    sizes = [batch.tokens for batch in batches]
    if len(set(sizes)) < LEAST_BATCHES or len(set(sizes)) < len(sizes):
        raise SpecError(
            f"batches of {', '.join(map(str, sizes)) or 'no'} tokens show no plateau",
            remedy=f"measure {LEAST_BATCHES} sizes or more, each once, over a range of 8 or more",
        )
    if len({len(batch.step_s) for batch in batches} | {len(batch.ttft_s) for batch in batches}) > 1:
        raise SpecError("batches were measured in different numbers of repeats", remedy="measure each batch in every repeat")
    if len({batch.tokens / batch.prompts for batch in batches}) > 1:
        raise SpecError("batches are of prompts of different lengths", remedy="find a knee for each prompt length")


@dataclass(frozen=True, slots=True)
class _Curve:
    """What one set of step times says.

    Attributes:
        tokens, ttft_s: between the batch below the knee and the one above, and at the knee; inf where it is not in the range.
        counted: batches before throughput falls off.
    """

    kind: Kind
    tokens: tuple[float, float]
    ttft_s: tuple[float, float]
    plateau_tok_s: float
    reached: float
    counted: int


_BEYOND: Final = (np.inf, np.inf)


def _curve(n: Floats, step_s: Floats, ttft_s: Floats, within: float) -> _Curve:
    tok_s = n / step_s
    counted = int(np.flatnonzero(tok_s >= (1 - within) * tok_s.max())[-1]) + 1
    n, tok_s, ttft_s = n[:counted], tok_s[:counted], ttft_s[:counted]
    plateau = float(tok_s.max())  # of batches too few for a slope: throughput falls from the smallest ones on
    if counted >= LEAST_BATCHES:
        slope = _slope(n, step_s[:counted])
        plateau = 1 / slope if slope > 0 else np.inf
    if float(tok_s.max()) < _LEAST_REACHED * plateau:
        return _Curve("none", _BEYOND, _BEYOND, np.inf, 0.0, counted)
    tok_s = _rising(tok_s)
    ttft_s = _rising(ttft_s)
    times, wanted, reached = n / tok_s, (1 - within) * plateau, float(tok_s[-1] / plateau)
    i = int(np.searchsorted(tok_s, wanted))
    if i == len(n):
        return _Curve("none", _BEYOND, _BEYOND, plateau, reached, counted)
    if i == 0:
        return _Curve("first", (float(n[0]),) * 2, (float(ttft_s[0]),) * 2, plateau, reached, counted)
    slope = (times[i] - times[i - 1]) / (n[i] - n[i - 1])
    at = wanted * (times[i - 1] - slope * n[i - 1]) / (1 - wanted * slope)
    ttfts = float(ttft_s[i - 1]), float(np.interp(at, n, ttft_s))
    return _Curve("found", (float(n[i - 1]), float(at)), ttfts, plateau, reached, counted)


def _slope(n: Floats, step_s: Floats) -> float:
    """b of t = c + b · n: fitted to the three largest batches, then to more of the upper ones while they lie on the line."""
    first = len(n) - LEAST_BATCHES
    slope, at_zero = _line(n, step_s, first)
    while first > 0 and n[first - 1] >= n[-1] / _OCTAVES:
        if step_s[first - 1] > (1 + _SLACK) * (at_zero + slope * n[first - 1]):
            break
        first -= 1
        slope, at_zero = _line(n, step_s, first)
    return slope


def _line(n: Floats, step_s: Floats, first: int) -> tuple[float, float]:
    """b and c from the batches from ``first`` on: least squares of relative errors, where the line lies above 0 and not above the
    smaller batches: t is convex, so that its asymptote passes below them.
    """
    x, y = n[first:], step_s[first:]
    weight = 1 / y**2
    mean_x, mean_y = (float((weight * v).sum() / weight.sum()) for v in (x, y))
    b = float((weight * (x - mean_x) * (y - mean_y)).sum() / (weight * (x - mean_x) ** 2).sum())
    at, most = np.append(0.0, n[:first]), np.append(0.0, step_s[:first] * (1 + _SLACK))

    def allowed(slope: float, at_zero: float) -> bool:
        line = at_zero + slope * at
        return bool(line[0] >= -1e-12 and (line[1:] <= most[1:] * (1 + 1e-9)).all())

    if allowed(b, mean_y - b * mean_x):
        return b, mean_y - b * mean_x
    best, least = (float((x / y).sum() / ((x / y) ** 2).sum()), 0.0), np.inf
    for x0, y0 in zip(at.tolist(), most.tolist(), strict=True):  # lines through one limit: the best that respects the others
        through = float((weight * (x - x0) * (y - y0)).sum() / (weight * (x - x0) ** 2).sum())
        error = float((weight * (y - y0 - through * (x - x0)) ** 2).sum())
        if error < least and allowed(through, y0 - through * x0):
            best, least = (through, y0 - through * x0), error
    return best


def _rising(values: Floats) -> Floats:
    """The nearest sequence that does not fall: isotonic regression by pooling adjacent violators."""
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, p), (b, q) = blocks[-2:]
            blocks[-2:] = [((a * p + b * q) / (p + q), p + q)]
    return np.repeat([value for value, _ in blocks], [count for _, count in blocks])


def _resampled(batches: Sequence[Batch], seed: int, resamples: int) -> tuple[Floats, Floats]:
    """Times of undisturbed steps and TTFTs in them, (resamples, batches)."""
    rng = np.random.default_rng(seed)
    repeats = len(batches[0].step_s)
    drawn = rng.integers(0, repeats, (resamples, repeats))
    steps, ttfts = ([_undisturbed(getattr(b, name), drawn, rng) for b in batches] for name in ("step_s", "ttft_s"))
    return np.stack(steps, axis=1), np.stack(ttfts, axis=1)


def _undisturbed(parts: Sequence[Floats], drawn: Ints, rng: np.random.Generator) -> Floats:
    """The percentile of each resample: of the values drawn from the repeats that were drawn."""
    counts = np.array([len(part) for part in parts])
    padded = np.full((len(parts), counts.max()), np.nan)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    many = counts[drawn][..., None]
    picked = (rng.random((*drawn.shape, counts.max())) * many).astype(np.int64)
    values = np.where(np.arange(counts.max()) < many, padded[drawn[..., None], picked], np.inf)
    values = np.sort(values.reshape(len(drawn), -1), axis=1)
    rank = UNDISTURBED / 100 * (counts[drawn].sum(axis=1) - 1)
    below = rank.astype(np.int64)
    above = np.minimum(below + 1, values.shape[1] - 1)
    rows, part_of = np.arange(len(drawn)), rank - below
    upper = np.where(part_of > 0, values[rows, above], 0.0)  # no inf times 0
    found: Floats = (1 - part_of) * values[rows, below] + part_of * upper
    return found


def _last_gain(n: Floats, step_s: Floats) -> float | None:
    half = np.flatnonzero(n <= n[-1] / 2)
    if not len(half):
        return None
    i = int(half[-1])
    per_doubling = np.log(n[-1] / step_s[-1] * step_s[i] / n[i]) / np.log2(n[-1] / n[i])
    return float(np.expm1(per_doubling))
