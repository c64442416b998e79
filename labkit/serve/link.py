"""A way to the agent on another machine, and what is asked of it before it is used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import labkit
from labkit.errors import LaunchError
from labkit.serve.node_agent import NodeFacts, boot_id


class NodeLost(LaunchError):
    """The machine does not answer any more; what ran on it is gone."""


class Link(Protocol):
    """A way to an agent. Calls come from several threads."""

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the agent.

        Raises:
            NodeLost: it is gone.
            LabError: as the method does.
        """
        ...

    def hold(self, devices: frozenset[int], noun: str) -> None:
        """Keep other users of the cluster from these devices (GPUs or cores) of the machine, and from no others.

        Raises:
            HardwareError: one has taken them already.
        """
        ...

    def close(self) -> None:
        """End the agent. Harmless when done twice."""
        ...


@dataclass(frozen=True, slots=True)
class Clock:
    """Another machine's monotonic clock.

    Attributes:
        offset_ns: what to add to one of its instants to have it on the lab's clock.
        bound_ns: how far that may be from the truth; 0 on the lab's own machine, whose clock is the same.
    """

    offset_ns: int = 0
    bound_ns: int = 0


def clock_of(link: Link, facts: NodeFacts, tries: int = 15) -> Clock:
    """Compare a machine's clock with the lab's.

    From the fastest of some round trips, as NTP does: the machine read its clock somewhere within it.
    """
    if facts.boot_id == boot_id():
        return Clock()
    trips = []
    for _ in range(tries):
        asked = time.perf_counter_ns()
        theirs: int = link.call("clock_ns")
        heard = time.perf_counter_ns()
        trips.append((heard - asked, (asked + heard) // 2 - theirs))
    width, offset = min(trips)
    return Clock(offset, -(-width // 2))


def facts_of(links: Mapping[str, Link]) -> dict[str, NodeFacts]:
    """Name → what each machine says of itself.

    Raises:
        LaunchError: one has another version of the lab.
    """
    found: dict[str, NodeFacts] = {name: link.call("facts") for name, link in links.items()}
    for name, facts in found.items():
        if facts.labkit != labkit.__version__:
            raise LaunchError(
                f"node {name} has labkit {facts.labkit}, and this is {labkit.__version__}",
                remedy="install the same version on every node: `make setup`",
            )
    return found
