"""What a split search chooses from: every split of so many accelerators, the aggregated ones with several chunk sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from labkit.errors import SpecError
from labkit.serve.engines.base import EngineOptions
from labkit.spec.topology import Group, Role, Topology

_TEXT: Final = re.compile(r"(?P<topology>[^ ]+)(?: \(chunks of (?P<chunk>[0-9]+)\))?")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A split, and what its workers get beyond the search's own options.

    Attributes:
        topology: the split.
        max_num_batched_tokens: the chunk size; ``None`` for that of the search's options.
    """

    topology: Topology
    max_num_batched_tokens: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The candidate that ``str`` wrote, as a run keeps it; SpecError for another text."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise SpecError(
                f"{text!r} is no split of a search", remedy="write it as the search does: 2P2D, or 4A (chunks of 512)"
            )
        return cls(Topology(match["topology"]), int(match["chunk"]) if match["chunk"] else None)

    def options(self, base: EngineOptions) -> EngineOptions:
        """What its workers are started with."""
        return replace(base, max_num_batched_tokens=self.max_num_batched_tokens or base.max_num_batched_tokens)

    def __str__(self) -> str:
        chunk = self.max_num_batched_tokens
        return f"{self.topology}" + (f" (chunks of {chunk})" if chunk else "")


def candidates(accelerators: int, *, tps: Sequence[int] = (1,), chunks: Sequence[int] = ()) -> tuple[Candidate, ...]:
    """Every split that holds exactly so many accelerators, those of one pool beside each other, so that few need a restart.

    Aggregated: n / tp workers of each degree. Disaggregated: every count of prefill workers of one degree with decode workers
    of one degree, which may be another.

    Args:
        accelerators: that every split holds.
        tps: TP degrees that workers may have.
        chunks: chunk sizes (``max_num_batched_tokens``) that aggregated splits are tried with beside the default: what chunked
            prefill costs them depends on it, so a comparison gives them their best.

    Raises:
        SpecError: a number below 1, or no split of these degrees holds so many.
    """
    if min((accelerators, *tps, *chunks), default=0) < 1 or not tps:
        raise SpecError(
            f"no split of {accelerators} accelerators with TP {list(tps)} and chunks of {list(chunks)} tokens",
            remedy="give whole numbers of 1 or more",
        )
    found = list(dict.fromkeys(_splits(accelerators, sorted(set(tps)))))
    if not found:
        raise SpecError(
            f"no split of workers with TP {list(tps)} holds {accelerators} accelerators",
            remedy="allow TP 1, or name another number of accelerators",
        )
    found.sort(key=lambda topology: topology.pool, reverse=True)  # stable: aggregated first within a pool
    plain = [Candidate(topology) for topology in found]
    aggregated = [one.topology for one in plain if not one.topology.is_disaggregated]
    return (*plain, *(Candidate(topology, chunk) for topology in aggregated for chunk in dict.fromkeys(chunks)))


def _splits(accelerators: int, tps: Sequence[int]) -> Iterator[Topology]:
    for tp in tps:
        if accelerators % tp == 0:
            yield Topology([Group(accelerators // tp, Role.AGGREGATED, tp)])
    for prefill_tp in tps:
        for prefill in range(1, accelerators // prefill_tp + 1):
            rest = accelerators - prefill * prefill_tp
            for decode_tp in tps:
                if rest and rest % decode_tp == 0:
                    yield Topology([Group(prefill, Role.PREFILL, prefill_tp), Group(rest // decode_tp, Role.DECODE, decode_tp)])
