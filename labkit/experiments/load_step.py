"""A load step, with and without a re-split that follows it: what it brings that the lab shifts a worker to prefill, and back.

The same requests twice: the split stays, or one decode worker becomes a prefill worker when the demand steps up and a decode
worker again when it steps down. Both shifts are ordered at the instants of the step, as somebody would who knows them; who
must notice the step first gains less. Requests that wait on a worker stay there: a shift helps those that come after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from labkit.errors import ComparisonError, SpecError
from labkit.experiments.compare import marks_of_side
from labkit.experiments.load_step_text import load_step_text
from labkit.experiments.paired import paired, since_measure_s
from labkit.experiments.quantities import measure
from labkit.experiments.sides import Side, sides_of
from labkit.lab.lab import Lab
from labkit.lab.measurement import Measurement
from labkit.measure.counters import is_shared
from labkit.measure.digest import Digest
from labkit.measure.records import Records
from labkit.measure.statistics import Interval
from labkit.serve.deployment import Resplit
from labkit.serve.engines.attach import Attached
from labkit.spec import Role, Slo, Topology, Workload
from labkit.spec.arrivals import Step as Steps
from labkit.spec.topology import Group

STAYS: Final = "stays"
SHIFTS: Final = "shifts"
PARTS: Final = ("before", "step", "after")
#: Marks that a step of the load, or a shift, is sure to bring.
_MEANT: Final = frozenset({"mixed_splits", "straddled", "not_stationary", "saturated", "shared_core"})
_KEYS: Final = ("slo_attainment", "ttft_p50_s", "itl_p50_s")


@dataclass(frozen=True, slots=True)
class Shift:
    """A re-split under the load.

    Attributes:
        repeat: of the load.
        after: the split that it led to.
        at_s: when it was ordered, seconds of the measure phase.
        switched_s: seconds from the order until new requests went to the new split.
        drained_s: the same until the old router had none left; ``None`` where it was not waited for.
        started: workers that it had to start: none where the router decides the roles.
    """

    repeat: int
    after: str
    at_s: float
    switched_s: float
    drained_s: float | None
    started: int = 0


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests scheduled in some seconds of the measure phase, of all repeats of a side."""

    start_s: float
    end_s: float
    requests: int
    good: int
    goodput_hz: float

    @property
    def share(self) -> float | None:
        """Of the requests that met the SLO; ``None`` where there were none."""
        return self.good / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Effect:
    """One figure of the requests of a part of the load, without the shift and with it; ``None`` where there are too few."""

    stays: Interval | None
    shifts: Interval | None
    ratio: Interval | None


@dataclass(frozen=True, slots=True)
class LoadStep:
    """What was found.

    Attributes:
        calm, surge: the split outside of the step, and the one that is shifted to.
        step_s, back_s: the step, seconds of the measure phase.
        length_s: of the measure phase.
        courses: ``STAYS`` and ``SHIFTS`` → goodput over time.
        effects: part of the load (``PARTS``) → ``slo_attainment``, ``ttft_p50_s``, ``itl_p50_s``.
        requests: part → measured requests of a side, all repeats.
        shifts: of all repeats.
        failed: requests of the measure phases, without and with the shift.
        workload: in words.
        shared: whether workers share devices.
        accelerator: what one is called.
        warnings: what spoiled measurements, each kind once.
    """

    calm: str
    surge: str
    step_s: float
    back_s: float
    length_s: float
    repeats: int
    slo: Slo
    courses: Mapping[str, tuple[Bucket, ...]]
    effects: Mapping[str, Mapping[str, Effect]]
    requests: Mapping[str, int]
    shifts: tuple[Shift, ...]
    failed: tuple[int, int]
    workload: str
    shared: bool
    warnings: tuple[str, ...] = ()
    accelerator: str = ""

    def goodput_hz(self, part: str) -> tuple[float | None, float | None]:
        """Requests per second of a part of the load that met the SLO, without the shift and with it: means of the repeats."""
        effect = self.effects[part]["slo_attainment"]
        begin, end = bounds_of(part, self.step_s, self.back_s, self.length_s)
        sent_hz = self.requests[part] / (self.repeats * (end - begin))
        stays, shifts = (None if share is None else share.estimate * sent_hz for share in (effect.stays, effect.shifts))
        return stays, shifts

    @property
    def gain(self) -> Interval | None:
        """Goodput during the step, with the shift over without it."""
        return self.effects["step"]["slo_attainment"].ratio

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        return load_step_text(self)

    __repr__ = __str__


