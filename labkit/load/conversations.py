"""Which turns the conversations of a workload have: pure functions of the workload and its seed.

A conversation's prompts grow: each holds all earlier prompts and answers. Where the next would not fit the model any more, the
conversation ends before it. What is drawn for a conversation is the same whatever the model's length and however many
requests are asked for, so that two servers are asked the same as far as both can take it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Final, NamedTuple

import numpy as np

from labkit.load.draws import Draw, Integers, LoadPhase, clip, draw_lengths, draw_seconds, rng
from labkit.load.remembered import remembered
from labkit.spec import Durations, Lengths, Workload
from labkit.spec.workload import MOST_TURNS, TURN_TEMPLATE_TOKENS

_BLOCK: Final = 256  # conversations drawn at once

DrawLengths = Callable[[np.random.Generator, int], Integers]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a conversation.

    Attributes:
        index: among all requests of its phase.
        isl: tokens of the whole prompt: history and new ones.
        new: tokens of it that are new.
        osl: tokens asked for.
        think_ns: from the end of the answer before; 0 for the first turn.
    """

    index: int
    isl: int
    new: int
    osl: int
    think_ns: int


class _Lost(NamedTuple):
    """Conversations that end before their time, the turns that they lack; first turns that were cut, and by how many tokens."""

    conversations: int
    turns: int
    firsts: int
    prompt: int
    answer: int


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """Turns of ``_BLOCK`` conversations, one behind the other.

    Attributes:
        starts, drawn, kept: of each conversation its first turn, and its turns as drawn and as far as they fit.
        before, isl, osl, think_ns: of each turn the tokens of its history, of its new prompt, of its answer, and the pause.
        lost_isl, lost_osl: tokens clipped of it.
    """

    starts: Integers
    drawn: Integers
    kept: Integers
    before: Integers
    isl: Integers
    osl: Integers
    think_ns: Integers
    lost_isl: Integers
    lost_osl: Integers


