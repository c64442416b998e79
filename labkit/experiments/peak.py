"""The highest load that one split serves under an SLO, found by doubling and bisection."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

_LEAST: Final = 1 / 32


@dataclass(frozen=True, slots=True)
class Peak:
    """Where the highest served rate lies, in requests per second.

    Attributes:
        served: the highest rate that was served; ``None`` where none was.
        failed: the lowest above it that was not; ``None`` where even the highest allowed rate was served.
    """

    served: float | None = None
    failed: float | None = None

    @property
    def ratio(self) -> float:
        """How wide the bracket is: ``failed / served``; infinite while an end is open."""
        return self.failed / self.served if self.served and self.failed else math.inf

    def told(self, rate: float, served: bool) -> Peak:
        """With one more trial. One that contradicts an end, as noise can, opens that end: the later trial counts."""
        if served:
            return Peak(max(rate, self.served or 0.0), None if self.failed is not None and self.failed <= rate else self.failed)
        return Peak(None if self.served is not None and self.served >= rate else self.served, min(rate, self.failed or math.inf))

    def __str__(self) -> str:
        if self.served is None:
            return f"below {self.failed:.3g} req/s" if self.failed is not None else "not measured"
        return f"{self.served:.3g} req/s" + (f" (not {self.failed:.3g})" if self.failed is not None else " or more")


def find_peak(
    first_rate: float, *, within: float, step: float = 2.0, least_rate: float | None = None, most_rate: float = math.inf
) -> Generator[float, bool, Peak]:
    """Yields rates to try, is sent whether each was served, and returns the bracket.

    From the first rate it goes up by ``step`` while served, or down while not, and then bisects (on a log scale) until
    ``failed / served`` is ``1 + within`` at most.

    Args:
        first_rate: requests per second to begin with.
        within: how wide the bracket may be, as a part of the rate.
        step: factor between the first rates, above 1.
        least_rate: never less than this: what does not serve it serves nothing worth naming; 1/32 of the first by default.
        most_rate: never more than this, as where the client ends.
    """
    first, peak = min(first_rate, most_rate), Peak()
    least = first * _LEAST if least_rate is None else least_rate
    while (rate := _next(peak, first, least, most_rate, step, 1 + within)) is not None:
        peak = peak.told(rate, (yield rate))
    return peak


def _next(peak: Peak, first: float, least: float, most: float, step: float, limit: float) -> float | None:
    match peak.served, peak.failed:
        case None, None:
            return first
        case None, float(failed):
            return lower if (lower := failed / step) >= least else None
        case float(served), None:
            return min(served * step, most) if served < most else None
        case float(served), float(failed):
            return None if failed / served <= limit else math.sqrt(served * failed)
    raise AssertionError(peak)
