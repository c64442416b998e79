"""A first sweep of prefill batches: prompt lengths around the knee that this kind of device has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from labkit.lab.presets.preset import Preset, has_gpus
from labkit.serve.hardware import Node, inspect_node
from labkit.spec import Model, Topology, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPreset(Preset):
    """One worker, and steps of known size. Its workload is the longest request: the context length is fitted to it.

    Attributes:
        isls: prompt lengths.
        most_tokens: largest step of several prompts.
    """

    isls: tuple[int, ...]
    most_tokens: int

    @property
    def splits(self) -> tuple[Topology, ...]:
        """One worker."""
        return (Topology("1A"),)

    def vary(self, **given: Any) -> Self:
        """As of any preset; the longest request follows the prompt lengths."""
        found = Preset.vary(self, **given)
        return replace(found, workload=_longest(found.isls))

    def __str__(self) -> str:
        lengths = ", ".join(map(str, self.isls))
        return f"{self.head}: prefill of {lengths} tokens a prompt, up to {self.most_tokens:,} a step{self.tail}"


def suggest_sweep(node: Node | None = None) -> SweepPreset:
    """A core saturates at some tens of tokens, a GPU at hundreds.

    Args:
        node: the hardware; inspected by default.
    """
    usual = ("llama-3.1-8b", (128, 512, 2048), 8192) if has_gpus(node or inspect_node()) else ("demo", (32, 128, 512), 2048)
    model, isls, most_tokens = usual
    return SweepPreset(model=Model(model), workload=_longest(isls), isls=isls, most_tokens=most_tokens)


def _longest(isls: tuple[int, ...]) -> Workload:
    return Workload(isl=max(*isls, 256), osl=64, concurrency=1, requests=1)
