"""Which split of a run is meant: a search's winner, the better side, the split in force, or the one that was named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from labkit.errors import LabError, SpecError, StoreError
from labkit.experiments.candidates import Candidate
from labkit.experiments.conclude import compare_sides
from labkit.experiments.peak import Peak
from labkit.experiments.pins import pins_of, read_pin
from labkit.experiments.points import point_of
from labkit.experiments.sides import windows_of_side
from labkit.experiments.trials import Trial, is_trial, side_of_trial
from labkit.live.pin import KIND as PIN
from labkit.live.pin import Pin
from labkit.measure.epochs import options_of
from labkit.measure.records import Window
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Topology
from labkit.store.run import Run, open_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """A split of a run, and the measurements that speak for it.

    Attributes:
        origin: why this one, in words.
        topology: the split.
        options: of its workers; ``None`` where they are not known.
        kept: the run that has the measurements: the one that was named, a pin's, or an earlier search's.
        windows, point: the measurements, and their figures; none and ``None`` where there are none.
        bracket: of the highest load that it served, where a search found that.
    """

    origin: str
    topology: Topology
    options: EngineOptions | None
    kept: Run
    windows: tuple[Window, ...] = ()
    point: Pin | None = None
    bracket: Peak | None = None


def pick(run: Run, *, side: str | None = None, pin: str | None = None, trial: int | None = None) -> Picked:
    """The split that is meant; see ``found_split`` for what is meant without a choice, and for errors."""
    trials = [Trial.from_dict(data) for data in run.manifest.get("trials") or ()]
    if pin is not None:
        return _pinned(_pin_named(run, pin))
    if trial is not None:
        return _tried(run, trials, trial)
    if side is not None:
        return _side(run, side, f"side {side}")
    if run.manifest.get("kind") == PIN:
        return _pinned(run)
    if trials:
        return _winner(run, trials)
    if run.manifest.get("kind") == "explore":
        return _in_force(run)
    return _better(run)


def _side(run: Run, side: str, origin: str, topology: Topology | None = None, options: EngineOptions | None = None) -> Picked:
    windows = windows_of_side(run.digest(), side)
    return Picked(
        origin=origin,
        topology=topology or _topology(run, windows[-1].topology),
        options=options or _options(run, windows[-1].epoch),
        kept=run,
        windows=tuple(windows),
        point=point_of(run, side),
    )


def _better(run: Run) -> Picked:
    sides = [side for side in dict.fromkeys(window.side for window in run.windows) if not is_trial(side)]
    remedy = "name one with --side"
    if not sides:
        raise StoreError(f"run {run.id} measured no split: there is none to deploy", remedy="name a run that did")
    if len(sides) == 1:
        return _side(run, sides[0], "the only split that was measured")
    if len(sides) > 2:
        raise SpecError(f"run {run.id} measured {', '.join(sides)}, and ranks none of them", remedy=remedy)
    try:
        row = compare_sides(run).row("goodput_request_s")
    except LabError as error:
        raise SpecError(f"which side of run {run.id} is better is not known: {error.what}", remedy=remedy) from error
    if row.ratio is None or not row.ratio.shows_difference:
        why = f"ratio {row.ratio}" if row.ratio else row.reason
        raise SpecError(f"{sides[0]} and {sides[1]} are not told apart by goodput ({why})", remedy=remedy)
    return _side(run, sides[row.ratio.estimate > 1], f"the side with more goodput: {sides[1]} / {sides[0]} is {row.ratio}")


def _winner(run: Run, trials: Sequence[Trial]) -> Picked:
    found = [row["data"] for row in run.records(chunks=False).events.to_pylist() if row["kind"] == "search" and row["data"]]
    if not found:
        raise StoreError(
            f"the search of run {run.id} was not carried to its end: it has no winner",
            remedy="run it again, which goes on where it was; or take one of its trials with --trial N",
        )
    name = str(json.loads(found[-1])["best"])
    mine = [trial for trial in trials if trial.candidate == name]
    bracket = Peak()
    for trial in mine:
        if trial.rung == max(one.rung for one in mine):
            bracket = bracket.told(trial.rate, trial.served)
    if bracket.served is None:
        raise StoreError(
            f"no split of run {run.id} serves the load within its SLO: the best, {name}, serves {bracket}",
            remedy="search under another SLO or with more accelerators; --trial N takes a split all the same",
        )
    origin = f"the winner of a split search: {str(run.manifest.get('answer') or name).partition(chr(10))[0]}"
    return _candidate(
        run, max((trial for trial in mine if trial.served), key=lambda trial: (trial.rung, trial.rate)), origin, bracket
    )


def _tried(run: Run, trials: Sequence[Trial], number: int) -> Picked:
    if not 1 <= number <= len(trials):
        remedy = f"it has 1 to {len(trials)}" if trials else "it is no split search: name one of its sides with --side"
        raise StoreError(f"run {run.id} has no trial {number}", remedy=remedy)
    trial = trials[number - 1]
    return _candidate(run, trial, f"trial {number} of a split search: {trial}", None)


def _candidate(run: Run, trial: Trial, origin: str, bracket: Peak | None) -> Picked:
    """A split of a search: measured by the confirmation of its winner, or else by a trial, of this search or an earlier one."""
    candidate = Candidate.parse(trial.candidate)
    options = candidate.options(EngineOptions.from_dict(run.manifest.get("options") or {}))
    picked = Picked(origin=origin, topology=candidate.topology, options=options, kept=run, bracket=bracket)
    confirmed = bracket is not None and str(candidate) in {window.side for window in run.windows}
    side = str(candidate) if confirmed else side_of_trial(candidate, trial.rate)
    with suppress(LabError):  # the records of an earlier search may be gone
        kept = run if confirmed or trial.run == run.id else open_run(trial.run, run.path.parent)
        measured = _side(kept, side, origin, candidate.topology, options)
        picked = Picked(
            origin=origin, topology=candidate.topology, options=options, kept=kept, bracket=bracket,
            windows=measured.windows, point=measured.point,
        )  # fmt: skip
    return picked


def _in_force(run: Run) -> Picked:
    epochs = run.manifest.get("epochs") or ()
    if not epochs:
        raise StoreError(f"run {run.id} served no split: there is none to deploy", remedy="name a run that did")
    last = epochs[-1]
    pinned = (open_run(pin.run, run.path.parent) for pin in pins_of(run) if pin.topology == last["topology"])
    same = [kept for kept in pinned if kept.manifest.get("options") == last.get("options")]
    origin = f"the split in force when the exploration {run.id} ended"
    if same:
        return _pinned(same[-1], f"{origin}, measured by ")
    return Picked(origin=origin, topology=_topology(run, str(last["topology"])), options=_options(run, last["epoch"]), kept=run)


def _pinned(kept: Run, origin: str = "") -> Picked:
    point = read_pin(kept)
    return Picked(
        origin=f"{origin}pin {point.label!r}", topology=_topology(kept, point.topology),
        options=_options(kept, kept.windows[0].epoch), kept=kept, windows=kept.windows, point=point,
    )  # fmt: skip


def _pin_named(run: Run, name: str) -> Run:
    pins = pins_of(run)
    for pin in pins:
        if name in (pin.label, pin.run):
            return open_run(pin.run, run.path.parent)
    known = ", ".join(repr(pin.label) for pin in pins) or "none"
    raise StoreError(f"run {run.id} has no pin {name!r}", remedy=f"its pins: {known}")


def _topology(run: Run, text: str) -> Topology:
    with suppress(SpecError):
        return Topology(text)
    raise StoreError(
        f"run {run.id} does not say which split served ({text!r}): there is none to deploy",
        remedy="name a run on workers of the lab, or declare the split when you attach: Lab.attach(…, topology='1P1D')",
    )


def _options(run: Run, epoch: int) -> EngineOptions | None:
    """What the workers of an epoch were started with; those of the run where the epoch does not say."""
    options = options_of(run.manifest, epoch)
    return None if options is None else EngineOptions.from_dict(options)
