"""What is made of Ray's answers, by a stand-in for Ray; the real one is in the end-to-end tests."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from labkit.errors import HardwareError, LaunchError
from labkit.serve.link import NodeLost
from labkit.serve.node_agent import NodeAgent
from labkit.serve.ray_cluster import RayLink, _Node, _nodes, connect

NODE = _Node(id="id1", address="127.0.0.2", head=True, cores=2, cores_taken=0, gpus=0, gpus_taken=0)


class RayError(Exception):
    def __init__(self, text: str = "", cause: Exception | None = None) -> None:
        super().__init__(text)
        self.cause = cause


class RayTaskError(RayError): ...


class RayActorError(RayError): ...


class ActorUnavailableError(RayActorError): ...


class RaySystemError(RayError): ...


class RpcError(RayError): ...


class FakeRay:
    """``answers`` are what ``get`` gives or raises, in turn; ``alive`` whether the cluster lists the node."""

    def __init__(self, *answers: object, alive: bool = True) -> None:
        self.exceptions = SimpleNamespace(
            RayTaskError=RayTaskError, RayActorError=RayActorError, ActorUnavailableError=ActorUnavailableError,
            RaySystemError=RaySystemError, RpcError=RpcError,
        )  # fmt: skip
        self.answers, self.alive, self.killed = list(answers), alive, 0

    def get(self, _: object) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def nodes(self) -> list[dict[str, object]]:
        return [{"NodeID": "id1", "Alive": self.alive}]

    def kill(self, _: object) -> None:
        self.killed += 1


ACTOR = SimpleNamespace(call=SimpleNamespace(remote=lambda *_: "reference"))


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Ray's placement groups: those there are, and whether a new one is granted."""
    held: dict[int, tuple[list[dict[str, float]], str]] = {}
    state = SimpleNamespace(held=held, granted=True)

    def placement_group(bundles: list[dict[str, float]], strategy: str) -> SimpleNamespace:
        number = len(held) + 1
        held[number] = (bundles, strategy)
        return SimpleNamespace(number=number, wait=lambda _: state.granted)

    module = SimpleNamespace(placement_group=placement_group, remove_placement_group=lambda group: held.pop(group.number))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(util=None))
    monkeypatch.setitem(sys.modules, "ray.util", SimpleNamespace(placement_group=module))
    monkeypatch.setitem(sys.modules, "ray.util.placement_group", module)
    return state


def test_an_error_of_the_lab_comes_through_and_an_answer_too():
    link = RayLink(FakeRay(RayTaskError("x", HardwareError("no ports", remedy="none")), 7), ACTOR, NODE)
    with pytest.raises(HardwareError, match="no ports"):
        link.call("lease")
    assert link.call("clock_ns") == 7


@pytest.mark.parametrize("error", [RayActorError("it died\nmore"), RaySystemError("it died"), RpcError("it died")])
def test_an_actor_that_is_gone_is_a_lost_node(error: Exception):
    with pytest.raises(NodeLost, match=r"^it died$|it died\n"):
        RayLink(FakeRay(error), ACTOR, NODE).call("follow")


def test_what_changes_something_is_not_asked_twice_and_what_does_not_is_while_the_node_is_listed():
    with pytest.raises(NodeLost, match="perhaps"):
        RayLink(FakeRay(ActorUnavailableError("perhaps"), 1), ACTOR, NODE).call("start")
    assert RayLink(FakeRay(ActorUnavailableError("perhaps"), 1), ACTOR, NODE).call("follow") == 1
    with pytest.raises(NodeLost, match="perhaps"):
        RayLink(FakeRay(ActorUnavailableError("perhaps"), 1, alive=False), ACTOR, NODE).call("follow")


def test_devices_are_reserved_on_their_node_once_and_given_back(groups: SimpleNamespace):
    link = RayLink(FakeRay(), ACTOR, NODE)
    link.hold(frozenset({0, 1}), "GPU")
    assert list(groups.held.values()) == [([{"GPU": 1.0, "node:127.0.0.2": 0.001}, {"GPU": 1.0}], "STRICT_PACK")]
    link.hold(frozenset({0, 1, 2}), "GPU")
    assert [len(bundles) for bundles, _ in groups.held.values()] == [2, 1]
    link.hold(frozenset({2}), "GPU")
    assert [len(bundles) for bundles, _ in groups.held.values()] == [1]
    link.close()
    assert not groups.held
    with pytest.raises(NodeLost, match="its agent was ended"):
        link.call("follow")


