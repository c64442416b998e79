"""A second opinion on a projection: simulated workers under the lab's own load, where requests queue as they do in the world.

The static estimate composes single steps; it knows no arrivals. Here a fleet of mockers follows the *same* steps, and the lab
sends requests at random times (Poisson), at a share of the rate that the split is projected to give; the static estimate beside
it is for that rate, too. They differ by queueing, batching and the KV cache's transfer, and neither is a measurement of a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

from labkit.errors import LabError, ProjectionError, SpecError
from labkit.lab.lab import Lab
from labkit.lab.simulation import MOST_STRETCH, ROOM, Simulation
from labkit.serve.engines.base import EngineOptions
from labkit.serve.hardware import inspect_node
from labkit.serve.timing import TimingProfile, save_timing
from labkit.spec import Model, Slo, Topology, Workload
from labkit.spec.topology import Group
from labkit.store.run import Run
from labkit.whatif.at_load import STEP_TOKENS, at_load
from labkit.whatif.calibration import Calibration
from labkit.whatif.kept import SIMULATION, kept_workers
from labkit.whatif.projected import Projected
from labkit.whatif.study import KEY as PROJECTED
from labkit.whatif.study import WhatIf
from labkit.whatif.timing_estimates import LINK_BYTES_S, StepEstimator, timing_from_estimates
from labkit.whatif.words import beside, folded, projected_by
from labkit.whatif.workers import KINDS, Workers

#: Of a run's manifest.
KEY: Final = "second_opinion"
#: Of the rate that a split is projected to give: at all of it every queue grows without end.
LOAD: Final = 0.8
_WARM: Final = 1.5  # times a request's length: until as many are under way as will be
_MOST_S: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """One split: its static estimate beside its simulation, both at the same rate per worker.

    Attributes:
        topology: that was projected.
        simulated: the part of it that was simulated: equal, or fewer workers in the same proportion.
        share: GPUs simulated over GPUs projected.
        stretch: factor of the slow motion; it is taken out of every number here.
        request_hz: that were sent to what was simulated.
        requests: that ended.
        static_ttft_s, static_tpot_s: of the static estimate; ``None`` where it says that the split cannot take the rate.
        ttft_p50_s, ttft_p99_s, tpot_p50_s, tpot_p99_s: simulated; ``None`` where too few requests ended.
        attained: share of simulated requests that met the SLO; ``None`` without one.
        run: that holds the simulation.
        notes: what a reader must know, a sentence each.
    """

    topology: str
    simulated: str
    share: float
    stretch: float
    request_hz: float
    requests: int
    static_ttft_s: float | None
    static_tpot_s: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    attained: float | None
    run: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """The best splits of a projection, simulated.

    Attributes:
        load: share of the projected rate that was sent.
        slo: of the question.
        sides: what could be simulated.
        left_out: what could not, and why.
        said: whose projection it is and how far off it is known to be, to stand beside every number.
    """

    load: float
    slo: Slo
    sides: tuple[Opinion, ...]
    left_out: tuple[str, ...] = ()
    said: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "load": self.load,
            "slo": asdict(self.slo),
            "sides": [asdict(one) for one in self.sides],
            "left_out": list(self.left_out),
            "said": self.said,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What ``to_dict`` made."""
        sides = tuple(Opinion(**{**one, "notes": tuple(one["notes"])}) for one in data["sides"])
        return cls(float(data["load"]), Slo(**data["slo"]), sides, tuple(data["left_out"]), str(data.get("said", "")))

    def __str__(self) -> str:
        return "\n".join(_text(self))

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class Part:
    """What of a split is simulated, and how slowly."""

    topology: Topology
    share: float
    stretch: float


def second_opinion(
    run: Run,
    found: WhatIf,
    *,
    seconds: float | None = None,
    load: float = LOAD,
    estimator: StepEstimator | None = None,
    tell: Callable[[str], None] = print,
) -> SecondOpinion:
    """Simulate the best splits of a projection under the lab's own load, and keep the answer in its run.

    Args:
        run: that holds the projection.
        found: the projection.
        seconds: of load on each split; by default as long as three requests take, 20 s at least. 0 simulates nothing.
        load: share of the projected rate that is sent.
        estimator: of single steps; AIConfigurator by default.
        tell: gets a line as each part begins.

    Raises:
        SpecError: a load that is no share.
    """
    if not 0 < load <= 1:
        raise SpecError(f"load = {load!r} is no share of the projected rate", remedy="give more than 0, at most 1: 0.8")
    sides: list[Opinion] = []
    left_out: list[str] = ["asked for 0 s"] if seconds == 0 else []
    for kind, one in zip(KINDS, (found.aggregated, found.disaggregated), strict=True) if seconds != 0 else ():
        if one is None:
            why = found.unknown.get(kind)
            left_out.append(f"{kind}: not projected, {why}" if why else f"{kind}: no split meets the SLO")
            continue
        try:
            sides.append(_simulate(run, found, kind, one, seconds, load, estimator, tell))
        except LabError as error:
            left_out.append(f"{one.topology}: {error.what}")
    opinion = SecondOpinion(load, found.question.slo, tuple(sides), tuple(left_out), beside(found))
    run.update(**{KEY: opinion.to_dict(), "answer": f"{found}\n\n{opinion}"})
    run.write_summary({"verdict": f"{found}\n\n{opinion}"})
    return opinion


