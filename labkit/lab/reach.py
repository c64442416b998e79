"""Where a lab's workers run: on this machine, or on the nodes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable

from labkit.errors import LabError, SpecError
from labkit.lab.node_sampler import SamplingAgent
from labkit.serve.cluster import checked_placement
from labkit.serve.engines.base import Engine
from labkit.serve.hardware import Node, inspect_node
from labkit.serve.hosts import LocalHost
from labkit.serve.ray_cluster import connect
from labkit.serve.remote import RemoteHosts


def reach(
    nodes: str | None,
    placement: str,
    node: Node | None,
    engine: Engine,
    progress: Callable[[str], None],
    note: Callable[[LabError], None],
) -> LocalHost | RemoteHosts:
    """The machines; for this one alone only what it has.

    Args:
        nodes: ``ray`` or the address of a Ray cluster; ``None`` for this machine.
        placement: how workers are dealt over nodes.
        node: this machine's hardware, where it is known.
        engine: what shall run there.
        progress: takes a line for the user.
        note: takes why a node died, which is to be kept.

    Raises:
        LabError: what was asked for cannot be had.
    """
    wanted = checked_placement(placement)
    if nodes is None:
        return LocalHost(node or inspect_node())
    if node is not None:
        raise SpecError("both node and nodes are given", remedy="leave node out: the nodes of a cluster are inspected there")
    check_reach(engine)

    def tell(lost: LabError) -> None:
        progress(str(lost))
        note(lost)

    return connect(nodes, placement=wanted, progress=progress, on_loss=tell, agent=SamplingAgent)


def check_reach(engine: Engine) -> None:
    """Raises SpecError for an engine that cannot run on several machines."""
    if engine.registry is not None:
        raise SpecError(
            f"engine {engine.name!r} cannot be placed on nodes: its workers find each other through a folder here",
            remedy="use engine='vllm' with nodes, or leave nodes out",
        )
