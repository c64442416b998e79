"""A split that is to be deployed, with what its workers ran and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from labkit.deploy.picking import Picked, pick
from labkit.errors import SpecError, StoreError
from labkit.experiments.choice import SERVED
from labkit.experiments.compare import marks_of_side
from labkit.experiments.conclude import slo_of
from labkit.experiments.conditions import conditions
from labkit.experiments.differences import engines_of
from labkit.live.pin import Estimate
from labkit.measure.validity import dummy_weights
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Model, Slo, Topology
from labkit.store.run import Run

#: Engines whose workers only pretend to compute.
_SIMULATED = frozenset({"mocker"})


@dataclass(frozen=True, slots=True)
class Capacity:
    """The load that a split serves within its SLO, in requests per second.

    Attributes:
        value: what was measured.
        low, high: ends of its interval, or of its bracket; ``None`` where an end is not known.
        text: how it was measured.
    """

    value: float
    low: float | None
    high: float | None
    text: str

    @property
    def sure(self) -> float:
        """The lower end: what one may count on."""
        return self.value if self.low is None else self.low

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{ends} req/s ({self.text})"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSplit:
    """A split, and what a run knows of it.

    Attributes:
        run: id.
        origin: why this split and no other, in words.
        topology, options: what served.
        engine, versions: that served, in words; ``packages`` are the versions by name.
        model: the name under which it was served; ``hub`` is its hub id, ``None`` for a folder or a bundled shape.
        dummy: whether its weights were random.
        dtype: that was asked for; ``served_dtype`` is what it was served in. ``None`` leaves it to the engine.
        max_model_len: most tokens of prompt and answer; ``None`` leaves it to the engine.
        on_gpu: whether it was measured on GPUs, and not on CPU cores.
        device: what it was measured on, in words.
        slo, workload: what was asked of it; ``None`` and empty where that is not known.
        capacity: ``None`` where nothing was measured of this split, or no request was found to meet the SLO.
        figures: by the names of ``LiveStats``, each with its interval.
        requests: that the figures are of.
        warnings: what a reader must know before believing them.
    """

    run: str
    origin: str
    topology: Topology
    options: EngineOptions
    engine: str
    versions: str
    packages: Mapping[str, str]
    model: str
    hub: str | None
    dummy: bool
    dtype: str | None
    served_dtype: str | None
    max_model_len: int | None
    on_gpu: bool
    device: str
    slo: Slo | None
    workload: str = ""
    capacity: Capacity | None = None
    figures: Mapping[str, Estimate] = field(default_factory=dict)
    requests: int = 0
    warnings: tuple[str, ...] = ()


def found_split(run: Run, *, side: str | None = None, pin: str | None = None, trial: int | None = None) -> FoundSplit:
    """The split that a run found or measured.

    Without a choice: the winner of a split search; the only side of a run, or the better of its two by goodput; of an exploration
    the split in force when it ended, with what its newest pin measured.

    Args:
        run: one that has ended.
        side: a side that it measured.
        pin: label or run of one of its pins.
        trial: number of a trial of its search, from 1.

    Raises:
        StoreError: the run still goes on, or has no such split.
        SpecError: more than one choice, or several sides of which none is shown to be the better one.
        ComparisonError: a side that was not measured.
    """
    if sum(choice is not None for choice in (side, pin, trial)) > 1:
        raise SpecError("more than one of side, pin and trial is given", remedy="give one of them")
    if run.status == "running" and pin is None:
        raise StoreError(
            f"run {run.id} still goes on: what it finds is not known yet",
            remedy="end it, or wait for its end; a pin is a run of its own, and can be deployed meanwhile",
        )
    picked = pick(run, side=side, pin=pin, trial=trial)
    manifest, point = picked.kept.manifest, picked.point
    about = conditions((picked.windows, manifest))
    given, served = manifest.get("model"), manifest.get("served") or {}
    model: Mapping[str, Any] = given if isinstance(given, Mapping) else {"name": given}
    return FoundSplit(
        run=run.id,
        origin=picked.origin,
        topology=picked.topology,
        options=picked.options or EngineOptions(),
        engine=engines_of(manifest, picked.windows) or str(manifest.get("engine") or "unknown"),
        versions=about.versions,
        packages={name: str(version) for name, version in (manifest.get("engines") or {}).items()},
        model=str(model.get("name") or "model"),
        hub=_hub_id(str(model.get("source") or "")),
        dummy=dummy_weights(manifest),
        dtype=model.get("dtype"),
        served_dtype=served.get("dtype"),
        max_model_len=served.get("max_model_len"),
        on_gpu=_on_gpu(picked),
        device=about.device,
        slo=slo_of(picked.kept),
        workload=point.workload if point else "",
        capacity=_capacity(picked),
        figures=point.metrics if point else {},
        requests=point.requests if point else 0,
        warnings=tuple(dict.fromkeys(_doubts(picked))),
    )


def _capacity(picked: Picked) -> Capacity | None:
    """A search's bracket, else goodput.

    The interval of goodput is that of the share of requests that met the SLO. How many happened to arrive in the time measured,
    which makes the goodput of another stretch uncertain, says nothing of what the split can serve.
    """
    if picked.bracket is not None and picked.bracket.served is not None:
        served, failed = picked.bracket.served, picked.bracket.failed
        return Capacity(served, served, failed, "the highest rate that was served, and the lowest that was not")
    figures = picked.point.metrics if picked.point else {}
    goodput, share = figures.get("goodput_hz"), figures.get("slo_attainment")
    if goodput is None or share is None or not (share.value if share.low is None else share.low) > 0:
        return None
    low, high = (None if end is None else goodput.value * end / share.value for end in (share.low, share.high))
    limit = "" if share.value < SERVED else "; its limit was not looked for, and may be higher"
    return Capacity(goodput.value, low, high, f"goodput, with the 95 % interval of the share that met the SLO{limit}")


def _doubts(picked: Picked) -> list[str]:
    said, manifest = [], picked.kept.manifest
    if picked.point is None:
        said.append("nothing is measured of this split, or its records are gone: no figure of it is known")
    if picked.options is None:
        said.append(f"the flags of its workers are not known ({manifest.get('engine')}): the engine's own are taken")
    if manifest.get("engine") in _SIMULATED:
        said.append("its workers were simulated: no figure was measured on an accelerator")
    share = picked.point.metrics.get("slo_attainment") if picked.point else None
    if picked.bracket is None and share is not None and share.value < SERVED:
        said.append(
            f"{share.value:.0%} of its requests met the SLO, fewer than {SERVED:.0%}: measured beyond what it serves well"
        )
    epochs = {window.epoch for window in picked.windows}
    if any(one.get("shared") for one in manifest.get("epochs") or () if one.get("epoch") in epochs):
        said.append("measured on accelerators that several workers shared; deployed, each worker has its own")
    taken = picked.kept.digest()
    marks = marks_of_side([(taken, window) for window in picked.windows], manifest)
    return [*said, *(mark.text for mark in marks if mark.severity == "warning")]


def _on_gpu(picked: Picked) -> bool:
    if picked.windows:
        return picked.windows[-1].accelerator == "GPU"
    return bool((picked.kept.manifest.get("hardware") or {}).get("gpus"))


def _hub_id(source: str) -> str | None:
    with suppress(SpecError):
        return source if Model(source).kind == "hub" else None
    return None
