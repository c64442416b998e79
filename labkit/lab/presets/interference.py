"""A first study of interference: prompts from short to long, in chunks and whole, on both kinds of split."""

from __future__ import annotations

from dataclasses import dataclass, replace

from labkit.lab.presets.compare import suggest
from labkit.lab.presets.preset import Preset, has_gpus
from labkit.serve.hardware import Node, inspect_node
from labkit.spec import Topology


@dataclass(frozen=True, slots=True, kw_only=True)
class InterferencePreset(Preset):
    """Four sides under one load, whose prompts have various lengths.

    Attributes:
        side_a, side_b: aggregated and disaggregated, on equal hardware.
        chunk: most tokens of a step with chunked prefill, well below the prompts.
    """

    side_a: Topology
    side_b: Topology
    chunk: int

    @property
    def topologies(self) -> tuple[Topology, Topology]:
        """Both."""
        return self.side_a, self.side_b

    @property
    def splits(self) -> tuple[Topology, ...]:
        """Both."""
        return self.topologies

    def __str__(self) -> str:
        sides = f"{self.side_a} and {self.side_b}, prompts in chunks of {self.chunk} tokens and whole"
        return f"{self.head}: {sides}; {self.workload}{self.tail}"


def suggest_interference(node: Node | None = None) -> InterferencePreset:
    """The splits and the load of ``suggest`` with prompts from short to long; without a GPU a load that leaves room for what
    chunks cost there.

    Args:
        node: the hardware; inspected by default.
    """
    node = node or inspect_node()
    usual = suggest(node)
    lengths, chunk = ("uniform:256-4096", 512) if has_gpus(node) else ("uniform:64-640", 128)
    workload = replace(usual.workload, isl=lengths, warmup="given")
    return InterferencePreset(model=usual.model, workload=workload, side_a=usual.side_a, side_b=usual.side_b, chunk=chunk)
