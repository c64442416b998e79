"""How requests ended: answered, failed, or cancelled by order. Metrics, live figures and every face count by this alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from labkit.measure.records import Outcome

ANSWERED: Final[Outcome] = "ok"
CANCELLED: Final[Outcome] = "cancelled"


def is_failure(outcome: str) -> bool:
    """Whether a request failed. One that the client ended by order (a stop, an interrupt) is neither done nor failed."""
    return outcome not in (ANSWERED, CANCELLED)


def failures_in(counts: Mapping[str, int]) -> int:
    """How many failed, of requests counted by outcome."""
    return sum(count for outcome, count in counts.items() if is_failure(outcome))
