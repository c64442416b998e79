"""Which request comes when, and how long it is: pure functions of a workload and its seed.

Warm-up and measure phase are scheduled apart, so request *i* of the measure phase is the same whatever came before it. What
arrives is a request, or in a workload with ``turns`` a conversation; a request of its own is one of a single turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from labkit.errors import LoadError
from labkit.load.conversations import Conversations, Turn, content_key
from labkit.load.draws import Draw, Integers, LoadPhase, Piece, clip, draw_lengths, rng
from labkit.load.remembered import remembered
from labkit.load.traces import BLOCK_TOKENS, Trace, load_lengths, load_trace
from labkit.spec import Lengths, Workload
from labkit.spec.arrivals import Segment

_BLOCK: Final = 1024
_COUNTED: Final = 10_000  # requests looked at where their number is not known


class Schedule:
    """The requests of a workload, by phase and index (0, 1, … in each phase).

    Args:
        workload: lengths, arrivals and seed. ``Workload.requests`` and ``duration_s`` bound the measure phase only.

    Attributes:
        trace: the rows that are sent, where a file holds them.
        conversations: whose turns the requests are, where they have any.

    Raises:
        LoadError: a trace or a file of lengths that cannot be read, or that has fewer requests than were asked for.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.trace = load_trace(str(workload.trace)) if workload.trace is not None else None
        self._rows = _chosen(self.trace, workload) if self.trace is not None else np.zeros(0, np.int64)
        self._isl = isl = _source(Lengths.parse(workload.isl or 0), "isl")
        self._osl = osl = _source(Lengths.parse(workload.osl or 0), "osl")
        self.conversations: Conversations | None = None
        if workload.turns is not None:
            self.conversations = Conversations(workload, partial(_drawn, isl), partial(_drawn, osl))
        self._block = remembered(self._draw_lengths, 8)
        self._groups = remembered(self._draw_groups, 8)

    def turns(self, phase: LoadPhase, number: int) -> tuple[Turn, ...]:
        """The requests that follow from arrival ``number``: one, or those of a conversation; none beyond the phase's count."""
        if self.conversations is not None:
            return self.conversations.turns(phase, number)
        isl, osl = self.lengths(phase, number)
        return (Turn(number, isl, isl, osl, 0),)

    def lengths(self, phase: LoadPhase, index: int) -> tuple[int, int]:
        """``(isl, osl)`` in tokens of request ``index`` on its own, each at least 1, clipped."""
        isl, osl = self._block(phase, index // _BLOCK)[:2]
        return int(isl[index % _BLOCK]), int(osl[index % _BLOCK])

    def pieces(self, phase: LoadPhase, number: int, turn: int = 0) -> list[Piece]:
        """What the new part of a turn's prompt is made of; prompts that share a piece share its tokens.

        The blocks of a trace are those of their phase, so that a warm-up leaves no prefix of the measure phase behind. The
        prefixes of groups are the same in both.
        """
        work, pieces, left = self.workload, [], self.turns(phase, number)[turn].new
        if self.trace is not None and str(work.isl) == "trace":
            ids = self.trace.hash_ids(int(self._rows[number % len(self._rows)]))[: -(-left // BLOCK_TOKENS)]
            pieces = [
                Piece(Draw.BLOCK, phase, hash_id, min(left - at * BLOCK_TOKENS, BLOCK_TOKENS)) for at, hash_id in enumerate(ids)
            ]
        elif work.prefix_groups and turn == 0:
            group = int(self._groups(phase, number // _BLOCK)[number % _BLOCK])
            pieces = [Piece(Draw.PREFIX, "measure", group, min(left, work.prefix_tokens))]
        left -= sum(piece.tokens for piece in pieces)
        key = number if self.conversations is None else content_key(number, turn)
        return [*pieces, Piece(Draw.CONTENTS, phase, key, left)] if left else pieces

    def count(self, phase: LoadPhase) -> int | None:
        """Most requests of a phase; ``None`` where only time bounds it."""
        if phase == "warmup":
            return None
        return len(self._rows) if self.trace is not None else self.workload.requests

    def starts(self, phase: LoadPhase) -> int | None:
        """Most arrivals of a phase, of requests or conversations; ``None`` where only time bounds it."""
        return self.count(phase) if self.conversations is None else self.conversations.starts(phase)

    @property
    def gap_s(self) -> float:
        """Mean time between two sends of an open loop that a number of requests bounds; 0 where there is none."""
        work = self.workload
        times = list(self.arrivals("measure")) if work.is_open_loop and work.rate is None else []
        gap_s = 1 / work.rate if work.rate is not None else times[-1] / (len(times) - 1) if len(times) > 1 else 0.0
        return gap_s * (self.starts("measure") or 1) / (self.count("measure") or 1)

    def arrivals(self, phase: LoadPhase) -> Iterator[float]:
        """Arrivals of an open loop in seconds from the beginning of the phase, in order, up to the end of the phase.

        ``constant``: i / rate. ``poisson``: exponential gaps of mean 1 / rate. ``gamma``: gaps of shape B = burstiness and
        scale 1 / (rate · B), the definition of ``vllm bench serve`` (which then stretches all times so that the last one
        falls on n / rate; here the process is left as drawn). A rate that changes with time: the instants at which its
        integral reaches the times of a gamma process of rate 1. ``trace``: the times of its rows, the first of them 0, times
        ``time_scale``; a warm-up sends its beginning. The warm-up is bounded by ``warmup_s``.

        Raises:
            ValueError: the workload is a closed loop.
        """
        work = self.workload
        if not work.is_open_loop:
            raise ValueError("a closed loop has no arrivals")
        until_s = work.warmup_s if phase == "warmup" else work.duration_s
        most = self.starts(phase)
        for index, at_s in enumerate(self._endless(phase, until_s)):
            if (until_s is not None and at_s >= until_s) or (most is not None and index >= most):
                return
            yield at_s

    def notes(self) -> tuple[str, ...]:
        """What was taken from a file and what was clipped, a sentence each: nothing is cut in silence."""
        work, said = self.workload, list[str]()
        if self.trace is None and work.clip_tokens is None and self.conversations is None:
            return ()
        most = self.starts("measure")
        if work.is_open_loop and (most is None or work.duration_s is not None):
            known = sum(1 for _ in zip(self.arrivals("measure"), range(most or _COUNTED), strict=False))
            certain = most is not None or known < _COUNTED
        else:  # a closed loop that time ends sends as many as the server bears
            known, certain = most or _COUNTED, most is not None and work.duration_s is None
        first = "" if certain else "the first "
        if self.trace is not None:
            zeros = f"; {self.trace.zeros} lengths of 0 in it became 1" if self.trace.zeros else ""
            how = " drawn at random" if work.sample else ""
            over = f" over {[*self.arrivals('measure')][-1]:.1f} s" if work.process == "trace" else ""
            name = f"trace {Path(self.trace.path).name} (sha256 {self.trace.sha256[:12]})"
            said.append(f"{name}: {known} of {len(self.trace)} requests{how}{over}{zeros}")
        if self.conversations is not None:
            return self.conversations.notes(known, first)
        clipped, prompt, answer = self._clipped(known)
        if clipped:
            said.append(
                f"{clipped} of {first}{known} requests are longer than {work.clip_tokens} tokens and were clipped: "
                f"{prompt} tokens of prompts and {answer} of answers left out"
            )
        return tuple(said)

    def _clipped(self, known: int) -> tuple[int, int, int]:
        """Requests clipped, and tokens of prompts and answers left out, of the first ``known``."""
        clipped = prompt = answer = 0
        for block in range(-(-known // _BLOCK)):
            isl_cut, osl_cut = (column[: known - block * _BLOCK] for column in self._block("measure", block)[2:])
            clipped += int(np.count_nonzero(isl_cut + osl_cut))
            prompt, answer = prompt + int(isl_cut.sum()), answer + int(osl_cut.sum())
        return clipped, prompt, answer

    def _endless(self, phase: LoadPhase, until_s: float | None) -> Iterator[float]:
        work, profile = self.workload, self.workload.profile
        if work.process == "trace":
            assert self.trace is not None
            times_ns = self.trace.times_ns[self._rows]
            yield from ((times_ns - times_ns[0]) * 1e-9 * work.time_scale).tolist()
        elif profile is not None:
            segments = (profile if phase == "measure" else profile.warmup()).segments(until_s)
            yield from _rescaled(self._gamma(phase, 1.0, work.burstiness), segments)
        elif work.process == "constant":
            assert work.rate is not None
            for block in count():
                yield from ((np.arange(_BLOCK) + block * _BLOCK) / work.rate).tolist()
        else:
            assert work.rate is not None
            yield from self._gamma(phase, work.rate, work.burstiness if work.process == "gamma" else 1.0)

    def _gamma(self, phase: LoadPhase, rate: float, shape: float) -> Iterator[float]:
        start_s = 0.0
        for block in count():
            gaps = rng(self.workload.seed, Draw.ARRIVALS, phase, block).gamma(shape, 1.0 / (rate * shape), _BLOCK)
            times = start_s + np.cumsum(gaps)
            start_s = float(times[-1])
            yield from times.tolist()

    def _draw_lengths(self, phase: LoadPhase, block: int) -> tuple[Integers, Integers, Integers, Integers]:
        """Of a block: ``isl``, ``osl``, and how much of each was clipped."""
        seed = self.workload.seed
        drawn = []
        for draw, (lengths, values) in ((Draw.ISL, self._isl), (Draw.OSL, self._osl)):
            if lengths.kind == "trace":
                assert self.trace is not None
                column = self.trace.isl if draw is Draw.ISL else self.trace.osl
                rows = self._rows[(np.arange(_BLOCK) + block * _BLOCK) % len(self._rows)]
                drawn.append(column[rows])
            else:
                drawn.append(_drawn((lengths, values), rng(seed, draw, phase, block), _BLOCK))
        isl, osl = clip(drawn[0], drawn[1], self.workload.clip_tokens)
        return isl, osl, drawn[0] - isl, drawn[1] - osl

    def _draw_groups(self, phase: LoadPhase, block: int) -> Integers:
        return rng(self.workload.seed, Draw.GROUP, phase, block).integers(0, self.workload.prefix_groups, _BLOCK)


def _chosen(trace: Trace, workload: Workload) -> Integers:
    """Rows of the trace in the order of sending: the first ones, or a sample, by time."""
    count = workload.requests or len(trace)
    if count > len(trace):
        raise LoadError(
            f"trace {trace.path} has {len(trace)} requests, {count} were asked for",
            remedy=f"ask for {len(trace)} or fewer: rows are not sent twice, they would meet their own prefixes",
        )
    if workload.sample:
        drawn = rng(workload.seed, Draw.SAMPLE, "measure", 0).choice(len(trace), count, replace=False, shuffle=False)
        rows: Integers = np.sort(drawn)
    else:
        rows = np.arange(count)
    return rows[np.argsort(trace.times_ns[rows], kind="stable")]


_Source = tuple[Lengths, Integers | None]


def _source(lengths: Lengths, column: str) -> _Source:
    """Lengths with the values to draw from, where there are any."""
    match lengths.kind:
        case "empirical":
            return lengths, np.asarray(lengths.values, dtype=np.int64)
        case "file":
            return lengths, load_lengths(lengths.path, column)
        case _:
            return lengths, None


def _drawn(source: _Source, generator: np.random.Generator, count: int) -> Integers:
    lengths, values = source
    return draw_lengths(lengths, generator, count, values)


def _rescaled(units: Iterator[float], segments: Iterable[Segment]) -> Iterator[float]:
    """The instants at which the integral of a rate reaches ``units``, in order."""
    unit, passed, at_s = next(units), 0.0, 0.0
    for segment in segments:
        expected = segment.expected
        while unit < passed + expected:
            at_s = max(at_s, segment.reach_s(unit - passed))  # rounding must not turn two round
            yield at_s
            unit = next(units)
        passed += expected
