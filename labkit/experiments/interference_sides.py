"""The sides of a study of interference: what each is, and what was found there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from labkit.experiments.chunking import Chunking
from labkit.measure.exposure import Scope
from labkit.measure.overlap import Overlap
from labkit.measure.statistics import Interval
from labkit.spec import Topology

#: Quantities that are told beside it.
TOLD: Final = ("itl_p50_s", "itl_p99_s", "ttft_p50_s", "ttft_p99_s")


@dataclass(frozen=True, slots=True)
class SideFound:
    """What was found on one side.

    Attributes:
        side: its label.
        topology, chunking: what it is.
        scopes: gaps against prefills on the same worker, and anywhere.
        told: latencies by the key of ``TOLD``, in seconds; ``None`` where there are too few values.
        prompt_tokens: the median prompt.
        requests, failed: of the measure phases.
    """

    side: str
    topology: str
    chunking: Chunking
    scopes: Mapping[Scope, Overlap]
    told: Mapping[str, float | None]
    prompt_tokens: float | None
    requests: int
    failed: int

    @property
    def is_disaggregated(self) -> bool:
        """Whether prefill has workers of its own."""
        return Topology(self.topology).is_disaggregated


@dataclass(frozen=True, slots=True)
class Ratio:
    """Latencies of one side over those of another by key; ``None`` where a side has no value."""

    above: str
    below: str
    of: Mapping[str, Interval | None]
