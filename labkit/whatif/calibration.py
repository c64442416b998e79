"""How far off a projection is: fitted to some measured runs, judged by others, and refused where none was made.

The correction is one factor for each of TTFT, TPOT and requests a second, for aggregated and for disaggregated splits apart: the
geometric mean of measured over projected. An error is |corrected / measured − 1|, of a run that the factors were not fitted to:
each run in turn, or those that are named; of one kind it says nothing of the other. Open loops have no error of throughput, their
rate was given to both: without a closed loop throughput is corrected by the inverse of TPOT's factor, and its error is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self, TypeVar

from labkit.errors import ProjectionError
from labkit.spec import Role
from labkit.whatif.at_load import at_load
from labkit.whatif.observed import ENGINE, Observation
from labkit.whatif.workers import KINDS, Beyond, Setting, WorkerPoint, Workers

QUANTITIES: Final = ("ttft", "tpot", "throughput")
_LABELS: Final = {"ttft": "TTFT", "tpot": "TPOT", "throughput": "throughput"}
_LEAST_RUNS: Final = 2

Ask = Callable[[Setting], Workers]
_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class HeldOutError:
    """Relative error on runs that the correction was not fitted to; ``count`` sides of them."""

    mean: float
    worst: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.0%} mean, {self.worst:.0%} worst of {self.count}"


@dataclass(frozen=True, slots=True)
class Range:
    """What was measured, from least to most.

    Attributes:
        systems: GPUs.
        engines: whose workers served.
        models: whose runs there were; another one is not refused, but named as one whose error is unknown.
        isl, osl: tokens, by kind of split.
        batch: requests in flight of a worker that decodes, by kind.
        tps: degrees by role: ``A``, ``P`` and ``D``.
    """

    systems: tuple[str, ...]
    engines: tuple[str, ...]
    models: tuple[str, ...]
    isl: Mapping[str, tuple[int, int]]
    osl: Mapping[str, tuple[int, int]]
    batch: Mapping[str, tuple[float, float]]
    tps: Mapping[str, tuple[int, ...]]

    def __str__(self) -> str:
        degrees = ", ".join(f"{Role(role).noun} TP {'/'.join(map(str, tps))}" for role, tps in self.tps.items())
        spans = {kind: self.spans(kind) for kind in self.batch}
        told = next(iter(spans.values())) if len(set(spans.values())) == 1 else "; ".join(map(" ".join, spans.items()))
        return f"{', '.join(self.models)} on {', '.join(self.systems)} with {', '.join(self.engines)}; {told}; {degrees}"

    def spans(self, kind: str) -> str:
        """Lengths and requests in flight of a kind that was measured."""
        lengths = f"ISL {_span(self.isl[kind])}, OSL {_span(self.osl[kind])}"
        return f"{lengths}, {_span(self.batch[kind])} requests in flight a worker"

    def of_length(self, kind: str, isl: int, osl: int) -> bool:
        """Whether a kind was measured with such requests."""
        return all(
            found is not None and found[0] <= value <= found[1]
            for found, value in ((self.isl.get(kind), isl), (self.osl.get(kind), osl))
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """A correction with its error.

    Attributes:
        factors: by kind and quantity: measured over projected. A kind or quantity that was not measured is absent.
        errors: by kind and quantity; absent where no held-out run tells it.
        range: within which it holds.
        runs: that it was fitted to in the end: all of them, or those not held out.
        held_out: whose errors these are.
        extrapolate: whether projections outside of the range were asked for.
        measured: kinds of which there were runs, fitted to or held out.
    """

    factors: Mapping[str, Mapping[str, float]]
    errors: Mapping[str, Mapping[str, HeldOutError]]
    range: Range
    runs: tuple[str, ...]
    held_out: tuple[str, ...]
    extrapolate: bool = False
    measured: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The error, a sentence to stand beside every projected number."""
        told = " ".join(f"{kind.capitalize()}: {self._told(kind)}." for kind in KINDS)
        beyond = " Asked for beyond the calibrated range: there the error is unknown." if self.extrapolate else ""
        return f"Error on held-out runs. {told} Calibrated by runs of {self.range}.{beyond}"

    def words_of(self, *models: str) -> str:
        """``words``, and which of these models' errors it does not tell."""
        return " ".join(text for text in (self.words, self.unlike(*models)) if text)

    def unlike(self, *models: str) -> str:
        """Which of these models have no run here, a sentence; empty where each has."""
        others = [model for model in dict.fromkeys(models) if model not in self.range.models]
        if not others:
            return ""
        return f"Calibrated by runs of {', '.join(self.range.models)} alone: of {', '.join(others)} the error is unknown."

    def error_of(self, kind: str, quantity: str) -> HeldOutError | None:
        """``None``: unknown."""
        return self.errors.get(kind, {}).get(quantity)

    def _told(self, kind: str) -> str:
        known = [f"{_LABELS[name]} {error}" for name in QUANTITIES if (error := self.error_of(kind, name)) is not None]
        if not known:
            if kind in self.factors:
                return "unknown, no run of it could be held out"
            return "unknown, none was measured" if kind not in self.measured else "unknown, all runs of it are held out"
        lacking = [_LABELS[name] for name in QUANTITIES if self.error_of(kind, name) is None]
        return "; ".join([*known, *([f"{' and '.join(lacking)} unknown (no closed loop was held out)"] if lacking else [])])

    def applied(self, workers: Workers) -> Workers:
        """The workers corrected; those outside of the calibrated range go into ``beyond``, or stay where ``extrapolate`` is set.

        Raises:
            ProjectionError: the GPU, the engine or a length is outside, or no worker is left.
        """
        asked = workers.setting
        if not self.extrapolate:
            self._check(asked)
        points: list[WorkerPoint] = []
        left_out: dict[str, list[WorkerPoint]] = {}
        for point in workers.points:
            inside = self.extrapolate or self._holds(asked, point)
            (points if inside else left_out.setdefault(_kind(point), [])).append(self._corrected(point))
        if not points:
            raise ProjectionError(f"no worker of {asked} is within the calibrated range: {self.range}", remedy=_BEYOND)
        count, known = len(workers.points) - len(points), ", ".join(self.range.models)
        others = asked.model not in self.range.models
        notes = (
            *workers.notes,
            *([f"{count} of {len(workers.points)} workers are beyond the calibrated range"] if count else []),
            *([f"runs of {asked.model}; it is corrected by those of {known}, and its error is unknown"] if others else []),
        )
        beyond = {kind: Beyond(self._measured(kind), kind in self.factors, tuple(found)) for kind, found in left_out.items()}
        return Workers(asked, f"{workers.source}, corrected by {len(self.runs)} runs", tuple(points), notes, beyond)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What ``to_dict`` made."""
        held = {"engines": (ENGINE,), **data["range"]}  # once only vLLM's were calibrated by, and not named
        held |= {name: tuple(held[name]) for name in ("systems", "engines", "models")}
        for name in ("isl", "osl", "batch", "tps"):
            spans = held[name] if isinstance(held[name], Mapping) else dict.fromkeys(data["factors"], held[name])  # once pooled
            held[name] = {key: tuple(span) for key, span in spans.items()}
        errors = {
            kind: {name: HeldOutError(**error) for name, error in found.items()}
            for kind, found in data["errors"].items()
            if kind in KINDS  # earlier labkits pooled both: whose errors those were is not known
        }
        return cls(
            data["factors"], errors, Range(**held), tuple(data["runs"]), tuple(data["held_out"]), bool(data["extrapolate"]),
            tuple(data.get("measured", data["factors"])),
        )  # fmt: skip

    def _check(self, asked: Setting) -> None:
        r = self.range
        lacks = [
            f"{wanted} (calibrated: {', '.join(known)})"
            for wanted, known in ((asked.system, r.systems), (asked.engine, r.engines))
            if wanted not in known
        ]
        if not any(r.of_length(kind, asked.isl, asked.osl) for kind in r.isl):
            known = " or ".join(dict.fromkeys(f"ISL {_span(r.isl[kind])}, OSL {_span(r.osl[kind])}" for kind in r.isl))
            lacks.append(f"ISL {asked.isl}, OSL {asked.osl} (calibrated: {known})")
        if lacks:
            raise ProjectionError(f"outside of the calibrated range: {'; '.join(lacks)}", remedy=_BEYOND)

    def _holds(self, asked: Setting, point: WorkerPoint) -> bool:
        kind = _kind(point)
        if point.tp not in self.range.tps.get(point.role.value, ()) or not self.range.of_length(kind, asked.isl, asked.osl):
            return False
        if point.role is Role.PREFILL:  # they were projected one prompt at a time
            return point.batch == 1
        least, most = self.range.batch[kind]
        return math.floor(least) <= point.batch <= math.ceil(most)

    def _measured(self, kind: str) -> str:
        """What there was of a kind, for whoever asks about more."""
        if kind not in self.factors:
            return f"no {kind} split was measured" if kind not in self.measured else f"all runs of {kind} splits are held out"
        roles = [Role.AGGREGATED] if kind == KINDS[0] else [Role.PREFILL, Role.DECODE]
        degrees = " and ".join(f"{role.noun} TP {'/'.join(map(str, self.range.tps.get(role.value, ())))}" for role in roles)
        return f"{kind} splits were measured only with {degrees}, {self.range.spans(kind)}"

    def _corrected(self, point: WorkerPoint) -> WorkerPoint:
        mine = self.factors.get(_kind(point), {})
        ttft, tpot = mine.get("ttft", 1.0), mine.get("tpot", 1.0)
        rate = mine.get("throughput", 1 / tpot)  # of as many requests in flight, more slowly served
        return replace(point, ttft_s=point.ttft_s * ttft, tpot_s=point.tpot_s * tpot, request_hz=point.request_hz * rate)


@dataclass(frozen=True, slots=True)
class NoCalibration:
    """There is no error to state, and why."""

    reason: str

    @property
    def words(self) -> str:
        """A sentence to stand beside every projected number."""
        return f"No error can be given: {self.reason}."

    def words_of(self, *models: str) -> str:
        """``words``: of no model is it known."""
        return self.words

    def unlike(self, *models: str) -> str:
        """Nothing: no model differs from others here."""
        return ""

    def applied(self, workers: Workers) -> Workers:
        """The workers as they were projected."""
        return workers

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"none": self.reason}


def calibrate(
    observations: Sequence[Observation],
    ask: Ask,
    *,
    held_out: Iterable[str] | None = None,
    extrapolate: bool = False,
    left_out: list[str] | None = None,
) -> Calibration | NoCalibration:
    """Fit the correction, and judge it by runs that it was not fitted to.

    Args:
        observations: measured sides; ``observations_of`` makes them of runs.
        ask: what projects.
        held_out: ids of runs to judge by; without, each run in turn is judged by a fit to the others.
        extrapolate: allow projections outside of what was measured.
        left_out: why sides were of no use, for the reason of ``NoCalibration``; gets more lines.

    Returns:
        ``NoCalibration`` where fewer than two runs are of use.
    """
    said = [] if left_out is None else left_out
    held = [found for one in observations if (found := _hold(one, ask, said)) is not None]
    runs = tuple(dict.fromkeys(one.run for one in held))
    judged = tuple(run for run in runs if held_out is None or run in set(held_out))
    apart = set(judged) if held_out is not None else set()
    fitted = [one for one in held if one.run not in apart]
    if len(runs) < _LEAST_RUNS or not judged or not fitted:
        return NoCalibration(_why_not(runs, judged, said))
    rounds = [apart] if apart else [{run} for run in judged]
    deviations: dict[str, dict[str, list[float]]] = {}
    for out in rounds:
        factors = _fit([one for one in held if one.run not in out])
        for one in held:
            for name, ratio in one.ratios.items() if one.run in out else ():
                factor = factors.get(one.kind, {}).get(name)
                if factor is not None:
                    deviations.setdefault(one.kind, {}).setdefault(name, []).append(abs(factor / ratio - 1))
    if not deviations:
        return NoCalibration("no run that was held out is of a kind of split that the others measured")
    return Calibration(
        factors=_fit(fitted),
        errors={
            kind: {name: HeldOutError(sum(found) / len(found), max(found), len(found)) for name, found in mine.items()}
            for kind, mine in deviations.items()
        },
        range=_range(fitted),
        runs=tuple(dict.fromkeys(one.run for one in fitted)),
        held_out=judged,
        extrapolate=extrapolate,
        measured=tuple(kind for kind in KINDS if any(one.kind == kind for one in held)),
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """A measured side beside its projection: measured over projected by quantity, and the requests a worker holds."""

    observed: Observation
    ratios: Mapping[str, float]
    batch: float

    @property
    def run(self) -> str:
        return self.observed.run

    @property
    def kind(self) -> str:
        return KINDS[self.observed.topology.is_disaggregated]


def _hold(one: Observation, ask: Ask, said: list[str]) -> _Held | None:
    try:
        workers = ask(one.setting)
    except ProjectionError as error:
        said.append(f"{one.side} of {one.run}: {error.what}")
        return None
    found = at_load(
        workers, one.topology, concurrency=one.concurrency, rate_hz=one.rate_hz, step_tokens=one.step_tokens
    )  # fmt: skip
    if found is None:
        said.append(f"{one.side} of {one.run}: its load is more than is projected to be possible, or its TP is not projected")
        return None
    ratios = {"ttft": one.ttft_s / found.ttft_s, "tpot": one.tpot_s / found.tpot_s}
    if one.request_hz is not None:
        ratios["throughput"] = one.request_hz / found.request_hz
    return _Held(one, ratios, found.batch)


def _fit(held: Sequence[_Held]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        for name in QUANTITIES:
            logs = [math.log(one.ratios[name]) for one in held if one.kind == kind and name in one.ratios]
            if logs:
                found.setdefault(kind, {})[name] = math.exp(sum(logs) / len(logs))
    return found


def _range(held: Sequence[_Held]) -> Range:
    settings = [one.observed.setting for one in held]
    by_kind = {kind: mine for kind in KINDS if (mine := [one for one in held if one.kind == kind])}
    tps: dict[str, set[int]] = {}
    for one in held:
        for group in one.observed.topology.groups:
            tps.setdefault(group.role.value, set()).add(group.tp)
    return Range(
        systems=tuple(sorted({setting.system for setting in settings})),
        engines=tuple(sorted({setting.engine for setting in settings})),
        models=tuple(sorted({setting.model for setting in settings})),
        isl={kind: _ends([one.observed.setting.isl for one in mine]) for kind, mine in by_kind.items()},
        osl={kind: _ends([one.observed.setting.osl for one in mine]) for kind, mine in by_kind.items()},
        batch={kind: _ends([one.batch for one in mine]) for kind, mine in by_kind.items()},
        tps={role: tuple(sorted(found)) for role, found in sorted(tps.items())},
    )


def _why_not(runs: Sequence[str], judged: Sequence[str], said: Sequence[str]) -> str:
    reasons = list(dict.fromkeys(text.split(": ", 1)[-1] for text in said))
    because = f" ({'; '.join(reasons[:_MOST_REASONS])}{'; …' if len(reasons) > _MOST_REASONS else ''})" if reasons else ""
    if not runs:
        return f"no measured run can be held against a projection{because}"
    if len(runs) < _LEAST_RUNS:
        return f"one measured run can be held against a projection, and it takes two: one to fit, one to judge by{because}"
    return f"{'all runs are held out, none is left to fit' if judged else 'none of the runs to hold out was measured'}{because}"


def _kind(point: WorkerPoint) -> str:
    return KINDS[point.role is not Role.AGGREGATED]


def _ends(values: Sequence[_Number]) -> tuple[_Number, _Number]:
    return min(values), max(values)


def _span(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


_BEYOND: Final = "measure there, or ask for it all the same with extrapolate=True: its error is then unknown"
_MOST_REASONS: Final = 3
