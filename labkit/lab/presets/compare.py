"""A first comparison: aggregated against disaggregated on equal hardware, or two engines on the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from labkit.lab.presets.preset import MOST_GPUS, Preset, has_gpus
from labkit.serve.hardware import Node, inspect_node
from labkit.spec import Model, Topology, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparePreset(Preset):
    """Two sides under the same load.

    Attributes:
        side_a, side_b: aggregated and disaggregated, on equal hardware.
        engine_b: of side B, where it is another.
    """

    side_a: Topology
    side_b: Topology
    engine_b: str | None = None

    @property
    def sides(self) -> list[Topology]:
        """Both splits."""
        return [self.side_a, self.side_b]

    @property
    def splits(self) -> tuple[Topology, ...]:
        """Both."""
        return (self.side_a, self.side_b)

    @property
    def engines(self) -> list[str]:
        """The engine of each."""
        return [self.engine, self.engine if self.engine_b is None else self.engine_b]

    def vary(self, **given: Any) -> Self:
        """As of any preset; with another engine for side B alone, that has the split of side A unless its own is given."""
        if given.get("engine_b") is not None and given.get("side_b") is None:
            given = {**given, "side_b": given.get("side_a") or self.side_a}
        return Preset.vary(self, **given)

    def __str__(self) -> str:
        if self.engine_b not in (None, self.engine):
            sides = f"{self.side_a} on {self.engine} against {self.side_b} on {self.engine_b}"
            return f"{self.model}: {sides}; {self.workload}{self.tail}"
        return f"{self.head}: {self.side_a} against {self.side_b}; {self.workload}{self.tail}"


def suggest(node: Node | None = None) -> ComparePreset:
    """Without a GPU: a small shape on two cores, loaded so that prefills and decodes meet. With GPUs: Llama-3.1-8B with dummy
    weights, one worker a GPU (two on a single one, which they share), half of them prefill.

    Args:
        node: the hardware; inspected by default.
    """
    node = node or inspect_node()
    if not has_gpus(node):
        workload = Workload(isl=512, osl=32, rate=1.5, duration_s=30.0, warmup_s=4.0, warmup="auto")
        return ComparePreset(model=Model("demo"), side_a=Topology("2A"), side_b=Topology("1P1D"), workload=workload)
    workers = max(2, min(len(node.gpus), MOST_GPUS) // 2 * 2)
    workload = Workload(isl=2048, osl=128, rate=2.0 * workers, duration_s=60.0, warmup_s=10.0, warmup="auto")
    half = workers // 2
    aggregated, disaggregated = Topology(f"{workers}A"), Topology(f"{half}P{half}D")
    return ComparePreset(model=Model("llama-3.1-8b"), side_a=aggregated, side_b=disaggregated, workload=workload)
