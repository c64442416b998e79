"""What every first experiment has: a model, a load, an engine, and where simulated workers' times come from."""

from __future__ import annotations

import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Protocol, Self, TypeVar

from labkit.lab.engines import USUAL, known_engine
from labkit.measure.simulated import HEAD
from labkit.serve.engines.base import EngineOptions
from labkit.serve.hardware import Node
from labkit.spec import Model, Slo, Topology, Workload

MOST_GPUS: Final = 8
_LIMITS: Final[Mapping[str, str]] = {"ttft_slo_s": "ttft_s", "tpot_slo_s": "tpot_s"}
_ENGINES: Final = ("engine", "engine_b")
_WIDTH: Final = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset(ABC):
    """An experiment that means something on a node, within minutes.

    Attributes:
        model: what is served.
        workload: what is sent.
        engine: what turns splits into processes.
        timing: folder of the timing profiles that simulated workers follow; ``None`` where workers are real.
        stretch: how many times longer everything takes than it is meant to, so that this machine carries the simulation.
        told: what a reader must know of simulated workers, a line each.
    """

    model: Model
    workload: Workload
    engine: str = USUAL
    timing: str | None = None
    stretch: float = 1.0
    told: tuple[str, ...] = ()

    @property
    def options(self) -> EngineOptions:
        """What the lab's workers get."""
        return EngineOptions(timing=self.timing)

    @property
    def engines(self) -> list[str]:
        """Of each side that is compared."""
        return [self.engine]

    @property
    @abstractmethod
    def splits(self) -> tuple[Topology, ...]:
        """Every TP degree that workers will have is in one of them."""

    def loads(self) -> Iterator[tuple[Workload, Topology]]:
        """The heaviest loads that will be sent, each with the split that gets it."""
        for split in self.splits:
            yield self.workload, split

    def limits(self, slo: Slo) -> Slo:
        """The SLO as it is to be judged by: in slow motion its times are longer as well."""
        return slow_slo(slo, self.stretch)

    def slowed(self, factor: float) -> Self:
        """In slow motion: times that many times longer, and rates lower."""
        return replace(self, workload=slow_load(self.workload, factor), stretch=self.stretch * factor)

    def vary(self, **given: Any) -> Self:
        """The same with other values; ``None`` keeps what is here.

        Args:
            given: fields by name; ``ttft_slo_s`` and ``tpot_slo_s`` for the SLO's where there is one, and fields of
                ``Workload``.

        Raises:
            SpecError: a value that cannot be meant.
        """
        known = {name: value for name, value in given.items() if value is not None}
        mine = {field.name for field in fields(self)}
        changed = {name: _read(name, known.pop(name), getattr(self, name)) for name in sorted(mine & set(known))}
        if (slo := getattr(self, "slo", None)) is not None:
            changed["slo"] = replace(slo, **{_LIMITS[name]: known.pop(name) for name in set(_LIMITS) & set(known)})
        load = Workload.from_dict({**self.workload.to_dict(), **known}) if known else self.workload
        return replace(self, **{"workload": load, **changed})

    @property
    def head(self) -> str:
        """Of its text: what is served by which engine."""
        simulated = "" if self.timing is None else HEAD
        return f"{simulated}{self.model}{'' if self.engine == USUAL else f' on {self.engine}'}"

    @property
    def tail(self) -> str:
        """Of its text: what a reader must know, each on a line of its own."""
        lines = (textwrap.fill(f"! {line}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in self.told)
        return "".join(f"\n{line}" for line in lines)


P_co = TypeVar("P_co", bound=Preset, covariant=True)


class Suggest(Protocol[P_co]):
    """A function that makes a preset of what there is."""

    def __call__(self, node: Node | None = None) -> P_co:
        """Of a node, by default this one."""
        ...


def has_gpus(node: Node) -> bool:
    """Whether workers compute on GPUs, or pretend to."""
    return bool(node.gpus) and not (node.simulated or "").endswith("core")


def slow_load(workload: Workload, factor: float) -> Workload:
    """The same requests, sent in slow motion."""
    rate, length = workload.rate, workload.duration_s
    return replace(
        workload,
        rate=None if rate is None else rate / factor,
        duration_s=None if length is None else length * factor,
        warmup_s=workload.warmup_s * factor,
    )


def slow_slo(slo: Slo, factor: float) -> Slo:
    """The same promise, kept in slow motion."""
    return replace(slo, **{field.name: held * factor for field in fields(slo) if (held := getattr(slo, field.name)) is not None})


def _read(name: str, value: Any, before: Any) -> Any:
    """A value as the field holds it."""
    if name in _ENGINES:
        return known_engine(value)
    for kind in (Model, Topology):
        if isinstance(before, kind):
            return value if isinstance(value, kind) else kind(value)
    return tuple(value) if isinstance(before, tuple) else value