class Conversations:
    """The conversations of a workload with ``turns``, by phase and number (0, 1, … in each phase).

    Args:
        workload: what is asked for. Its number of requests bounds the measure phase: the turns of one conversation are
            counted after those of the one before.
        isl, osl: draw the lengths of new prompts and of answers.
    """

    def __init__(self, workload: Workload, isl: DrawLengths, osl: DrawLengths) -> None:
        assert workload.turns is not None
        self._work, self._isl, self._osl = workload, isl, osl
        self._turns, self._think = Lengths.parse(workload.turns), Durations.parse(workload.think_s or 0)
        self._block = remembered(self._draw, 8)
        self.turns = remembered(self._turns_of, 1024)
        self._offsets: dict[LoadPhase, list[int]] = {"warmup": [0], "measure": [0]}

    def _turns_of(self, phase: LoadPhase, number: int) -> tuple[Turn, ...]:
        """The turns of a conversation, at least one; none where the requests asked for end before it."""
        block, at = self._block(phase, number // _BLOCK), number % _BLOCK
        index = self._offset(phase, number // _BLOCK) + int(block.kept[:at].sum())
        kept = int(block.kept[at])
        if phase == "measure" and self._work.requests is not None:
            kept = max(min(kept, self._work.requests - index), 0)
        rows = slice(int(block.starts[at]), int(block.starts[at]) + kept)
        columns = (block.before[rows] + block.isl[rows], block.isl[rows], block.osl[rows], block.think_ns[rows])
        return tuple(
            Turn(index + turn, *row) for turn, row in enumerate(zip(*(column.tolist() for column in columns), strict=True))
        )

    def starts(self, phase: LoadPhase) -> int | None:
        """How many conversations a phase of a number of requests has; ``None`` where only time bounds it."""
        return self._measured if phase == "measure" else None

    @cached_property
    def _measured(self) -> int | None:
        requests = self._work.requests
        if requests is None:
            return None
        block = next(block for block in count() if self._offset("measure", block + 1) >= requests)
        ends = self._offset("measure", block) + np.cumsum(self._block("measure", block).kept)
        return block * _BLOCK + int(np.searchsorted(ends, requests)) + 1

    def notes(self, known: int, first: str = "") -> tuple[str, ...]:
        """What a reader must know of the first ``known`` conversations of the measure phase, a sentence each.

        Args:
            known: how many there are, or are looked at.
            first: stands before that number: empty where it is that of all.
        """
        work, said = self._work, list[str]()
        if work.requests is not None:
            fewer = f", fewer than the {work.concurrency} at a time" if work.concurrency and known < work.concurrency else ""
            said.append(f"the {work.requests} requests are the turns of {known} conversations{fewer}")
        if work.history == "served":
            said.append("the history holds what the server answers: the requests are not the same byte for byte elsewhere")
        lost = self._clipped(known)
        if lost.conversations:
            said.append(
                f"{lost.conversations} of {first}{known} conversations would outgrow {work.clip_tokens} tokens and end before: "
                f"{lost.turns} turns left out"
            )
        if lost.firsts:
            said.append(
                f"the first turns of {lost.firsts} of {first}{known} conversations are longer than {work.clip_tokens} tokens "
                f"and were clipped: {lost.prompt} tokens of prompts and {lost.answer} of answers left out"
            )
        return tuple(said)

    def _clipped(self, conversations: int) -> _Lost:
        lost = np.zeros(5, np.int64)
        for number in range(-(-conversations // _BLOCK)):
            block, most = self._block("measure", number), conversations - number * _BLOCK
            missing, first = (block.drawn - block.kept)[:most], block.starts[:most]
            cut = block.lost_isl[first] + block.lost_osl[first]
            sums = (missing > 0, missing, cut > 0, block.lost_isl[first], block.lost_osl[first])
            lost += [int(column.sum()) for column in sums]
        return _Lost(*lost.tolist())

    def _offset(self, phase: LoadPhase, block: int) -> int:
        """Requests of the phase before a block."""
        offsets = self._offsets[phase]
        while len(offsets) <= block:
            offsets.append(offsets[-1] + int(self._block(phase, len(offsets) - 1).kept.sum()))
        return offsets[block]

    def _draw(self, phase: LoadPhase, block: int) -> _Block:
        seed, limit = self._work.seed, self._work.clip_tokens

        def stream(draw: Draw) -> np.random.Generator:
            return rng(seed, draw, phase, block)

        drawn = np.minimum(draw_lengths(self._turns, stream(Draw.TURNS), _BLOCK, _values(self._turns)), MOST_TURNS)
        ends = np.cumsum(drawn)
        starts, total = ends - drawn, int(ends[-1])
        turn = np.arange(total) - np.repeat(starts, drawn)
        asked = self._isl(stream(Draw.ISL), total), self._osl(stream(Draw.OSL), total)
        isl, osl = clip(*asked, limit)
        think_ns = (draw_seconds(self._think, stream(Draw.THINK), total) * 1e9).astype(np.int64)
        think_ns[starts] = 0
        said = np.cumsum(isl + osl) - (isl + osl)
        before = said - np.repeat(said[starts], drawn)
        kept = drawn.copy()
        if limit is not None:
            template = TURN_TEMPLATE_TOKENS * turn if self._work.api == "chat" else 0
            beyond = np.flatnonzero(before + isl + osl + template > limit)
            np.minimum.at(kept, np.repeat(np.arange(_BLOCK), drawn)[beyond], turn[beyond])
        return _Block(starts, drawn, kept, before, isl, osl, think_ns, asked[0] - isl, asked[1] - osl)


def content_key(number: int, turn: int) -> int:
    """What tells the contents of a turn from all others of its phase."""
    return number * MOST_TURNS + turn


def _values(lengths: Lengths) -> Integers | None:
    return np.asarray(lengths.values, dtype=np.int64) if lengths.values else None
