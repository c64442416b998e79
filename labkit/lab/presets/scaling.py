"""A first look at independent scaling: x and y one at a time, and a load that steps up while a worker shifts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from labkit.lab.presets.preset import MOST_GPUS, Preset, has_gpus, slow_slo
from labkit.serve.hardware import Node, inspect_node
from labkit.spec import Model, Slo, Topology, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPreset(Preset):
    """Splits of one pool under a fixed load, then a load step.

    Attributes:
        workers: of the pool that every split is made of.
        slo: what a good request meets.
        step_rates: requests per second outside of the step, and within it.
        step_at_s: when the step begins, when it ends, and when the load does, in seconds of the measure phase.
    """

    workers: int
    slo: Slo
    step_rates: tuple[float, float]
    step_at_s: tuple[float, float, float]

    @property
    def pool(self) -> Topology:
        """What to launch: one prefill worker, all others decode."""
        return Topology(f"1P{self.workers - 1}D")

    @property
    def splits(self) -> tuple[Topology, ...]:
        """The pool."""
        return (self.pool,)

    def loads(self) -> Iterator[tuple[Workload, Topology]]:
        """The fixed load, and the height of the step."""
        for rate in (self.workload.rate, max(self.step_rates)):
            yield replace(self.workload, rate=rate), self.pool

    @property
    def step(self) -> Workload:
        """The same requests as the fixed load, at rates that step up and down."""
        (low, high), (up_s, down_s, end_s) = self.step_rates, self.step_at_s
        arrivals = f"step:0={low:g},{up_s:g}={high:g},{down_s:g}={low:g}"
        return replace(self.workload, rate=None, arrivals=arrivals, duration_s=end_s, requests=None, warmup="given")

    def slowed(self, factor: float) -> Self:
        """As of any preset."""
        (low, high), (up_s, down_s, end_s) = self.step_rates, self.step_at_s
        return replace(
            Preset.slowed(self, factor),
            slo=slow_slo(self.slo, factor),
            step_rates=(low / factor, high / factor),
            step_at_s=(up_s * factor, down_s * factor, end_s * factor),
        )

    def __str__(self) -> str:
        lines = (f"{self.head}: pool {self.pool}, {self.slo}", f"  scaling: {self.workload}", f"  load step: {self.step}")
        return "\n".join(lines) + self.tail


def suggest_scaling(node: Node | None = None) -> ScalingPreset:
    """Without a GPU: four small workers on what cores there are. With GPUs: Llama-3.1-8B, one worker a GPU, four on fewer.

    Args:
        node: the hardware; inspected by default.
    """
    node = node or inspect_node()
    if not has_gpus(node):
        return ScalingPreset(
            model=Model("demo"), workload=Workload(isl=256, osl=12, rate=3.0, duration_s=14.0, warmup_s=2.0, warmup="auto"),
            workers=4, slo=Slo(ttft_s=0.8, tpot_s=0.05), step_rates=(1.5, 4.5), step_at_s=(6.0, 16.0, 22.0),
        )  # fmt: skip
    return ScalingPreset(
        model=Model("llama-3.1-8b"), workers=max(4, min(len(node.gpus), MOST_GPUS)),
        workload=Workload(isl=2048, osl=128, rate=8.0, duration_s=30.0, warmup_s=5.0, warmup="auto"),
        slo=Slo(ttft_s=1.0, tpot_s=0.05), step_rates=(4.0, 16.0), step_at_s=(15.0, 45.0, 70.0),
    )  # fmt: skip
