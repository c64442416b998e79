"""A first experiment for the hardware at hand: what to serve, which splits to compare, and how much to ask of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.serve.hardware import Node, inspect_node
from labkit.spec import Model, Topology, Workload

_MOST_GPUS = 8


@dataclass(frozen=True, slots=True)
class Preset:
    """A comparison that means something on a node, within minutes.

    Attributes:
        model: what is served.
        side_a, side_b: aggregated and disaggregated, on equal hardware.
        workload: the same for both.
    """

    model: Model
    side_a: Topology
    side_b: Topology
    workload: Workload

    def vary(
        self,
        *,
        model: Model | str | None = None,
        side_a: Topology | str | None = None,
        side_b: Topology | str | None = None,
        **workload: Any,
    ) -> Preset:
        """The same with other values; ``None`` keeps what is here.

        Args:
            model, side_a, side_b: in place of those here.
            workload: fields of ``Workload`` by name.

        Raises:
            SpecError: a value that cannot be meant.
        """
        given = {name: value for name, value in workload.items() if value is not None}
        return Preset(
            self.model if model is None else model if isinstance(model, Model) else Model(model),
            Topology(side_a or self.side_a),
            Topology(side_b or self.side_b),
            Workload.from_dict({**self.workload.to_dict(), **given}),
        )

    def __str__(self) -> str:
        return f"{self.model}: {self.side_a} against {self.side_b}; {self.workload}"


def suggest(node: Node | None = None) -> Preset:
    """Without a GPU: a small shape on two cores, loaded so that prefills and decodes meet. With GPUs: Llama-3.1-8B with dummy
    weights, one worker a GPU (two on a single one, which they share), half of them prefill.

    Args:
        node: the hardware; inspected by default.
    """
    node = node or inspect_node()
    if not node.gpus:
        workload = Workload(isl=512, osl=32, rate=1.5, duration_s=30.0, warmup_s=4.0, warmup="auto")
        return Preset(Model("demo"), Topology("2A"), Topology("1P1D"), workload)
    workers = max(2, min(len(node.gpus), _MOST_GPUS) // 2 * 2)
    workload = Workload(isl=2048, osl=128, rate=2.0 * workers, duration_s=60.0, warmup_s=10.0, warmup="auto")
    half = workers // 2
    return Preset(Model("llama-3.1-8b"), Topology(f"{workers}A"), Topology(f"{half}P{half}D"), workload)