def bounds_of(part: str, step_s: float, back_s: float, length_s: float) -> tuple[float, float]:
    """Beginning and end of a part of the measure phase, in seconds."""
    edges = (0.0, step_s, back_s, length_s)
    at = PARTS.index(part)
    return edges[at], edges[at + 1]


def step_of(workload: Workload) -> tuple[float, float]:
    """When the highest rate of a workload with ``step:`` arrivals begins and ends, in seconds of the measure phase.

    Raises:
        SpecError: other arrivals, or the highest rate is the first or the last.
    """
    profile = workload.profile
    steps = profile.steps if isinstance(profile, Steps) else ()
    at = max(range(len(steps)), key=lambda i: steps[i][1]) if steps else 0
    if not 0 < at < len(steps) - 1 or workload.duration_s is None or steps[at + 1][0] >= workload.duration_s:
        raise SpecError(
            f"{workload} has no step up and down again",
            remedy='give arrivals such as "step:0=1,15=3,30=1" and a duration_s beyond the last',
        )
    return steps[at][0], steps[at + 1][0]


def shifted(calm: Topology) -> Topology:
    """The split with one decode worker less and one prefill worker of its kind more.

    Raises:
        SpecError: there is no decode worker to spare.
    """
    decode = next((group for group in calm.groups if group.role is Role.DECODE), None)
    if decode is None or calm.count(Role.DECODE) < 2:
        raise SpecError(f"{calm} has no decode worker to spare", remedy="begin with a split such as 1P2D, or name the other one")
    rest = [group for group in calm.groups if group is not decode]
    left = [Group(decode.count - 1, decode.role, decode.tp)] if decode.count > 1 else []
    return Topology([*rest, *left, Group(1, Role.PREFILL, decode.tp)])


