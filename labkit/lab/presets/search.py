"""A first search for the best split of a node's accelerators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Self

from labkit.lab.presets.preset import MOST_GPUS, Preset, has_gpus, slow_slo
from labkit.serve.hardware import Node, inspect_node
from labkit.spec import Model, Slo, Topology, Workload

#: Requests that a worker decodes at once at most: vLLM's default on large GPUs.
_TOGETHER: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPreset(Preset):
    """Every split of so many accelerators, from the workload's rate upwards.

    Attributes:
        accelerators: that every split holds.
        tps: TP degrees that workers may have.
        chunks: chunk sizes that aggregated splits are tried with beside the default.
        slo: what a good request meets.
        seconds: of a trial in each round.
    """

    accelerators: int
    tps: tuple[int, ...]
    chunks: tuple[int, ...]
    slo: Slo
    seconds: tuple[float, ...]

    @property
    def splits(self) -> tuple[Topology, ...]:
        """One of each TP degree that fits."""
        return tuple(Topology(f"{self.accelerators // tp}A@tp{tp}") for tp in self.tps if tp <= self.accelerators)

    def loads(self) -> Iterator[tuple[Workload, Topology]]:
        """As much as the splits can take: a search goes on until one no longer keeps up."""
        for split in self.splits:
            yield replace(self.workload, rate=None, concurrency=_TOGETHER * len(split.workers)), split

    def slowed(self, factor: float) -> Self:
        """As of any preset."""
        found = Preset.slowed(self, factor)
        return replace(found, slo=slow_slo(self.slo, factor), seconds=tuple(seconds * factor for seconds in self.seconds))

    def __str__(self) -> str:
        chunks = f", aggregated also in chunks of {list(self.chunks)}" if self.chunks else ""
        splits = f"every split of {self.accelerators} accelerators (TP {', '.join(map(str, self.tps))}{chunks})"
        rounds = ", then ".join(f"{seconds:g} s" for seconds in self.seconds)
        return f"{self.head}: {splits}, {self.slo}; {self.workload}; {rounds} a trial{self.tail}"


def suggest_search(node: Node | None = None) -> SearchPreset:
    """Without a GPU: four small workers on what cores there are. With GPUs: Llama-3.1-8B on up to eight of them.

    Args:
        node: the hardware; inspected by default.
    """
    node = node or inspect_node()
    if not has_gpus(node):
        return SearchPreset(
            model=Model("demo"), workload=Workload(isl=256, osl=24, rate=2.0, duration_s=8.0), accelerators=4, tps=(1,),
            chunks=(128,), slo=Slo(ttft_s=2.0, tpot_s=0.1), seconds=(6.0, 12.0),
        )  # fmt: skip
    held = max(2, min(len(node.gpus), MOST_GPUS))
    return SearchPreset(
        model=Model("llama-3.1-8b"), workload=Workload(isl=2048, osl=128, rate=1.0 * held, duration_s=20.0), accelerators=held,
        tps=tuple(tp for tp in (1, 2, 4) if tp <= held // 2), chunks=(512, 2048), slo=Slo(ttft_s=1.0, tpot_s=0.05),
        seconds=(20.0, 40.0),
    )  # fmt: skip
