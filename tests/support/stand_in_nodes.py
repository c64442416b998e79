"""Nodes of a cluster that are only addresses of this machine, each with a real agent in this process."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from labkit.errors import LabError
from labkit.serve.cluster import Placement, member_at
from labkit.serve.link import NodeLost
from labkit.serve.node_agent import NodeAgent, NodeFacts
from labkit.serve.remote import RemoteHost, RemoteHosts
from tests.support.fake_engine import fake_node


class StandInLink:
    """A link to an agent of this process. What goes over it is pickled; ``die`` ends the agent as a dead node would.

    Attributes:
        held: devices that were reserved last.
    """

    def __init__(self, address: str, cores: int, agent: type[NodeAgent] = NodeAgent) -> None:
        self.agent = agent(address)
        self.held: frozenset[int] = frozenset()
        self._node, self._dead = fake_node(cores), False

    def call(self, method: str, *args: Any) -> Any:
        if self._dead:
            raise NodeLost("it does not answer", remedy="none")
        answer = pickle.loads(pickle.dumps(getattr(self.agent, method)(*pickle.loads(pickle.dumps(args)))))
        if self._dead:
            raise NodeLost("it does not answer", remedy="none")
        return replace(answer, node=self._node) if isinstance(answer, NodeFacts) else answer

    def hold(self, devices: frozenset[int], noun: str) -> None:
        self.held = devices

    def die(self) -> None:
        self._dead = True
        self.agent.close()

    def close(self) -> None:
        self.agent.close()


def stand_in_nodes(
    cores: tuple[int, ...],
    placement: Placement = "spread",
    *,
    progress: Callable[[str], None] = lambda _: None,
    on_loss: Callable[[LabError], None] = lambda _: None,
    agent: type[NodeAgent] = NodeAgent,
) -> RemoteHosts:
    """Nodes ``127.0.0.2`` and following with so many cores each."""
    addresses = [f"127.0.0.{2 + n}" for n in range(len(cores))]
    links = [StandInLink(address, count, agent) for address, count in zip(addresses, cores, strict=True)]
    facts = [link.call("facts") for link in links]
    hosts = [
        RemoteHost(
            member_at(n, addresses[n], facts[n].node), links[n], facts[n],
            others=[a for a in addresses if a != addresses[n]], progress=progress, on_loss=on_loss,
        )
        for n in range(len(cores))
    ]  # fmt: skip
    return RemoteHosts(hosts, placement)