def measure_load_step(
    lab: Lab,
    *,
    workload: Workload | None = None,
    calm: Topology | str | None = None,
    surge: Topology | str | None = None,
    repeats: int = 3,
    bucket_s: float = 3.0,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> LoadStep:
    """Send a load that steps up and down, in turn with the split as it is and shifted meanwhile; the run keeps what was found.

    Args:
        lab: holds both splits; it is left in ``calm``.
        workload: with ``step:`` arrivals; the lab's own by default. Repeat i adds i to its seed.
        calm: the split outside of the step; the one that serves by default.
        surge: the one to shift to; by default one decode worker of ``calm`` becomes a prefill worker.
        repeats: of each side.
        bucket_s: of goodput over time.
        clock_ns, sleep: the instants of the shifts are waited for with these.

    Raises:
        SpecError: a load without a step, or a split without a decode worker to spare.
        LabError: a split cannot be had, or a worker died.
    """
    work, there = workload or lab.workload, lab.deployment
    if isinstance(there, Attached):
        raise there.refusal()
    if work is None or repeats < 1:
        raise SpecError("there is no load to step", remedy="pass a workload, and one repeat or more")
    step_s, back_s = step_of(work)
    still = Topology(calm or there.topology)
    other = Topology(surge) if surge is not None else shifted(still)
    shifts: list[Shift] = []
    for repeat in range(repeats):
        for orders in ((), ((step_s, other), (back_s, still))):
            if there.topology != still:
                lab.resplit(still, keep_unused=True)
            load = work.with_seed(work.seed + repeat)
            measured, done = _driven(lab, load, repeat, orders, clock_ns, sleep)
            shifts += [_shift(repeat, one, measured) for one in done]
            lab.progress(repr(measured))
    found = load_step(
        lab.run.digest(),
        (step_s, back_s),
        (str(still), str(other)),
        slo=lab.slo,
        shifts=shifts,
        bucket_s=bucket_s,
        manifest=lab.run.manifest,
    )
    lab.run.note(f"load step: goodput ratio {found.gain}", kind="scaling")
    lab.run.update(load_step=found.to_dict(), load_step_verdict=str(found))
    return found


def _driven(
    lab: Lab,
    load: Workload,
    repeat: int,
    orders: Sequence[tuple[float, Topology]],
    clock_ns: Callable[[], int],
    sleep: Callable[[float], None],
) -> tuple[Measurement, list[Resplit]]:
    side, done = (SHIFTS if orders else STAYS), list[Resplit]()
    lab.progress(f"load step #{repeat + 1}, the split {side}: {load}")
    with lab.load(load, side=side, repeat=repeat) as running:
        begun_ns = clock_ns() + int(load.warmup_s * 1e9)
        for at_s, topology in orders:
            sleep(max(at_s - (clock_ns() - begun_ns) / 1e9, 0.0))
            done.append(lab.resplit(topology, keep_unused=True))
            lab.progress(str(done[-1]))
    return running.wait(), done


def _shift(repeat: int, done: Resplit, measured: Measurement) -> Shift:
    at_s = (done.called_ns - measured.window.measure_ns) / 1e9
    return Shift(repeat, str(done.after), at_s, done.switched_s, done.drained_s, len(done.plan.starts))


def load_step(
    records: Records | Digest,
    step: tuple[float, float],
    splits: tuple[str, str],
    *,
    slo: Slo,
    shifts: Sequence[Shift] = (),
    bucket_s: float = 3.0,
    manifest: Mapping[str, Any] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> LoadStep:
    """What records say of a load step.

    Args:
        records: of a run whose windows carry the sides ``STAYS`` and ``SHIFTS``.
        step: when it begins and ends, in seconds of the measure phase.
        splits: outside of it, and meanwhile.
        slo: that goodput is of.
        shifts: those that were made.
        bucket_s: of goodput over time, about.
        manifest: of the run, for what may have spoiled it.
        seed, resamples: of the bootstrap.

    Raises:
        ComparisonError: a side that was not measured, or no repeat of which both sides came to their end.
    """
    labels = (STAYS, SHIFTS)
    sides = _whole(sides_of(records, *labels))
    window = sides[0][0][1]
    edges = {part: bounds_of(part, *step, window.length_s) for part in PARTS}
    effects = {}
    for part, between_s in edges.items():
        found = {key: paired(labels, sides, key, between_s=between_s, slo=slo, seed=seed, resamples=resamples) for key in _KEYS}
        effects[part] = {key: Effect(one.a, one.b, one.ratio) for key, one in found.items()}
    courses = {label: _course(side, slo, list(edges.values()), bucket_s) for label, side in zip(labels, sides, strict=True)}
    told = [mark for side in sides for mark in marks_of_side(side, manifest or {})]
    marks = {mark.kind: mark.text for mark in told if mark.severity == "warning" and mark.kind not in _MEANT}
    return LoadStep(
        calm=splits[0],
        surge=splits[1],
        step_s=step[0],
        back_s=step[1],
        length_s=window.length_s,
        repeats=len(sides[0]),
        slo=slo,
        courses=courses,
        effects=effects,
        requests={part: _count(sides[0], between_s) for part, between_s in edges.items()},
        shifts=tuple(shifts),
        failed=(_failed(sides[0]), _failed(sides[1])),
        workload=str(Workload.from_dict(window.workload)),
        shared=is_shared(window),
        warnings=tuple(marks.values()),
        accelerator=window.accelerator,
    )


def _whole(sides: tuple[Side, Side]) -> tuple[Side, Side]:
    """The repeats of which no side was stopped before its time."""
    ended = [{window.repeat for _, window in side if not window.stopped} for side in sides]
    both = ended[0] & ended[1]
    if not both:
        raise ComparisonError("no repeat of the load step came to its end", remedy="measure again, and let it end")
    a, b = ([(records, window) for records, window in side if window.repeat in both] for side in sides)
    return a, b


def _course(side: Side, slo: Slo, parts: Sequence[tuple[float, float]], bucket_s: float) -> tuple[Bucket, ...]:
    """Each part of the load in stretches of equal length, about ``bucket_s``: none lies on both sides of a step."""
    at_s, good = [], []
    for records, window in side:
        one = measure(records, window, slo)
        at_s.append(since_measure_s(one)[one.requests.measured])
        good.append(one.good if one.good is not None else np.full(int(one.requests.measured.sum()), np.nan))
    times, met = np.concatenate(at_s), np.concatenate(good)
    pieces = [np.linspace(begin, end, max(1, round((end - begin) / bucket_s)) + 1)[:-1] for begin, end in parts]
    edges = np.append(np.concatenate(pieces), parts[-1][1])
    counts, hits = np.histogram(times, edges)[0], np.histogram(times, edges, weights=np.nan_to_num(met))[0]
    return tuple(
        Bucket(float(a), float(b), int(n), int(hit), float(hit / ((b - a) * len(side))))
        for a, b, n, hit in zip(edges[:-1], edges[1:], counts, hits, strict=True)
    )


def _count(side: Side, between_s: tuple[float, float]) -> int:
    ones = [measure(records, window, None) for records, window in side]
    return sum(int((one.requests.measured & _inside(since_measure_s(one), between_s)).sum()) for one in ones)


def _inside(at_s: np.ndarray[Any, Any], between_s: tuple[float, float]) -> np.ndarray[Any, Any]:
    return np.asarray((at_s >= between_s[0]) & (at_s < between_s[1]))


def _failed(side: Side) -> int:
    ones = [measure(records, window, None).requests for records, window in side]
    return sum(int((one.measured & ~one.ok).sum()) for one in ones)
