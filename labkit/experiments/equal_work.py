"""Whether two sides may be compared: equal hardware, equal work, the same requests. What is unequal is refused, or labelled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labkit.errors import ComparisonError
from labkit.experiments.differences import complete_workload
from labkit.measure.columns import UNKNOWN, Ints, equals, ints
from labkit.measure.digest import Digest
from labkit.measure.records import UNRECORDED, Window


def check_hardware(labels: tuple[str, str], windows: Sequence[list[Window]], allow: bool, said: list[str]) -> bool:
    """Whether both sides held as many accelerators of one kind, and knew it."""
    held = [{(window.accelerators, window.accelerator) for window in side} for side in windows]
    texts = [" or ".join(f"{count:g} {unit}s" if count else "unknown" for count, unit in sorted(side)) for side in held]
    equal = held[0] == held[1] and len(held[0]) == 1 and all(count for count, _ in held[0])
    if not equal:
        what = f"unequal hardware: {labels[0]} held {texts[0]}, {labels[1]} {texts[1]}"
        if not allow:
            raise ComparisonError(
                what, remedy="measure both on the same accelerators, or pass allow_unequal=True to have it labelled"
            )
        said.append(what)
    return equal


def check_workload(windows: Sequence[list[Window]], allow: bool, said: list[str], *, stretches: bool = False) -> None:
    """The same workload in every window, but for its seed and warm-up; how long it was does not matter of ``stretches``."""
    apart = {"seed": None, "warmup": None, **({"duration_s": None} if stretches else {})}
    first, *others = [{**complete_workload(window.workload), **apart} for side in windows for window in side]
    if any(UNRECORDED in work.values() for work in (first, *others)):
        said.append("an imported side does not say all of its work: it is held to be equal by what it does say")
    for other in others:
        common = [key for key in first.keys() | other.keys() if UNRECORDED not in (first.get(key), other.get(key))]
        differs = sorted(key for key in common if first.get(key) != other.get(key))
        if differs:
            key = differs[0]
            what = f"unequal work: {key} is {first.get(key)!r} in one window and {other.get(key)!r} in another"
            if not allow:
                raise ComparisonError(what, remedy="drive both sides with the same workload")
            said.append(what)


def check_requests(a: Digest, window_a: Window, b: Digest, window_b: Window, allow: bool, said: list[str]) -> None:
    """Equal seed and, index by index, equal lengths, as far as they were recorded.

    A closed loop of a given time sends what it can: a faster side more.
    """
    problem = ""
    seeds = [window.workload.get("seed") for window in (window_a, window_b)]
    asked = [_asked(records, window) for records, window in ((a, window_a), (b, window_b))]
    counts = [len(side) for side in asked]
    common, *rows = np.intersect1d(asked[0][:, 0], asked[1][:, 0], return_indices=True)
    lengths = _lengths(*(side[at, 1:] for side, at in zip(asked, rows, strict=True)))
    unequal = np.flatnonzero((lengths[0] != lengths[1]).any(axis=1))
    recorded = {name for name, value in window_a.workload.items() if value not in (None, UNRECORDED)}
    closed, timed, talks = (name in recorded for name in ("concurrency", "duration_s", "turns"))
    as_many_as_it_can = talks or (closed and timed)  # a failed turn, or a slow server, leaves out later ones
    if UNRECORDED not in seeds and seeds[0] != seeds[1]:
        problem = f"unequal work: repeat {window_a.repeat} has seed {seeds[0]} on one side and {seeds[1]} on the other"
    elif len(unequal):
        first = unequal[0]
        words = " and ".join("ISL {}, OSL {}".format(*side[first]) for side in lengths)
        problem = f"unequal work: request {common[first]} of repeat {window_a.repeat} has {words}"
    elif len(common) < max(counts) and not as_many_as_it_can:
        problem = f"unequal work: repeat {window_a.repeat} has {counts[0]} requests on one side, {counts[1]} on the other"
    if problem and not allow:
        raise ComparisonError(problem, remedy="measure both sides of a pair from the same seed and to the end")
    if problem:
        said.append(problem)


def _asked(records: Digest, window: Window) -> Ints:
    """Per request that was measured: index, ISL and OSL as asked for, prompt and answer as counted where it ended well.

    Rows of five; -1 where not recorded.
    """
    table = records.requests
    mine = (ints(table, "measurement") == window.measurement) & equals(table, "phase", "measure")
    ok = equals(table, "outcome", "ok")
    asked = [ints(table, name, UNKNOWN) for name in ("index", "isl", "osl")]
    counted = [np.where(ok, ints(table, name, UNKNOWN), UNKNOWN) for name in ("prompt_tokens", "output_tokens")]
    return np.column_stack([column[mine] for column in (*asked, *counted)])


def _lengths(one: Ints, other: Ints) -> tuple[Ints, Ints]:
    """The lengths that requests are held equal by: those asked for, or, where an import does not say, those counted."""
    known = ((one[:, :2] != UNKNOWN) & (other[:, :2] != UNKNOWN)).all(axis=1)[:, None]
    mine, theirs = (np.where(known, side[:, :2], side[:, 2:]) for side in (one, other))
    both = (mine != UNKNOWN) & (theirs != UNKNOWN)
    return np.where(both, mine, UNKNOWN), np.where(both, theirs, UNKNOWN)
