"""Do prefill and decode workers scale independently? x of xPyD is varied with y fixed, then y with x fixed, under one load.

All points are splits of one warm pool, whose other workers stay unused, and get the same requests in turn. An added worker should
shorten what its own role does (prefill: TTFT; decode: ITL) and leave the other role's latency alone. "No difference shown" is not
"no difference": the other's latency counts as left alone only where the whole interval of its ratio lies within ``WITHIN`` of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal

from labkit.errors import SpecError
from labkit.experiments.compare import Comparison, Row, compare
from labkit.experiments.interleave import interleave
from labkit.experiments.paired import paired
from labkit.experiments.scaling_text import scaling_text
from labkit.experiments.sides import sides_of, windows_of_side
from labkit.experiments.until import LEAST_REPEATS
from labkit.lab.lab import Lab
from labkit.measure.digest import Digest, digest
from labkit.measure.pressure import Pressure, pressures, roles_of
from labkit.measure.records import Records, Window
from labkit.measure.statistics import Interval
from labkit.serve.engines.attach import Attached
from labkit.spec import Role, Slo, Topology, Workload
from labkit.spec.topology import Group

#: A ratio whose whole interval lies between 1 / (1 + this) and 1 + this is a latency that was left alone.
WITHIN: Final = 0.10
#: What each role's workers are there for, and a change of which the other role's workers should not bring.
LATENCIES: Final[Mapping[Role, tuple[str, ...]]] = {
    Role.PREFILL: ("ttft_p50_s", "ttft_p99_s"),
    Role.DECODE: ("itl_p50_s", "itl_p99_s"),
}
SHOWN: Final = ("output_tok_s", "goodput_request_s", "slo_attainment", "ttft_p50_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s")
_ALL_COUNTS: Final = 4  # up to so many workers of a role each count is measured, beyond them powers of two

#: Of one latency, or of several together: shorter, longer, both, within ``WITHIN`` of what it was, or not known well enough.
Change = Literal["shorter", "longer", "mixed", "same", "open"]
Outcome = Literal["reproduced", "only when", "not reproduced", "open"]


@dataclass(frozen=True, slots=True)
class Value:
    """A figure of one point; ``None`` with a reason."""

    value: float | None
    interval: Interval | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """What one split did.

    Attributes:
        topology: canonical text.
        accelerators, accelerator: what its workers computed on.
        figures: those of ``SHOWN``.
        pressed: how hard the workers of each role were pressed; a figure that nobody told is ``None`` there.
        sharing: devices that several of its workers share: ``w1 (prefill) and w3 (decode) share core 1``.
        unsettled: repeats without a stationary part.
        failed: requests.
    """

    topology: str
    accelerators: float
    accelerator: str
    figures: Mapping[str, Value]
    pressed: Mapping[Role, Pressure]
    sharing: tuple[str, ...]
    unsettled: int
    failed: int

    def count(self, role: Role) -> int:
        """How many workers have this role."""
        return Topology(self.topology).count(role)


@dataclass(frozen=True, slots=True)
class Step:
    """More workers of one role, everything else as before.

    Attributes:
        role: what was added.
        comparison: of the larger split against the smaller; ratios of latencies and goodput are of pairs of the same request.
        first: the axis's first split, which the other role's latency is held against: small changes must not creep.
        of_other: the other role's latencies on the larger split against those on the first.
    """

    role: Role
    comparison: Comparison
    first: str
    of_other: tuple[Row, ...]

    @property
    def before(self) -> str:
        """The smaller split."""
        return self.comparison.side_a

    @property
    def after(self) -> str:
        """The larger one."""
        return self.comparison.side_b

    @property
    def added(self) -> int:
        """How many workers."""
        return Topology(self.after).count(self.role) - Topology(self.before).count(self.role)

    @property
    def other(self) -> Role:
        """The role that nothing was added to."""
        return Role.DECODE if self.role is Role.PREFILL else Role.PREFILL

    @property
    def of_own(self) -> tuple[Row, ...]:
        """The latencies that the added workers are there for."""
        return tuple(self.comparison.row(key) for key in LATENCIES[self.role])

    @property
    def own(self) -> Change:
        """What became of the latency that the added workers are there for."""
        return together(self.of_own)

    @property
    def others(self) -> Change:
        """What became of the other role's latency, since the first split."""
        return together(self.of_other)

    @property
    def is_independent(self) -> bool | None:
        """Whether the added workers left the other role alone and did no harm to their own; ``None`` where that is open."""
        if self.own in ("longer", "mixed") or self.others in ("shorter", "longer", "mixed"):
            return False
        return True if self.others == "same" else None