def kept_opinion(run: Run) -> SecondOpinion | None:
    """The second opinion that a run holds; ``None`` where none was asked for."""
    kept, projected = run.manifest.get(KEY), run.manifest.get(PROJECTED)
    if not isinstance(kept, Mapping):
        return None
    opinion = SecondOpinion.from_dict(kept)
    if opinion.said or not isinstance(projected, Mapping):
        return opinion
    # Earlier labkits kept it with the projection alone.
    return replace(opinion, said=projected_by(projected["source"], projected["error_words"]))


def part_of(one: Projected, isl: int, osl: int, profiles: Mapping[int, TimingProfile], cores: float, load: float) -> Part:
    """As many workers, in the split's own proportion, as this machine carries; where one unit is too many, in slow motion.

    Raises:
        ProjectionError: not even that is enough.
    """
    groups = one.topology.groups
    unit = math.gcd(*(group.count for group in groups))
    here = Simulation(profiles, cores)
    for units in range(unit, 0, -1):
        topology = Topology([Group(group.count // unit * units, group.role, group.tp) for group in groups])
        share = units / unit
        most_tok_s = one.request_hz * load * share * osl
        if most_tok_s <= here.carries_tok_s * ROOM:
            return Part(topology, share, 1.0)
    stretch = math.ceil(4 * most_tok_s / (here.carries_tok_s * ROOM)) / 4
    if stretch > MOST_STRETCH:
        raise ProjectionError(
            f"{topology} alone would make {most_tok_s:,.0f} tokens/s of ISL {isl}, OSL {osl}: too many for this machine's "
            f"{cores:g} cores, even {MOST_STRETCH:g} times slower",
            remedy="simulate it where there are more cores",
        )
    return Part(topology, share, stretch)


def _simulate(
    run: Run,
    found: WhatIf,
    kind: str,
    one: Projected,
    seconds: float | None,
    load: float,
    estimator: StepEstimator | None,
    tell: Callable[[str], None],
) -> Opinion:
    setting, node = found.question.setting, inspect_node()
    if Model(setting.model).kind == "hub":
        raise ProjectionError(
            "a hub id has no tokenizer here", remedy="name a bundled shape, or a folder with config and tokenizer"
        )
    with TemporaryDirectory(prefix="labkit-timing-") as folder:
        profiles = profiles_of(found, kind, one, estimator)
        cores = min(float(len(node.cores)), node.cpu_limit or math.inf)
        part = part_of(one, setting.isl, setting.osl, profiles, cores, load)
        timing = save_timing((profile.stretched(part.stretch) for profile in profiles.values()), Path(folder) / "timing")
        workload, notes = _workload(found, one, part, seconds, load)
        words = f"{one.topology}: simulating {part.topology}" + (f", {part.stretch:g} times slower" if part.stretch > 1 else "")
        tell(f"{words}; {workload}")
        options = EngineOptions(timing=timing, max_num_batched_tokens=one.step_tokens or None)
        slo = _stretched(found.question.slo, part.stretch)
        with Lab(
            Model(setting.model, dummy_weights=True), part.topology, workload=workload, slo=slo, engine="mocker",
            options=options, kind=SIMULATION, results=run.path.parent, progress=lambda line: None,
        ) as lab:  # fmt: skip
            measured = lab.measure()
            summary = measured.summary
            marks = [mark.text for mark in measured.marks if mark.severity == "warning" and mark.kind != "simulated"]
    static = at_load(
        _workers(run, found), one.topology, rate_hz=one.request_hz * load, step_tokens=one.step_tokens or STEP_TOKENS
    )  # fmt: skip
    names = ("ttft_p50_s", "ttft_p99_s", "tpot_p50_s", "tpot_p99_s")
    times = {name: None if summary[name] is None else (summary[name] or 0.0) / part.stretch for name in names}
    return Opinion(
        topology=str(one.topology), simulated=str(part.topology), share=part.share, stretch=part.stretch,
        request_hz=(workload.rate or 0.0) * part.stretch, requests=int(summary["completed"] or 0),
        static_ttft_s=None if static is None else static.ttft_s, static_tpot_s=None if static is None else static.tpot_s,
        **times, attained=summary["slo_attainment"], run=lab.run.id, notes=(*notes, *_uncorrected(found, kind), *marks),
    )  # fmt: skip


def profiles_of(found: WhatIf, kind: str, one: Projected, estimator: StepEstimator | None) -> dict[int, TimingProfile]:
    """Of each degree that the split has: steps corrected as the projection is, but for prefills of a disaggregated split.

    Their TTFT was fitted to 1.8 steps, for the queue, and a measured one does not tell step, queue and handover apart. Runs with
    idle prefill workers would make steps nearly twice too short; with 1.8 taken out, busy ones would make them too long, by a
    queue that the simulation adds again. So these steps stay as projected.
    """
    setting, error = found.question.setting, found.error
    factors = error.factors.get(kind, {}) if isinstance(error, Calibration) else {}
    prefill = 1.0 if kind == KINDS[1] else factors.get("ttft", 1.0)
    told = (error.words_of(setting.model), *(f"{note[0].upper()}{note[1:]}." for note in _uncorrected(found, kind)))
    make = partial(
        timing_from_estimates, setting.model, setting.system, engine=setting.engine, longest=setting.isl + setting.osl,
        kv_transfer_bytes_s=LINK_BYTES_S, factors=(prefill, factors.get("tpot", 1.0)),
        error=" ".join(told) if isinstance(error, Calibration) else "", estimator=estimator,
    )  # fmt: skip
    return {tp: make(tp=tp) for tp in {group.tp for group in one.topology.groups}}


def _uncorrected(found: WhatIf, kind: str) -> tuple[str, ...]:
    """What of a calibration does not reach the simulation."""
    if kind != KINDS[1] or not isinstance(found.error, Calibration) or "ttft" not in found.error.factors.get(kind, {}):
        return ()
    return ("simulated prefill steps are not corrected: a measured TTFT is step and queue in one",)


def _workload(found: WhatIf, one: Projected, part: Part, seconds: float | None, load: float) -> tuple[Workload, tuple[str, ...]]:
    """Poisson arrivals; long enough for requests to come, queue and go."""
    asked = found.question.setting
    request_s = (one.ttft_s + (asked.osl - 1) * one.tpot_s) * part.stretch
    wanted = max(20.0, 3 * request_s) if seconds is None else seconds
    length = min(wanted, _MOST_S)
    notes = (f"{length:.0f} s of load are {length / request_s:.1f} times as long as a request",) if length < 3 * request_s else ()
    rate = one.request_hz * load * part.share / part.stretch
    warm_s = min(_WARM * request_s, length)
    return Workload(isl=asked.isl, osl=asked.osl, rate=rate, duration_s=length, warmup_s=warm_s), notes


def _workers(run: Run, found: WhatIf) -> Workers:
    return found.error.applied(kept_workers(run)[found.question.setting])


def _stretched(slo: Slo, factor: float) -> Slo:
    limits = {name: limit * factor for name, limit in asdict(slo).items() if limit is not None}
    return Slo(**{**asdict(slo), **limits})


def _text(found: SecondOpinion) -> list[str]:
    """A table, side by side; no number without what it is."""
    lines = [f"Second opinion, simulated and not measured: Poisson arrivals at {found.load:.0%} of each split's projected rate."]
    lines += [folded(f"Static estimate: {found.said[0].lower()}{found.said[1:]}")] if found.sides and found.said else []
    if found.sides:
        rows = [("", *(f"{one.topology}" for one in found.sides))]
        rows += [(label, *(cell(one) for one in found.sides)) for label, cell in _ROWS]
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for one in found.sides:
        if one.share < 1:
            lines.append(f"{one.topology} is too large for this machine: {one.simulated} at the same load per worker instead.")
        if one.stretch > 1:
            lines.append(f"{one.topology} ran {one.stretch:g} times slower than it would, so that this machine keeps up.")
        lines += [f"! {one.topology}: {note}." for note in one.notes]
    lines += [f"Not simulated: {why}." for why in found.left_out]
    return lines


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value * 1e3:,.3g} ms" if value < 1 else f"{value:,.3g} s"


_ROWS: Final[tuple[tuple[str, Callable[[Opinion], str]], ...]] = (
    ("simulated workers", lambda one: one.simulated),
    ("requests/s (ended)", lambda one: f"{one.request_hz:.3g} ({one.requests})"),
    ("TTFT, static estimate", lambda one: _ms(one.static_ttft_s)),
    ("TTFT, simulated p50", lambda one: _ms(one.ttft_p50_s)),
    ("TTFT, simulated p99", lambda one: _ms(one.ttft_p99_s)),
    ("TPOT, static estimate", lambda one: _ms(one.static_tpot_s)),
    ("TPOT, simulated p50", lambda one: _ms(one.tpot_p50_s)),
    ("TPOT, simulated p99", lambda one: _ms(one.tpot_p99_s)),
    ("met the SLO, simulated", lambda one: "–" if one.attained is None else f"{one.attained:.0%}"),
)
