"""The nodes of a Ray cluster as machines that workers run on. Nothing else in the lab imports Ray.

An actor on each node holds a ``NodeAgent``; it reserves nothing itself. What workers use is reserved as placement groups, one
for each worker that starts: ``STRICT_PACK`` on its node, a bundle for each device, so that other jobs of the cluster keep away.
Ray knows how many devices of a node are taken, not which by number: a node of which others hold GPUs takes no workers.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from labkit.errors import HardwareError, LabError, LaunchError, MissingEngine
from labkit.serve.cluster import Placement, member_at
from labkit.serve.link import NodeLost, facts_of
from labkit.serve.node_agent import NodeAgent, environ_of, restore
from labkit.serve.remote import RemoteHost, RemoteHosts

_HEAD: Final = "node:__internal_head__"
_HIDDEN: Final = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_ASKED_AGAIN: Final = frozenset({"follow", "facts", "clock_ns", "lacking"})
_SILENT_S: Final = 20.0
_ACTOR_S: Final = 120.0
_RESERVED_S: Final = 20.0
_KNOCK_S: Final = 5.0
_SETTLE_S: Final = 3.0
_CONCURRENT: Final = 32

_turn = threading.Lock()
_users = 0  # labs of this process that are joined to the cluster
_ours = False  # whether this module joined it


class Hands:
    """The actor: an agent that is reached by Ray."""

    def __init__(self, kind: type[NodeAgent], address: str, cores: int | None, gpus: int) -> None:
        for name, value in restore(os.environ, environ_of(os.getppid()), _HIDDEN).items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        self._agent = kind(address, cores=cores, gpus=gpus)

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the agent."""
        return getattr(self._agent, method)(*args)


@dataclass(frozen=True, slots=True)
class _Node:
    """A node of the cluster, with what of it Ray has not given to others."""

    id: str
    address: str
    head: bool
    cores: int
    cores_taken: int
    gpus: int
    gpus_taken: int


class RayLink:
    """A way to the actor on one node; methods are those of ``remote.Link``."""

    def __init__(self, ray: Any, actor: Any, node: _Node) -> None:
        self._ray, self._actor, self._node = ray, actor, node
        self._groups: dict[frozenset[int], Any] = {}
        self._holding, self._closed = threading.Lock(), False

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the agent. One that changes nothing is asked again while Ray hopes for the actor."""
        errors, silent_s = self._ray.exceptions, time.monotonic() + _SILENT_S
        while not self._closed:
            try:
                return self._ray.get(self._actor.call.remote(method, *args))
            except errors.ActorUnavailableError as error:
                if method not in _ASKED_AGAIN or time.monotonic() > silent_s or not self._listed():
                    raise _lost(error) from None
                time.sleep(0.2)
            except errors.RayTaskError as error:
                if isinstance(error.cause, LabError):
                    raise error.cause from None
                raise LaunchError(f"{method} failed on node {self._node.address}: {error.cause!r}", remedy="report it") from error
            except (errors.RayActorError, errors.RaySystemError, errors.RpcError) as error:
                raise _lost(error) from None
        raise NodeLost("its agent was ended", remedy="launch again")

    def hold(self, devices: frozenset[int], noun: str) -> None:
        """Reserve these devices of the node (``GPU`` or ``core``), and give up all others.

        Raises:
            HardwareError: another job of the cluster has taken them.
        """
        from ray.util.placement_group import placement_group, remove_placement_group

        with self._holding:
            for held in [held for held in self._groups if not held & devices]:
                with suppress(Exception):  # the node, or all of Ray, may be gone
                    remove_placement_group(self._groups.pop(held))
            if not (fresh := devices - frozenset[int]().union(*self._groups)):
                return
            bundles = [{"GPU" if noun == "GPU" else "CPU": 1.0} for _ in fresh]
            bundles[0] |= {f"node:{self._node.address}": 0.001}
            group = placement_group(bundles, strategy="STRICT_PACK")
            if not group.wait(_RESERVED_S):
                remove_placement_group(group)
                raise HardwareError(
                    f"node {self._node.address} does not give {len(fresh)} {noun}{'s' * (len(fresh) > 1)}: other jobs of the "
                    "cluster hold them",
                    remedy="wait for them, or ask for fewer workers",
                )
            self._groups[fresh] = group

    def close(self) -> None:
        """End the actor."""
        with suppress(Exception):
            self.hold(frozenset(), "core")
            self._ray.kill(self._actor)
        self._closed = True

    def _listed(self) -> bool:
        """Whether the cluster still counts on this node."""
        with suppress(Exception):
            return any(node["NodeID"] == self._node.id and node["Alive"] for node in self._ray.nodes())
        return False


def connect(
    address: str,
    *,
    placement: Placement = "spread",
    progress: Callable[[str], None],
    on_loss: Callable[[LabError], None],
    agent: type[NodeAgent] = NodeAgent,
) -> RemoteHosts:
    """Put an agent on every node of a Ray cluster.

    Args:
        address: of its head; ``ray``: the cluster that runs on this machine, or that ``RAY_ADDRESS`` names.
        placement: how workers are dealt over the nodes.
        progress: takes a line for the user.
        on_loss: takes why a node died, on a thread of its own.
        agent: what runs on each node.

    Raises:
        MissingEngine: Ray is not installed.
        LaunchError: there is no such cluster, or a node cannot be used.
    """
    ray = _join(address)
    links: dict[str, RayLink] = {}
    try:
        for node in sorted(_settled(ray), key=lambda node: (not node.head, node.address)):
            if node.gpus_taken or not (node.gpus or node.cores):
                why = f"other jobs hold {node.gpus_taken} of its GPUs" if node.gpus_taken else "Ray has no core of it to give"
                progress(f"node {node.address} takes no workers: {why}")
                continue
            links[node.address] = RayLink(ray, _actor(ray, agent, node), node)
        if not links:
            raise LaunchError("no node of the Ray cluster is free", remedy="wait for its other jobs, or add nodes")
        facts = _facts(ray, links)
    except BaseException:
        for link in links.values():
            link.close()
        _leave(ray)
        raise
    addresses = tuple(links)
    hosts = [
        RemoteHost(
            member_at(position, name, facts[name].node), links[name], facts[name],
            others=[other for other in addresses if other != name], progress=progress, on_loss=on_loss,
        )
        for position, name in enumerate(addresses)
    ]  # fmt: skip
    return RemoteHosts(hosts, placement, lambda: _leave(ray))


def _join(address: str) -> Any:
    """Ray, joined to the cluster at this address."""
    global _ours, _users
    try:
        import ray
    except ImportError as error:
        raise MissingEngine(
            f"Ray is not installed here ({error.msg})", remedy="run `make setup`, or install labkit[ray] on every node"
        ) from None
    wanted = address if address != "ray" else os.environ.get("RAY_ADDRESS") or "auto"
    with _turn:
        if not ray.is_initialized():
            try:
                _knock(wanted)
                ray.init(
                    address=wanted, namespace="labkit",
                    logging_level=logging.ERROR, log_to_driver=False,
                )  # fmt: skip
            except (OSError, ValueError, RuntimeError) as error:
                raise LaunchError(
                    f"no Ray cluster at {wanted}: {str(error).splitlines()[0]}",
                    remedy="start one (`ray start --head` here, `ray start --address=…` on the other nodes), or name its address",
                ) from None
            _ours = True
            _quieten()
        _users += 1
    return ray


def _knock(address: str) -> None:
    """Raises OSError or ValueError where nobody listens; Ray itself would go on trying for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and "://" not in address:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()