def test_devices_that_are_not_granted_are_refused_and_not_waited_for(groups: SimpleNamespace):
    groups.granted = False
    with pytest.raises(HardwareError, match=r"node 127\.0\.0\.2 does not give 1 core: other jobs"):
        RayLink(FakeRay(), ACTOR, NODE).hold(frozenset({0}), "core")
    assert not groups.held


def test_what_others_hold_of_a_node_is_seen(monkeypatch: pytest.MonkeyPatch):
    has: dict[str, Any] = {"CPU": 16.0, "GPU": 8.0}
    ray = SimpleNamespace(
        nodes=lambda: [
            {"NodeID": "a", "Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {**has, "node:__internal_head__": 1.0}},
            {"NodeID": "b", "Alive": False, "NodeManagerAddress": "10.0.0.2", "Resources": has},
        ]
    )
    state = SimpleNamespace(available_resources_per_node=lambda: {"a": {"CPU": 15.0, "GPU": 6.0}})
    for name, module in (("ray", ray), ("ray._private", SimpleNamespace(state=state)), ("ray._private.state", state)):
        monkeypatch.setitem(sys.modules, name, module)
    (node,) = _nodes(ray)
    assert (node.address, node.head) == ("10.0.0.1", True)
    assert (node.cores, node.cores_taken, node.gpus, node.gpus_taken) == (15, 1, 8, 2)


@pytest.mark.parametrize("address", ["127.0.0.4:1", "10.0.0.1:port"])
def test_an_address_where_nobody_listens_is_told_at_once(address: str, monkeypatch: pytest.MonkeyPatch):
    def init(**_: object) -> None:
        raise AssertionError("Ray would try for minutes")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    tell: Callable[[object], None] = lambda _: None  # noqa: E731
    with pytest.raises(LaunchError, match=f"no Ray cluster at {address}") as raised:
        connect(address, progress=tell, on_loss=tell)
    assert "ray start --head" in raised.value.remedy


class FakeCluster(FakeRay):
    """A cluster of one node, whose actors are agents of this process; ``joined`` and ``left`` are what the lab did."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: list[str] = []
        self.left = 0

    def is_initialized(self) -> bool:
        return len(self.joined) > self.left

    def init(self, address: str, **_: object) -> None:
        self.joined.append(address)

    def shutdown(self) -> None:
        self.left += 1

    def nodes(self) -> list[dict[str, object]]:
        resources = {"CPU": 1.0, "node:__internal_head__": 1.0}
        return [{"NodeID": "id1", "Alive": True, "NodeManagerAddress": "127.0.0.2", "Resources": resources}]

    def remote(self, _: object) -> SimpleNamespace:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    @staticmethod
    def _actor(kind: type[NodeAgent], address: str, cores: int, gpus: int) -> SimpleNamespace:
        agent = kind(address, cores=cores, gpus=gpus)
        return SimpleNamespace(agent=agent, call=SimpleNamespace(remote=lambda method, *args: getattr(agent, method)(*args)))

    def get(self, answer: object) -> object:
        return answer

    def kill(self, actor: SimpleNamespace) -> None:
        actor.agent.close()


@pytest.mark.parametrize("named", [True, False], ids=["RAY_ADDRESS", "auto"])
def test_the_cluster_that_ray_names_is_joined_once_and_left_by_the_last_lab(
    named: bool, groups: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    cluster = FakeCluster()
    state = SimpleNamespace(available_resources_per_node=lambda: {"id1": {"CPU": 1.0}})
    worker = SimpleNamespace(print_to_stdstream="Ray's own")
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: (node, soft))
    for name, module in (("ray", cluster), ("ray._private", SimpleNamespace(state=state, worker=worker)),
                         ("ray._private.state", state), ("ray.util.scheduling_strategies", strategies)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    tell: Callable[[str], None] = lambda _: None  # noqa: E731
    with socket.create_server(("127.0.0.4", 0)) as head:
        address = f"127.0.0.4:{head.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        if not named:
            monkeypatch.delenv("RAY_ADDRESS")
        first, second = (connect("ray", progress=tell, on_loss=tell) for _ in range(2))
    assert cluster.joined == [address if named else "auto"]
    assert worker.print_to_stdstream != "Ray's own"
    (host,) = first.hosts
    assert (host.name, len(host.member.node.cores), first.node.placement) == ("127.0.0.2", 1, "spread")
    first.close()
    assert cluster.left == 0, "another lab of this process is there still"
    second.close()
    assert cluster.left == 1
