"""What a timing profile itself holds of prefill steps, where the workers that follow it cannot be measured.

Simulated workers send no spans, so that nobody knows how many prompts met in a step; and no device computes, so that there are no
peaks for a roofline. The times of a step are known all the same: they are what the workers were told to take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from labkit.measure.knee import WITHIN
from labkit.measure.simulated import HEAD
from labkit.serve.timing import TimingProfile

#: Why there is no knee and no roofline.
WHY: Final = "workers that pretend send no spans and compute on no device: steps are not seen, and there are no peaks"


@dataclass(frozen=True, slots=True)
class ProfileSteps:
    """Prefill steps by a profile.

    Attributes:
        about: the profile, in words.
        steps: prompt tokens → seconds, ascending; no larger than the profile reaches.
    """

    about: str
    steps: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, profile: TimingProfile, sizes: Sequence[int]) -> Self:
        """Steps of these sizes, as far as the profile holds."""
        within = sorted({size for size in sizes if size <= profile.prefill_tokens[-1]})
        return cls(str(profile), tuple((size, profile.prefill(size)) for size in within))

    @property
    def enough(self) -> int | None:
        """The smallest step whose throughput is within ``WITHIN`` of the best; ``None`` where the largest alone is."""
        if len(self.steps) < 2:
            return None
        best = max(tokens / seconds for tokens, seconds in self.steps)
        first = next(tokens for tokens, seconds in self.steps if tokens / seconds >= (1 - WITHIN) * best)
        return first if first < self.steps[-1][0] else None

    def __str__(self) -> str:
        rows = [("tokens of a step", "ms", "prompt tok/s")]
        rows += [(f"{tokens:,}", f"{seconds * 1e3:,.1f}", f"{tokens / seconds:,.0f}") for tokens, seconds in self.steps]
        table = ["  " + "  ".join(cell.rjust(width) for cell, width in zip(row, (16, 9, 12), strict=True)) for row in rows]
        said = (
            "throughput still grows with the largest of these steps"
            if self.enough is None
            else f"a step of {self.enough:,} tokens gives within {WITHIN:.0%} of the best of these"
        )
        return "\n".join([f"{HEAD}{WHY}. By the timing profile alone {said}.", *table, self.about])