def _quieten() -> None:
    """Let the lab alone tell of nodes that die: Ray prints pages of its own state wherever the lab runs, and has no switch."""
    from ray._private import worker

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def _leave(ray: Any) -> None:
    """The last lab of this process leaves the cluster, if a lab joined it."""
    global _ours, _users
    with _turn:
        _users -= 1
        if _ours and _users == 0:
            _ours = False
            ray.shutdown()


def _settled(ray: Any) -> list[_Node]:
    """The nodes; Ray takes a moment to count what was just given back."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        nodes = list(_nodes(ray))
        if time.monotonic() > deadline or not any(node.gpus_taken or node.cores_taken for node in nodes):
            return nodes
        time.sleep(0.2)


def _nodes(ray: Any) -> Iterable[_Node]:
    from ray._private.state import available_resources_per_node  # nothing public tells it node by node

    free: Mapping[str, Mapping[str, float]] = available_resources_per_node()
    for node in ray.nodes():
        if node["Alive"]:
            has, left = node["Resources"], free.get(node["NodeID"], {})
            cores, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
            cores_left, gpus_left = int(left.get("CPU", 0)), int(left.get("GPU", 0))
            yield _Node(
                id=node["NodeID"], address=node["NodeManagerAddress"], head=_HEAD in has,
                cores=cores_left, cores_taken=cores - cores_left, gpus=gpus, gpus_taken=gpus - gpus_left,
            )  # fmt: skip


def _actor(ray: Any, agent: type[NodeAgent], node: _Node) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node.id, soft=False)
    options = {"num_cpus": 0, "max_concurrency": _CONCURRENT, "max_restarts": 0, "scheduling_strategy": there}
    return ray.remote(Hands).options(**options).remote(agent, node.address, None if node.gpus else node.cores, node.gpus)


def _facts(ray: Any, links: Mapping[str, RayLink]) -> Any:
    try:
        return facts_of(links)
    except NodeLost as error:
        raise LaunchError(f"a node takes no agent of the lab: {error.what}", remedy="install the lab on every node") from None


def _lost(error: Exception) -> NodeLost:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return NodeLost(said, remedy="look at the node, and at its Ray logs")
