"""A scripted exploration: the same orders that a person would give, one after the other, for a notebook in batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.errors import LabError, SpecError
from labkit.experiments.exploration import Exploration
from labkit.lab.loads import endless, in_words
from labkit.lab.telling import Lines
from labkit.live.pin import Pin
from labkit.spec import Topology, Workload

#: ``(split, fields of the workload that are other than the first)``; ``None`` keeps the split.
Step = Sequence[Any]

_STEP = 'write each step as [split, changes of the load], such as ["1P1D", {"rate": 2.0}]'


def tour(
    exploration: Exploration, steps: Sequence[Step], *, window_s: float = 20.0, settle_s: float = 5.0, progress: Any = None
) -> list[Pin]:
    """Carry out steps, each with a pin at its end, and say how far it is.

    Args:
        exploration: its lab is not re-split by anybody else meanwhile.
        steps: what to do in turn.
        window_s: seconds of each step that are pinned.
        settle_s: seconds before them, from the change on.
        progress: takes a line for the user; they are printed by default.

    Raises:
        SpecError: a step that cannot be meant, before any is carried out.
        LabError: a step that failed; the pins of the earlier ones are kept in ``exploration.pins``.
    """
    base = exploration.workload
    if base is None:
        raise SpecError("a tour needs a load", remedy="give the exploration a workload")
    meant = [_meant(step, base) for step in steps]
    tell = Lines(progress)
    pins = []
    for number, (topology, workload) in enumerate(meant, 1):
        where = topology or exploration.lab.deployment.topology
        tell(f"step {number} of {len(meant)}: {where}, {in_words(endless(workload))}")
        if topology is not None:
            exploration.apply(topology).result()
        if exploration.sending != workload:
            exploration.start(workload).result()
        exploration.order(lambda: exploration.wait(settle_s)).result()
        exploration.since_now()
        exploration.order(lambda: exploration.wait(window_s)).result()
        pin = exploration.order(lambda: exploration.pin_now(whole=True)).result()
        tell(f"  {_line(pin)}")
        pins.append(pin)
    return pins


def _meant(step: Step, base: Workload) -> tuple[Topology | None, Workload]:
    if isinstance(step, str) or not isinstance(step, Sequence) or not 1 <= len(step) <= 2:
        raise SpecError(f"{step!r} is no step of a tour", remedy=_STEP)
    split, changes = step[0], step[1] if len(step) == 2 else {}
    if not isinstance(changes, Mapping):
        raise SpecError(f"{changes!r} does not say what changes of the load", remedy=_STEP)
    try:
        workload = Workload.from_dict({**base.to_dict(), **_one_way(changes)})
        return None if split is None else Topology(split), workload
    except LabError as error:
        raise SpecError(f"step {step!r}: {error.what}", remedy=error.remedy or _STEP) from error


def _one_way(changes: Mapping[str, Any]) -> dict[str, Any]:
    """A load is said one way: a new rate ends a closed loop, and the other way round."""
    given = dict(changes)
    if given.get("concurrency") is not None:
        given = {"rate": None, "arrivals": None, **given}
    elif given.get("rate") is not None:
        given = {"concurrency": None, **given}
    return given


def _line(pin: Pin) -> str:
    def ms(name: str) -> str:
        value = pin.value(name)
        return "–" if value is None else f"{value * 1e3:.0f}"

    output = pin.value("output_tok_s")
    return (
        f"pinned {pin.label}: TTFT p50 {ms('ttft_p50_s')} ms, ITL p50 {ms('itl_p50_s')} and p99 {ms('itl_p99_s')} ms, "
        f"output {'–' if output is None else f'{output:.0f}'} tok/s, run {pin.run}"
    )