@dataclass(frozen=True, slots=True)
class Scaling:
    """What was found.

    Attributes:
        points: the smallest split first, then with more prefill workers, then with more decode workers.
        steps: from each point to the next on its axis, prefill first.
        slo: what goodput is of.
        repeats: of each point.
    """

    points: tuple[Point, ...]
    steps: tuple[Step, ...]
    slo: Slo
    repeats: int

    def axis(self, role: Role) -> list[Step]:
        """The steps that add workers of one role."""
        return [step for step in self.steps if step.role is role]

    def along(self, role: Role) -> list[Point]:
        """The points that differ in the number of workers of one role, the smallest first."""
        steps = self.axis(role)
        names = [steps[0].before, *(step.after for step in steps)] if steps else []
        return [self.point(name) for name in names]

    def point(self, topology: str) -> Point:
        """The point of a split."""
        return next(point for point in self.points if point.topology == topology)

    @property
    def outcome(self) -> Outcome:
        """Of the claim: reproduced where every step is independent and both roles gained by workers of their own.

        Always open with fewer than ``LEAST_REPEATS``: nothing is known of the spread between repeats then.
        """
        if self.repeats < LEAST_REPEATS:
            return "open"
        found = [step.is_independent for step in self.steps]
        if False in found:
            return "only when" if True in found else "not reproduced"
        if None in found:
            return "open"
        gained = [any(step.own == "shorter" for step in self.axis(role)) for role in LATENCIES]
        return "reproduced" if all(gained) else "only when" if any(gained) else "open"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What spoiled measurements, each kind once, beside what the points say themselves."""
        told = {mark.kind: mark.text for step in self.steps for side in step.comparison.marks.values() for mark in side
                if mark.severity == "warning" and mark.kind not in ("shared_core", "not_stationary", "failures")}  # fmt: skip
        return tuple(told.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        steps = [
            {
                "role": step.role.noun, "before": step.before, "after": step.after, "own": step.own, "other": step.others,
                "ratios": {row.key: row.ratio and asdict(row.ratio) for row in step.comparison.rows if row.key in SHOWN},
            }
            for step in self.steps
        ]  # fmt: skip
        points = [{**asdict(point), "pressed": {role.noun: asdict(held) for role, held in point.pressed.items()}}
                  for point in self.points]  # fmt: skip
        return {"outcome": self.outcome, "points": points, "steps": steps, "slo": asdict(self.slo), "repeats": self.repeats}

    def __str__(self) -> str:
        return scaling_text(self, within=WITHIN)

    __repr__ = __str__


def change_of(row: Row) -> Change:
    """What the interval of a ratio shows."""
    ratio = row.ratio
    if ratio is None:
        return "open"
    low, high = 1 / (1 + WITHIN), 1 + WITHIN
    if low <= ratio.low and ratio.high <= high:
        return "same"
    if ratio.shows_difference and not low <= ratio.estimate <= high:
        return "shorter" if ratio.estimate < 1 else "longer"
    return "open"


def together(rows: Sequence[Row]) -> Change:
    """Of several latencies: a change that any shows; the same only where all are. Those that are not known do not count."""
    found = {change_of(row) for row in rows if row.ratio is not None}
    if {"shorter", "longer"} <= found:
        return "mixed"
    for change in ("shorter", "longer"):
        if change in found:
            return change
    return "same" if found == {"same"} else "open"


def scaling_axes(workers: int, *, fixed: int = 1, tp: int = 1) -> dict[Role, tuple[Topology, ...]]:
    """The splits that vary x, and those that vary y, within a pool of so many equal workers.

    Args:
        workers: of the pool.
        fixed: workers of the role that does not vary.
        tp: accelerators of each.

    Raises:
        SpecError: the pool is too small to vary anything.
    """
    counts = [n for n in range(1, workers - fixed + 1) if n >= fixed and (n <= _ALL_COUNTS or n & (n - 1) == 0)]
    if fixed < 1 or len(counts) < 2:
        raise SpecError(
            f"a pool of {workers} workers cannot vary one role beside {fixed} of the other",
            remedy="take a pool of 3 workers or more, and fixed=1",
        )

    def split(prefill: int, decode: int) -> Topology:
        return Topology([Group(prefill, Role.PREFILL, tp), Group(decode, Role.DECODE, tp)])

    return {
        Role.PREFILL: tuple(split(count, fixed) for count in counts),
        Role.DECODE: tuple(split(fixed, count) for count in counts),
    }


def measure_scaling(lab: Lab, *, workload: Workload | None = None, repeats: int = 3, fixed: int = 1) -> Scaling:
    """Vary x, then y, in the lab's pool under one load, and leave the lab in the smallest split; the run keeps what was found.

    Args:
        lab: its pool of equal workers holds the largest split.
        workload: an open loop, the same for every point; the lab's own by default.
        repeats: of each point, in turn.
        fixed: workers of the role that does not vary.

    Raises:
        SpecError: no workload, a closed loop, workers that are not alike, a pool too small.
        LabError: a split cannot be had, or a worker died.
    """
    work, there = workload or lab.workload, lab.deployment
    if isinstance(there, Attached):
        raise there.refusal()
    if work is not None and not work.is_open_loop:
        raise SpecError(
            f"{work} offers each split as much as it can take", remedy="give a rate: the load must be the same for all"
        )
    tps = {worker.spec.tp for worker in there.workers}
    if len(tps) > 1:
        raise SpecError("the workers of this pool are not alike", remedy="launch one whose workers have one TP")
    axes = scaling_axes(len(there.workers), fixed=fixed, tp=tps.pop())
    sides = list(dict.fromkeys([*axes[Role.PREFILL], *axes[Role.DECODE]]))
    interleave(lab, sides, workload=work, repeats=repeats, keep_unused=True)
    lab.resplit(sides[0], keep_unused=True)
    found = scaling(lab.run.digest(), axes, slo=lab.slo, manifest=lab.run.manifest)
    lab.run.note(f"independent scaling: {found.outcome}", kind="scaling")
    lab.run.update(scaling=found.to_dict(), verdict=str(found))
    return found


def scaling(
    records: Records | Digest,
    axes: Mapping[Role, Sequence[Topology | str]],
    *,
    slo: Slo,
    manifest: Mapping[str, Any] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Scaling:
    """What records say of the points of both axes.

    Args:
        records: of a run whose windows carry every point as a side.
        axes: for each role the splits in which its number grows; both begin with the same one.
        slo: for goodput.
        manifest: of the run, for the workers' roles and devices.
        seed, resamples: of the bootstrap.

    Raises:
        ComparisonError: a point that was not measured, or other requests at one than at another.
    """
    taken, known = records if isinstance(records, Digest) else digest(records), manifest or {}
    how: dict[str, Any] = {"slo": slo, "manifest": known, "seed": seed, "resamples": resamples}
    steps = []
    for role, splits in axes.items():
        first = str(splits[0])
        for a, b in pairwise(map(str, splits)):
            step = Step(role, _compared(taken, a, b, **how), first, ())
            since = step.comparison if a == first else _compared(taken, first, b, **how)
            steps.append(replace(step, of_other=tuple(since.row(key) for key in LATENCIES[step.other])))
    points: dict[str, Point] = {}
    for step in steps:
        for at, side in enumerate((step.before, step.after)):
            if side not in points:
                figures = {key: _value(step.comparison.row(key), at) for key in SHOWN}
                points[side] = _point(taken, side, figures, step.comparison.failed[at], known)
    return Scaling(tuple(points.values()), tuple(steps), slo, steps[0].comparison.repeats)


def _compared(records: Digest, a: str, b: str, *, slo: Slo, manifest: Mapping[str, Any], seed: int, resamples: int) -> Comparison:
    # the ratios that anything rests on are drawn again, in pairs: half as many resamples do for the others
    found = compare(records, a, b, slo=slo, allow_unequal=True, manifest=manifest, seed=seed, resamples=max(resamples // 2, 1))
    sides, keys = sides_of(records, a, b), [key for keys in LATENCIES.values() for key in keys]

    def again(row: Row) -> Row:
        if row.ratio is None or row.key not in (*keys, "goodput_request_s"):
            return row
        return replace(row, ratio=paired((a, b), sides, row.key, slo=slo, seed=seed, resamples=resamples).ratio)

    return replace(found, rows=tuple(map(again, found.rows)))


def _value(row: Row, at: int) -> Value:
    value, interval = ((row.a, row.a_interval), (row.b, row.b_interval))[at]
    return Value(value, interval, row.reason if value is None else "")


def _point(records: Digest, side: str, figures: Mapping[str, Value], failed: int, manifest: Mapping[str, Any]) -> Point:
    windows = windows_of_side(records, side)
    return Point(
        topology=side,
        accelerators=windows[0].accelerators,
        accelerator=windows[0].accelerator,
        figures=figures,
        pressed=pressures([(records, window) for window in windows], manifest),
        sharing=_sharing(windows[0], manifest),
        unsettled=sum(window.settled is False for window in windows),
        failed=failed,
    )


def _sharing(window: Window, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Which of the workers that serve share a device; empty where none do, or where nobody told."""
    roles = roles_of(window, manifest)
    epoch: Mapping[str, Any] = next((one for one in manifest.get("epochs") or () if one.get("epoch") == window.epoch), {})
    users: dict[int, list[str]] = {}
    for worker, devices in (epoch.get("devices") or {}).items():
        if worker in roles:
            for device in devices.get("gpus") or devices.get("cores") or ():
                users.setdefault(int(device), []).append(f"{worker} ({roles[worker].noun})")
    return tuple(
        f"{' and '.join(names)} share {window.accelerator} {device}" for device, names in sorted(users.items()) if len(names) > 1
    )
