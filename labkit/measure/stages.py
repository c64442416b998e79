"""Where the time of requests went, stage by stage, from the client's instants and the workers' spans.

The stages of a request follow one another without a gap, so they add up to its time, and the differences of their means to the
difference of the means. Instants inside the engine are those of ``measure.join``; without a second worker ``handover`` and
``kv_wait`` are 0.

    send_lag     scheduled → sent: the client
    routing      sent → at the first worker: router and HTTP
    queue        → the first step with its prompt: waiting for other requests
    prefill      → the step that ends its prompt
    handover     → at the decode worker: the prefill worker's answer, and the router
    kv_wait      → its first step there: KV transfer, and waiting for room in the batch
    first_token  → the first token at the client: that step, and the way back
    decode       → the last token at the client
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from labkit.measure.columns import Floats, Ints, floats
from labkit.measure.digest import Digest
from labkit.measure.join import join_spans
from labkit.measure.records import Window
from labkit.measure.timing import request_metrics

Stage = Literal["send_lag", "routing", "queue", "prefill", "handover", "kv_wait", "first_token", "decode"]
STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
#: Those before the first token: their sum is the TTFT from the scheduled send.
TO_FIRST_TOKEN: Final = len(STAGES) - 1
_RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """Of the requests of one window that count and ended as asked.

    Attributes:
        request: their numbers, shape (n,).
        seconds: shape (n, 8), a column for each of ``STAGES``.
        untold: requests that count and ended as asked, but of which no worker told; they are left out.
    """

    request: Ints
    seconds: Floats
    untold: int

    def __len__(self) -> int:
        return len(self.request)

    def of(self, stage: Stage) -> Floats:
        """One column."""
        return self.seconds[:, STAGES.index(stage)]


def stages_of(records: Digest, window: Window) -> Stages:
    """Sort the time of a window's requests into stages."""
    mine = records.of(window)
    metrics = request_metrics(mine)
    counted = metrics.select(metrics.measured & metrics.ok)
    spans = join_spans(mine)
    part = np.asarray(spans.column("part").to_numpy(zero_copy_only=False), dtype=object)
    owner = np.asarray(spans.column("request").to_numpy(), dtype=np.int64)
    arrived, begun, ended = (floats(spans, name) for name in ("start_ns", "prefill_start_ns", "prefill_end_ns"))
    order = np.argsort(counted.request, kind="stable")
    row_of = order[np.clip(np.searchsorted(counted.request[order], owner), 0, max(len(order) - 1, 0))] if len(order) else owner
    known = counted.request[row_of] == owner if len(order) else np.zeros(len(owner), np.bool_)

    def instants(values: Floats, parts: Sequence[str]) -> Floats:
        found = np.full(len(counted), np.nan)
        chosen = known & np.isin(part, parts)
        found[row_of[chosen]] = values[chosen]
        return found

    first, second = ("whole", "prefill"), ("decode",)
    prefilled = instants(ended, first)
    alone = np.isnan(instants(arrived, second))
    bounds = np.column_stack(
        [
            counted.scheduled_ns.astype(np.float64),
            counted.scheduled_ns + counted.send_lag_s * 1e9,
            instants(arrived, first),
            instants(begun, first),
            prefilled,
            np.where(alone, prefilled, instants(arrived, second)),
            np.where(alone, prefilled, instants(begun, second)),
            counted.first_token_ns,
            counted.last_token_ns,
        ]
    )
    seconds = np.diff(bounds, axis=1) / 1e9
    told = ~np.isnan(seconds).any(axis=1)
    return Stages(counted.request[told], seconds[told], int((~told).sum()))


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """Means of two sides, column by column, and their difference B − A with a 95 % interval; all of the same shape."""

    a: Floats
    b: Floats
    low: Floats
    high: Floats

    @property
    def difference(self) -> Floats:
        """B − A."""
        return self.b - self.a


def differences(side_a: Sequence[Floats], side_b: Sequence[Floats], *, seed: int = 0) -> Differences:
    """Compare the means of two sides, column by column.

    The interval is a two-level bootstrap: repeats are drawn with replacement, and within one its mean from the normal
    distribution that means of so many values have, which is what resampling its requests comes to. Where the repeats do not
    differ by more than their requests make them, it is wider than it need be.

    Args:
        side_a, side_b: per repeat an array of shape (requests, columns), each with at least one request.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    drawn = [_draw(side, rng) for side in (side_a, side_b)]
    low, high = np.percentile(drawn[1] - drawn[0], [2.5, 97.5], axis=0)
    means = [np.concatenate(side).mean(axis=0) for side in (side_a, side_b)]
    return Differences(means[0], means[1], low, high)


def _draw(side: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Means of resamples, shape (resamples, columns)."""
    counts = np.array([len(repeat) for repeat in side], np.float64)
    means = np.array([repeat.mean(axis=0) for repeat in side])
    errors = np.array(
        [repeat.std(axis=0, ddof=1) / np.sqrt(len(repeat)) if len(repeat) > 1 else 0 * repeat[0] for repeat in side]
    )
    chosen = rng.integers(len(side), size=(_RESAMPLES, len(side)))
    values = means[chosen] + errors[chosen] * rng.standard_normal((*chosen.shape, means.shape[1]))
    weights = counts[chosen][:, :, None]
    drawn: Floats = (values * weights).sum(axis=1) / weights.sum(axis=1)
    return drawn
