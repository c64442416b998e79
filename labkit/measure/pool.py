"""The gaps of a side, all together, with the prefills beside each, as they were and shifted in time.

Shifted prefills are the null of everything that is said of prefills and gaps (``measure.interference``): they go to and fro by
one to ten times (prefill + gap), all of a unit by as much, on a circle as long as the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from labkit.measure.exposure import Exposure
from labkit.measure.intervals import Intervals, Loads
from labkit.measure.timing import Bools, Floats, Ints

_SHIFTS: Final = 200
#: Of prefill + gap: a shift must leave the gaps that a prefill delayed, and stay in the moment that it belongs to.
_NEAREST: Final = 1.0
_FARTHEST: Final = 10.0
_BLOCKS: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """All gaps, unit after unit: a unit is a worker, or a deployment, in one window.

    Attributes:
        units: what they are of.
        gap_s, stratum: of each gap; strata are numbered over all units.
        strata: how many.
        block: of each gap, the number of its twentieth of a window, for what leaves out one after the other.
        blocks: how many have a gap.
        reach_s: of each unit, a typical prefill and gap.
    """

    units: tuple[Exposure, ...]
    gap_s: Floats
    stratum: Ints
    strata: int
    block: Ints
    blocks: int
    reach_s: Floats
    _prefills: tuple[Intervals, ...]
    _waiting: tuple[Intervals, ...]
    _loads: tuple[Loads, ...]

    @classmethod
    def of(cls, found: Sequence[Exposure]) -> Self:
        """The gaps of workers or deployments, each of which has one at least."""
        first = np.cumsum([0, *(int(unit.stratum.max()) + 1 for unit in found)])
        at = np.concatenate([(unit.window + unit.middle_s / unit.length_s) * _BLOCKS for unit in found])
        blocks, block = np.unique(at.astype(np.int64), return_inverse=True)
        return cls(
            units=tuple(found),
            gap_s=np.concatenate([unit.gap_s for unit in found]),
            stratum=np.concatenate([unit.stratum + offset for unit, offset in zip(found, first[:-1], strict=True)]),
            strata=int(first[-1]),
            block=block.reshape(-1).astype(np.int64),
            blocks=len(blocks),
            reach_s=np.array([_reach_s(unit) for unit in found]),
            _prefills=tuple(Intervals.of(unit.prefills, unit.length_s) for unit in found),
            _waiting=tuple(Intervals.of(unit.waiting, unit.length_s) for unit in found),
            _loads=tuple(Loads.of(unit.prefills, unit.tokens, unit.length_s) for unit in found),
        )

    def shifts(self, seed: int) -> Floats:
        """Seconds to shift the prefills of every unit by: (shifts, units)."""
        rng = np.random.default_rng(seed)
        even = 2 * (np.arange(_SHIFTS)[:, None] + rng.random((_SHIFTS, len(self.units)))) / _SHIFTS - 1
        even = rng.permuted(even, axis=0)
        return np.asarray(np.sign(even) * (_NEAREST + (_FARTHEST - _NEAREST) * np.abs(even)) * self.reach_s)

    def split(self, shifts_s: Floats) -> tuple[Bools, Bools]:
        """Which gaps are seen, and which are clear, with the prefills of every unit shifted."""
        seen, clear = [], []
        for unit, prefills, waiting, shift in zip(self.units, self._prefills, self._waiting, shifts_s, strict=True):
            seen.append(prefills.cover(unit.middle_s, shift))
            clear.append(~(seen[-1] | waiting.cover(unit.middle_s, shift)))
        return np.concatenate(seen), np.concatenate(clear)

    def tokens(self, shifts_s: Floats) -> Floats:
        """Prompt tokens of the prefills under way at the middle of each gap."""
        each = zip(self.units, self._loads, shifts_s, strict=True)
        return np.concatenate([loads.at(unit.middle_s, shift) for unit, loads, shift in each])

    def computed(self, shifts_s: Floats) -> Floats:
        """Prompt tokens of the prefills whose middle lies in each gap: over all gaps of a stream, those computed beside it."""
        each = zip(self.units, self._loads, shifts_s, strict=True)
        return np.concatenate(
            [loads.within(unit.middle_s - unit.gap_s / 2, unit.middle_s + unit.gap_s / 2, shift) for unit, loads, shift in each]
        )

    def prefills_met(self) -> int:
        """Prefills with the middle of a gap in them; those under way together are one."""
        return sum(prefills.met(unit.middle_s) for prefills, unit in zip(self._prefills, self.units, strict=True))


def totals(cell: Ints, cells: int, which: Bools, values: Floats) -> tuple[Floats, Floats]:
    """Per cell, how many of the chosen there are, and the sum of their values."""
    where = cell[which]
    return np.bincount(where, minlength=cells).astype(np.float64), np.bincount(where, values[which], cells).astype(np.float64)


def _reach_s(unit: Exposure) -> float:
    """A typical prefill and gap, but so short that the farthest shift is half of the circle."""
    prefill_s = unit.prefills[:, 1] - unit.prefills[:, 0]
    typical = float(np.median(unit.gap_s)) + (float(np.median(prefill_s)) if len(prefill_s) else 0.0)
    return min(typical, unit.length_s / (2 * _FARTHEST))
