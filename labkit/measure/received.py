"""How many tokens a measurement had received at any time, taken in part by part."""

from __future__ import annotations

from typing import Final

import numpy as np

from labkit.measure.columns import UNKNOWN, Floats, Ints

_TICKS_S: Final = 4
_MOST_TICKS: Final = 60_000


class Received:
    """Tokens received until each of a measurement's ticks.

    Args:
        sent_ns: of its requests that were sent until the window's end.

    Attributes:
        sent_ns: the same in order.
        at_ns: the ticks, from the first send to the last: four a second, fewer of a measurement of hours.
    """

    def __init__(self, sent_ns: Ints) -> None:
        self.sent_ns = np.sort(sent_ns)
        self.at_ns = self.sent_ns
        if len(sent_ns):
            length_s = float(self.sent_ns[-1] - self.sent_ns[0]) / 1e9
            ticks_s = np.linspace(0.0, length_s, min(int(length_s * _TICKS_S) + 2, _MOST_TICKS))
            self.at_ns = self.sent_ns[0] + (ticks_s * 1e9).astype(np.int64)
        self._tokens = np.zeros(len(self.at_ns) + 1)
        self._counted = True

    def add(self, t_ns: Ints, tokens: Ints) -> None:
        """Take in chunks: when each came, and how many tokens it holds; -1 where the server did not say."""
        if not len(self.at_ns):
            return
        self._counted = self._counted and not (tokens == UNKNOWN).any()
        ticks = len(self.at_ns)
        per_ns = (ticks - 1) / max(int(self.at_ns[-1] - self.at_ns[0]), 1)
        at = np.clip(np.ceil((t_ns - self.at_ns[0]) * per_ns), 0, ticks).astype(np.int64)
        self._tokens += np.bincount(at, tokens, ticks + 1)

    def until(self) -> Floats:
        """Tokens until each tick, to a nanosecond; zeros where the server did not count them."""
        return np.cumsum(self._tokens[:-1]) if self._counted else np.zeros(len(self.at_ns))
