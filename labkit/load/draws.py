"""Random numbers for each purpose, from the seed alone.

Every number is drawn from a stream of its own, keyed by ``(seed, what, phase, key)``: another ISL distribution leaves the
arrivals alone, a longer warm-up leaves the measured requests alone, and any number of shards can draw the same request.
"""

from __future__ import annotations

from enum import IntEnum
from hashlib import shake_128
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from labkit.spec import Durations, Lengths
from labkit.spec.durations import MOST_S
from labkit.spec.lengths import MOST_TOKENS

Integers = npt.NDArray[np.int64]

LoadPhase = Literal["warmup", "measure"]
_PHASE_KEY: Final[dict[LoadPhase, int]] = {"measure": 0, "warmup": 1}


class Draw(IntEnum):
    """What a random stream is for. The numbers are part of "same seed, same requests": never renumber."""

    ISL = 0
    OSL = 1
    ARRIVALS = 2
    CONTENTS = 3
    PREFIX = 4
    GROUP = 5
    BLOCK = 6
    SAMPLE = 7
    TURNS = 8
    THINK = 9
    ANSWER = 10


def rng(seed: int, draw: Draw, phase: LoadPhase, key: int) -> np.random.Generator:
    """The generator of one purpose: equal arguments, equal numbers; different ones, independent streams."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(draw), _PHASE_KEY[phase], key))))


class Piece(NamedTuple):
    """A part of a prompt: the first ``tokens`` of the random contents that ``(draw, phase, key)`` stand for."""

    draw: Draw
    phase: LoadPhase
    key: int
    tokens: int


def contents(seed: int, piece: Piece, choices: int) -> Integers:
    """A number in [0, ``choices``) for each token of a piece, int64, uniform to 2⁻³².

    They are the output of SHAKE128, an extendable function, on what names the piece: a longer piece begins like a shorter one,
    no two pieces have more in common than chance allows, and no version of NumPy changes them.
    """
    name = f"{seed} {int(piece.draw)} {_PHASE_KEY[piece.phase]} {piece.key}"
    words = np.frombuffer(shake_128(name.encode()).digest(4 * piece.tokens), "<u4")
    return (words * np.uint64(choices) >> np.uint64(32)).view(np.int64)


def clip(isl: Integers, osl: Integers, limit: int | None) -> tuple[Integers, Integers]:
    """Prompts and answers that together have at most ``limit`` tokens.

    Where they have more, neither is cut below half of the limit for the sake of the other; a prompt loses its end, so that
    what it shares with others at its beginning stays shared.
    """
    if limit is None:
        return isl, osl
    answer = np.minimum(osl, np.maximum(limit - isl, limit // 2))
    return np.minimum(isl, limit - answer), answer


def draw_lengths(
    lengths: Lengths, generator: np.random.Generator, count: int, values: Integers | None = None
) -> npt.NDArray[np.int64]:
    """``count`` token counts of the distribution, rounded to whole tokens and clipped to [1, 10 million].

    Args:
        values: what ``empirical`` and ``file`` lengths draw from, with replacement.
    """
    if values is not None:
        return generator.choice(values, count)
    match lengths.kind:
        case "fixed":
            drawn: npt.NDArray[np.float64] = np.full(count, lengths.a)
        case "uniform":
            drawn = generator.integers(int(lengths.a), int(lengths.b) + 1, count).astype(np.float64)
        case "normal":
            drawn = generator.normal(lengths.a, lengths.b, count)
        case "lognormal":
            drawn = generator.lognormal(np.log(lengths.a), lengths.b, count)
        case _:
            raise ValueError(f"nothing to draw {lengths.kind} lengths from")
    return np.clip(np.rint(drawn), 1, MOST_TOKENS).astype(np.int64)


def draw_seconds(durations: Durations, generator: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """``count`` durations of the distribution in seconds, clipped to [0, one day]."""
    match durations.kind:
        case "fixed":
            drawn: npt.NDArray[np.float64] = np.full(count, durations.a)
        case "uniform":
            drawn = generator.uniform(durations.a, durations.b, count)
        case "exponential":
            drawn = generator.exponential(durations.a, count)
        case "normal":
            drawn = generator.normal(durations.a, durations.b, count)
        case "lognormal":
            drawn = generator.lognormal(np.log(durations.a), durations.b, count)
        case "empirical":
            drawn = generator.choice(np.asarray(durations.values), count)
    return np.clip(drawn, 0.0, MOST_S)
