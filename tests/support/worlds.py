"""Records of worlds whose interference is known: by construction a prefill makes a step longer by a given share, or not at all.

``engine`` works in steps: a prefill is part of one, or of several, and whoever decodes beside it waits. In ``scattered`` gaps and
prefills know nothing of each other, except that both may be more frequent in busy spells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from labkit.measure.records import CHUNKS, REQUESTS, SPANS, Records, Window
from tests.support.handmade import SECOND, window

Rng = np.random.Generator
Noise = Callable[[Rng], float]
START_S, DELIVERY_S = 100.0, 0.001


def regular(rng: Rng) -> float:
    return rng.lognormal(0, 0.08)


def heavy(rng: Rng) -> float:
    """Log-normal of σ 0.5, mean 1."""
    return rng.lognormal(-0.125, 0.5)


def stalling(rng: Rng) -> float:
    """One in a hundred takes ten times as long."""
    return rng.lognormal(0, 0.08) * (10 if rng.random() < 0.01 else 1)


@dataclass
class Served:
    """One request: seconds since the measure phase began."""

    worker: str
    sent_s: float
    prefill_s: tuple[float, float]
    tokens_s: list[float] = field(default_factory=list)
    isl: int = 8


@dataclass(frozen=True)
class World:
    """Records of one window, and what they were made from."""

    records: Records
    window: Window
    served: tuple[Served, ...]

    @property
    def measured(self) -> tuple[tuple[Records, Window], ...]:
        """As ``interference`` takes it."""
        return ((self.records, self.window),)


def engine(
    seed: int,
    effect: float,
    *,
    noise: Noise = regular,
    topology: str = "1A",
    workers: int = 1,
    rate: float | Callable[[float], float] = 1.5,
    length_s: float = 60.0,
    osl: int = 32,
    step_s: float = 0.016,
    per_request_s: float = 0.0011,
    parts: int = 1,
    ahead: bool = False,
    spans: bool = True,
    isls: Sequence[int] = (8,),
    per_token_s: float = 0.0,
    chunk: int | None = None,
) -> World:
    """Workers that take turns in getting requests. A step with a prefill takes (1 + effect) times as long as without.

    Args:
        seed, noise: a factor on every step's time.
        effect: as above.
        topology: what the window says; workers are all aggregated.
        workers: how many.
        rate: requests per second, constant or at an instant.
        length_s, osl: of the measure phase, and tokens per answer.
        step_s, per_request_s: of a step, and what each request in it adds.
        parts: steps that a prefill takes.
        ahead: a prefill is scheduled one step before it is computed.
        spans: whether the engine tells.
        isls: prompt lengths, taken in turn.
        per_token_s: what each token of a prompt adds to its steps, in equal parts, besides.
        chunk: most tokens of a step, in place of ``parts``.
    """
    rng = np.random.default_rng(seed)
    at = rate if callable(rate) else lambda _: float(rate)
    most = max(at(t) for t in np.linspace(-10, length_s, 500))
    arrivals = np.cumsum(rng.exponential(1 / most, int(most * (length_s + 10) * 2) + 20)) - 10
    arrivals = [t for t in arrivals if t < length_s and rng.random() < at(t) / most]
    served = []
    for number in range(workers):
        served += _steps(
            rng, arrivals[number::workers], f"w{number}", effect, noise, osl, step_s, per_request_s, parts, ahead,
            cycle(isls), per_token_s, chunk,
        )  # fmt: skip
    return _records(served, length_s, topology, spans=spans)


def _steps(
    rng: Rng, arrivals: Sequence[float], worker: str, effect: float, noise: Noise, osl: int, step_s: float, each_s: float,
    parts: int, ahead: bool, isls: Iterator[int], token_s: float, chunk: int | None,
) -> list[Served]:  # fmt: skip
    served: list[Served] = []
    running: list[Served] = []
    new: Served | None = None
    share_s = 0.0
    waiting, now, before, left = list(arrivals), -10.0, -10.0, 0
    while waiting or running or new:
        if new is None and waiting and waiting[0] <= now:
            scheduled = before if ahead and running else now
            new = Served(worker, waiting.pop(0), (scheduled + 0.0001, now), isl=next(isls))
            left = -(-new.isl // chunk) if chunk else parts
            share_s = token_s * new.isl / left  # of a last, smaller chunk as of the others
        if new is None and not running:
            before = now = waiting[0]
            continue
        took = (step_s + each_s * len(running)) * noise(rng) * (1 + effect * (new is not None))
        took += share_s if new is not None else 0.0
        before, now, left = now, now + took, left - 1
        if new is not None and not left:
            new.prefill_s = (new.prefill_s[0], now)
            served.append(new)
            running.append(new)
            new = None
        for one in running:
            one.tokens_s.append(now + DELIVERY_S * rng.uniform(1, 1.3))
        running = [one for one in running if len(one.tokens_s) < osl]
    return served


def scattered(
    seed: int,
    *,
    noise: Noise,
    streams: Callable[[float], int] = lambda _: 6,
    gap_s: Callable[[int], float] = lambda _: 0.02,
    prefill_s: float = 0.03,
    prefill_rate: Callable[[int], float] = lambda _: 1.5,
    pace: Callable[[float], float] = lambda _: 1.0,
    length_s: float = 60.0,
    spell_s: float = 3.0,
    isls: Sequence[int] = (8,),
) -> World:
    """Gaps and prefills without any effect on each other.

    Args:
        seed, noise: a factor on every gap.
        streams: requests that decode, asked once a spell at its beginning.
        gap_s, prefill_rate: mean gap, and prefills per second, by the number of streams.
        prefill_s: how long each takes.
        pace: what gaps and prefills are multiplied with, asked once a spell.
        length_s, spell_s: of the measure phase and of a spell.
        isls: prompt lengths, taken in turn.
    """
    rng = np.random.default_rng(seed)
    served, lengths = [], cycle(isls)
    for begin in np.arange(0, length_s, spell_s):
        n, slow = streams(float(begin)), pace(float(begin))
        for _ in range(n):
            token, tokens = float(begin + rng.random() * gap_s(n)), []
            while token < begin + spell_s:
                tokens.append(token)
                token += gap_s(n) * slow * noise(rng)
            served.append(Served("w0", tokens[0], (tokens[0] - 2e-6, tokens[0] - 1e-6), tokens))
        for start in begin + spell_s * rng.random(rng.poisson(prefill_rate(n) * spell_s)):
            end = start + prefill_s * slow
            served.append(Served("w0", start, (start, end), [end], isl=next(lengths)))
    return _records(served, length_s, "1A", spans=True)


def crowds(seed: int, **options: Any) -> World:
    """Busy spells have more streams, longer gaps and more prefills than others; there is no effect."""
    streams = np.random.default_rng(seed).integers(1, 9, 1000)
    return scattered(
        seed,
        noise=lambda rng: rng.lognormal(-0.02, 0.2),
        streams=lambda t: int(streams[int(t)]),
        gap_s=lambda n: 0.010 + 0.004 * n,
        prefill_rate=lambda n: 2 * (n / 4.5) ** 1.5,
        **options,
    )


def _records(served: Sequence[Served], length_s: float, topology: str, *, spans: bool) -> World:
    def ns(seconds: float) -> int:
        return round((START_S + seconds) * SECOND)

    rows = [
        {
            "request": number, "measurement": 0, "index": number, "epoch": 0, "shard": 0, "straddled": False, "done": True,
            "phase": "measure" if one.sent_s >= 0 else "warmup", "scheduled_ns": ns(one.sent_s), "sent_ns": ns(one.sent_s),
            "end_ns": ns(one.tokens_s[-1]), "isl": one.isl, "osl": len(one.tokens_s), "outcome": "ok", "http_status": 200,
            "prompt_tokens": one.isl, "output_tokens": len(one.tokens_s), "tokens_from": "usage", "server_id": f"cmpl-r{number}",
        }
        for number, one in enumerate(served)
    ]  # fmt: skip
    told = [
        {
            "worker": one.worker, "server_id": f"cmpl-r{number}-0", "start_ns": ns(one.sent_s),
            "queue_s": one.prefill_s[0] - one.sent_s, "prefill_s": one.prefill_s[1] - one.prefill_s[0],
            "decode_s": one.tokens_s[-1] - one.tokens_s[0], "prompt_tokens": one.isl,
        }
        for number, one in enumerate(served)
    ]  # fmt: skip
    seconds = np.concatenate([one.tokens_s for one in served])
    chunks = {
        "request": np.repeat(np.arange(len(served)), [len(one.tokens_s) for one in served]),
        "t_ns": np.rint((START_S + seconds) * SECOND).astype(np.int64),
        "tokens": np.ones(len(seconds), np.int16),
        "text": np.ones(len(seconds), np.bool_),
    }
    measured = window(
        topology=topology, side=topology, start_ns=ns(-15), measure_ns=ns(0), stop_ns=ns(length_s), end_ns=ns(length_s + 30)
    )
    made = Records(
        pa.Table.from_pylist(rows, schema=REQUESTS),
        pa.table(chunks, schema=CHUNKS),
        spans=pa.Table.from_pylist(told if spans else [], schema=SPANS),
        windows=(measured,),
    )
    return World(made, measured, tuple(served))


def overlap_ratio(world: World) -> float:
    """The naive figure, in plain loops: mean gap that overlaps another request's prefill / mean of the other gaps − 1."""
    sums = {True: [0, 0.0], False: [0, 0.0]}
    for one in world.served:
        others = [other.prefill_s for other in world.served if other is not one and other.worker == one.worker]
        for begin, end in pairwise(one.tokens_s):
            if one.sent_s >= 0 <= begin and end < world.window.length_s:
                found = sums[any(start < end and stop > begin for start, stop in others)]
                found[0] += 1
                found[1] += end - begin
    (seen, seen_s), (clear, clear_s) = sums[True], sums[False]
    return seen_s / seen / (clear_s / clear) - 1
