"""Every split of a warm pool tried under the running load, and the pool left in the best one, with the evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Final

from labkit.errors import LabError, LoadError, SpecError
from labkit.experiments.choice import Choice, choose
from labkit.experiments.exploration import Exploration
from labkit.experiments.pins import warnings_of
from labkit.live.pin import Pin
from labkit.serve.engines.attach import Attached
from labkit.spec.topology import Topology, splits

#: A stretch that is not level yet may last so many times as long as asked.
_MOST_LENGTHS: Final = 3


def autopilot(
    exploration: Exploration,
    *,
    window_s: float = 20.0,
    topologies: Sequence[Topology | str] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Future[Choice]:
    """Order to try splits under the exploration's load, to pin a stationary stretch of each, and to apply the best (``choose``).

    A stretch begins with the first request of the load, when those of the split before have ended: all splits get the same.
    Called off, or stopped by an error, it leaves the pool in the split that serves then, with the pins so far, and says so.

    Args:
        exploration: its load must run.
        window_s: length of a stretch; one that is not level yet lasts up to three times as long.
        topologies: what is tried; all splits of the pool by default.
        tell: takes a line for each step, beside what the exploration says.

    Returns:
        The choice, or the LabError that ended it: no load runs, a split cannot be had, it was called off.
    """
    return exploration.order(lambda: _fly(exploration, window_s, topologies, tell or (lambda _: None)))


def _fly(
    exploration: Exploration, window_s: float, topologies: Sequence[Topology | str] | None, tell: Callable[[str], None]
) -> Choice:
    if not exploration.running:
        raise LoadError("no load runs to try the splits under", remedy="start one first")
    tried = [Topology(one) for one in topologies] if topologies is not None else list(_splits(exploration))
    pins: list[Pin] = []
    for number, topology in enumerate(tried, 1):
        step = f"autopilot {number} of {len(tried)}: {topology}"
        exploration.say("doing", f"{step}, {window_s:.0f} s or more")
        tell(f"{step}, {window_s:.0f} s or more")
        try:
            pins.append(_measured(exploration, topology, window_s, step))
        except LabError as error:
            raise _ended(error, exploration, step, pins) from error
        tell(f"  pinned as run {pins[-1].run}")
    open_loop = exploration.workload is not None and exploration.workload.is_open_loop
    choice = choose(
        pins, open_loop=open_loop, slo=exploration.lab.slo, warnings=warnings_of(pins),
        accelerator=exploration.lab.deployment.accelerator,
    )  # fmt: skip
    if str(exploration.lab.deployment.topology) != choice.best.topology:
        exploration.apply_now(choice.best.topology)
    exploration.lab.run.note(str(choice), kind="pin", data={"best": choice.best.topology, "pins": [pin.run for pin in pins]})
    exploration.say("done", f"{choice}\n{choice.best.topology} serves now.")
    return choice


def _measured(exploration: Exploration, topology: Topology, window_s: float, step: str) -> Pin:
    exploration.apply_now(topology)
    exploration.say("doing", f"{step} serves; what is under way ends, and the load begins again")
    exploration.begin_again()
    exploration.say("doing", f"{step}, measured for {window_s:.0f} s")
    exploration.measure_for(window_s, topology)
    for _ in range(2 * (_MOST_LENGTHS - 1)):
        if exploration.settled() is not False:
            break
        exploration.say("doing", f"{step}, not level yet: measured for {window_s / 2:.0f} s more")
        exploration.measure_for(window_s / 2, topology)
    return exploration.pin_now(f"{len(exploration.pins) + 1}: {topology}", whole=True)


def _ended(error: LabError, exploration: Exploration, step: str, pins: Sequence[Pin]) -> LabError:
    """The same error, and what there is now."""
    done = f"pinned so far: {', '.join(pin.topology for pin in pins)}" if pins else "nothing is pinned yet"
    where = f"{exploration.lab.deployment.topology} serves" + (" and the load goes on" if exploration.running else "")
    return type(error)(f"{step}: {error.what}; {where}; {done}", remedy=error.remedy)


def _splits(exploration: Exploration) -> Iterable[Topology]:
    there = exploration.lab.deployment
    if isinstance(there, Attached):
        raise there.refusal()
    tps = {tp for _, tp in there.topology.workers}
    if len(tps) > 1:
        raise SpecError(f"the workers of {there.topology} are not alike", remedy="name the splits to try: topologies=[…]")
    return splits(len(there.workers), tps.pop())
