"""Begin an exploration: one lab a process, so that a cell that is run again leaves no second deployment."""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from typing import Any

from labkit.experiments.exploration import Exploration
from labkit.lab.lab import Lab
from labkit.spec import Model, Slo, Topology, Workload

_under_hand: list[Exploration] = []


def explore(
    model: Model | str,
    topology: Topology | str,
    *,
    workload: Workload,
    slo: Slo | None = None,
    **options: Any,
) -> Exploration:
    """Launch a lab and begin to send its load. One that was begun here before is closed first, with its run kept.

    Args:
        model, topology, workload, slo: as for ``Lab``.
        options: more of ``Lab``'s arguments.

    Raises:
        LabError: as for ``Lab``; nothing is left then.
    """
    close_all()
    exploration = Exploration(Lab(model, topology, workload=workload, slo=slo, kind="explore", **options))
    _under_hand.append(exploration)
    exploration.start().result()
    return exploration


def end(exploration: Exploration) -> None:
    """Stop the load, close the lab and its run. Ctrl-C shortens the one, and the other is closed all the same."""
    if exploration in _under_hand:
        _under_hand.remove(exploration)
    with ExitStack() as both:
        both.callback(exploration.lab.close)
        exploration.close()


def close_all() -> None:
    """``end`` of whatever was begun here and is still open."""
    while _under_hand:
        end(_under_hand[-1])


atexit.register(close_all)
