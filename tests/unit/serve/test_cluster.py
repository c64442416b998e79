"""Workers over the machines of a cluster: who goes where, by which numbers, and what cannot be placed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.errors import SpecError
from labkit.serve.cluster import Cluster, allot, checked_placement, join, member_at
from labkit.serve.hardware import Node, assign
from labkit.spec import Role, Topology
from tests.support.fake_engine import fake_gpu, fake_node


def cluster(*cores: int, placement: str = "spread") -> Cluster:
    members = [member_at(n, f"n{n}", fake_node(count)) for n, count in enumerate(cores)]
    return join(members, checked_placement(placement))


def gpu_node(count: int) -> Node:
    return replace(fake_node(), gpus=tuple(fake_gpu(index) for index in range(count)), no_gpu=None)


def homes(pool: list[int], node: Cluster, *, share: bool = True) -> list[str]:
    devices = allot(pool, node, share=share)
    assert [held.worker for held in devices] == list(range(len(pool)))
    return [next(member.name for member in node.members if member.has(held)) for held in devices]


def test_spread_deals_workers_in_turn_and_pack_fills_a_node_first():
    assert homes([1, 1, 1, 1], cluster(4, 4)) == ["n0", "n1", "n0", "n1"]
    assert homes([1, 1, 1, 1, 1], cluster(4, 4, placement="pack")) == ["n0", "n0", "n0", "n0", "n1"]
    assert homes([1], cluster(8, 2, placement="pack")) == ["n1"], "the fullest that it fits on"


@pytest.mark.parametrize(
    ("placement", "on_the_first"),
    [("spread", [Role.PREFILL, Role.DECODE]), ("pack", [Role.PREFILL, Role.PREFILL])],
)
def test_prefill_and_decode_lie_beside_or_apart_from_each_other(placement: str, on_the_first: list[Role]):
    workers = Topology("2P2D").workers
    where = homes([tp for _, tp in workers], cluster(2, 2, placement=placement))
    assert [role for (role, _), home in zip(workers, where, strict=True) if home == "n0"] == on_the_first


def test_a_tp_group_lies_on_one_node_and_goes_first():
    assert homes([1, 2, 2], cluster(2, 3)) == ["n1", "n1", "n0"]
    with pytest.raises(SpecError, match=r"a TP group of 4 cores on one node cannot be placed: n0 has 2, n1 has 3"):
        allot([4], cluster(2, 3))


def test_devices_have_numbers_of_their_own_and_each_node_knows_them_by_its_own():
    node = cluster(1, 1)
    first, second = allot([1, 1], node)
    assert (first.cores, second.cores) == ((0,), (1000,))
    assert not {core.index for core in node.cores} ^ {0, 1000}
    assert node.members[1].local(second).cores == (0,)
    assert node.members[1].has(second)
    assert not node.members[0].has(second)


def test_workers_share_evenly_where_there_are_too_few_and_that_is_allowed():
    node = cluster(1, 1)
    assert homes([1, 1, 1, 1], node) == ["n0", "n1", "n0", "n1"]
    assert all(held.shared for held in allot([1, 1, 1, 1], node))
    with pytest.raises(SpecError, match="3 cores for 3 workers cannot be placed: n0 has 1, n1 has 1"):
        allot([1, 1, 1], node, share=False)


def test_only_what_is_left_of_a_node_is_given():
    node = cluster(2, 2)
    left = replace(node, cores=tuple(core for core in node.cores if core.index not in (0, 1)))
    assert [held.cores for held in allot([1, 1], left, share=False)] == [(1000,), (1001,)]


def test_nodes_without_a_gpu_take_no_worker_where_others_have_some():
    node = join([member_at(0, "cpu", fake_node()), member_at(1, "gpu", gpu_node(2))], "spread")
    assert (node.accelerators, node.accelerator_noun, node.no_gpu) == (2, "GPU", None)
    assert [held.gpus for held in allot([1, 1], node)] == [(1000,), (1001,)]


def test_one_machine_is_as_before():
    assert allot([1, 1], fake_node()) == assign([1, 1], fake_node())


def test_an_unknown_placement_is_refused():
    with pytest.raises(SpecError, match="unknown placement 'heap'"):
        checked_placement("heap")
