"""What a shard needs from whoever hosts it, and what it tells: pure data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

#: What ``LoadResult.unsent`` counts, in words behind the number.
UNSENT: Final = "later turns of conversations were not sent: an earlier one failed, or its answer cannot be told"


class Sink(Protocol):
    """Takes columnar batches; ``store.segments.SegmentWriter`` is one."""

    def append(self, columns: Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]) -> None:
        """Rows as columns."""

    def flush(self) -> None:
        """Make what was appended outlive the process."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a shard stands. Counts are those of the current measurement, but ``in_flight*``, which are all there is.

    Attributes:
        done: have ended, well or not.
        failed: of them; those that a stop cancelled are none.
        begun: requests of which a first token came, or that ended without one.
    """

    t_ns: int
    sent: int
    done: int
    failed: int
    in_flight: int
    in_flight_by_epoch: dict[int, int]
    output_tokens: int
    begun: int


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The end of a measurement's load.

    Attributes:
        start_ns, measure_ns, stop_ns, end_ns: as in ``records.Window``. A measure phase of a number of requests stops with
            the last send (open loop: one mean gap later); where all requests of a closed loop are sent at once, with the
            last end. A phase that was stopped stops there.
        counts: requests by outcome, all phases.
        next_request: the first request id that is still free.
        cpu_s: CPU seconds of the shard's process from start to end.
        stopped: the load was stopped before its time.
        unsent: turns of conversations, of all phases, that were not sent because an earlier turn had failed, or because
            nobody could tell what its answer was.
    """

    start_ns: int
    measure_ns: int
    stop_ns: int
    end_ns: int
    counts: dict[str, int]
    next_request: int
    cpu_s: float
    stopped: bool = False
    unsent: int = 0
