"""The hardware that open labs of this process hold. Each lab takes its devices from the first on, as if it were alone.

A cell that launches a lab is run again sooner or later, while the one before still serves, and nothing refers to that any more:
two labs would share their devices unsaid, and measure each other.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

from labkit.errors import HardwareError
from labkit.serve.cluster import Cluster
from labkit.serve.hardware import Node
from labkit.store.run import Run

_lock: Final = threading.Lock()
_held: Final[dict[Holder, frozenset[str]]] = {}


class Holder(Protocol):
    """A lab, by the run that it is named by."""

    run: Run

    def close(self) -> None:
        """End it. Harmless when done twice."""
        ...


def take(lab: Holder, node: Node) -> None:
    """Note that a lab holds what it may use of this machine, until ``give_back``; simulated workers and a cluster's hold nothing.

    Args:
        lab: what holds it.
        node: what it was given.

    Raises:
        HardwareError: another open lab of this process holds some of it.
    """
    devices = _devices(node)
    with _lock:
        for other, held in _held.items():
            if both := held & devices:
                what = f"{len(both)} {node.accelerator_noun}{'s' * (len(both) != 1)}"
                raise HardwareError(
                    f"run {other.run.id} of this process is still open and holds {what} that this one would use",
                    remedy="close it first: lab.close(), or labkit.close_labs() for all that are open; its run is kept",
                )
        _held[lab] = devices


def give_back(lab: Holder) -> None:
    """It holds nothing any more. Harmless when done twice."""
    with _lock:
        _held.pop(lab, None)


def close_labs() -> list[str]:
    """Close every lab of this process that holds hardware, whoever refers to it; the names of their runs, which are kept."""
    with _lock:
        labs = list(_held)
    for lab in labs:
        lab.close()
    return [lab.run.id for lab in labs]


def _devices(node: Node) -> frozenset[str]:
    if isinstance(node, Cluster) or node.simulated is not None:
        return frozenset()
    return frozenset(gpu.uuid for gpu in node.gpus) or frozenset(f"core {core.index}" for core in node.cores)
