"""Workers on hosts: none spans two, none shares a device or a port."""

from __future__ import annotations

from collections import Counter

import pytest

from labkit.deploy.placing import idle, place, scripts_by_host
from labkit.errors import SpecError
from labkit.spec import Topology


def test_hosts_are_filled_one_after_the_other_and_nothing_is_shared():
    placed = place(Topology("1P@tp4+5D@tp2"), ["n1", "n2"], per_host=8, first_port=8000)
    assert [(one.name, one.host, one.devices) for one in placed] == [
        ("prefill-0", "n1", (0, 1, 2, 3)),
        ("decode-0", "n1", (4, 5)),
        ("decode-1", "n1", (6, 7)),
        ("decode-2", "n2", (0, 1)),
        ("decode-3", "n2", (2, 3)),
        ("decode-4", "n2", (4, 5)),
    ]
    taken = Counter(
        (one.host, port) for one in placed for port in (one.port, one.system_port, *range(one.kv_port, one.kv_port + one.tp))
    )
    assert set(taken.values()) == {1}
    assert {8000, 8001}.isdisjoint(port for _, port in taken)
    assert scripts_by_host(placed)[1] == "  n2: ./decode-2.sh, ./decode-3.sh, ./decode-4.sh"


def test_a_worker_that_does_not_fit_beside_others_goes_to_the_next_host_and_small_ones_fill_the_gap():
    placed = place(Topology("1P@tp2+1D@tp4+1D"), ["n1", "n2"], per_host=4, first_port=8000)
    assert [(one.name, one.host) for one in placed] == [("prefill-0", "n1"), ("decode-0", "n2"), ("decode-1", "n1")]


def test_where_devices_are_not_counted_workers_take_turns_on_the_hosts():
    placed = place(Topology("2P3D"), ["n1", "n2"], per_host=None, first_port=8000)
    assert [one.host for one in placed] == ["n1", "n2", "n1", "n2", "n1"]
    assert [one.port for one in placed] == [8100, 8100, 8101, 8101, 8102]


def test_idle_hosts_are_told():
    placed = place(Topology("8A"), ["n1", "n2"], per_host=8, first_port=8000)
    assert idle(placed, ["n1", "n2"]) == ["no worker is placed on n2: the others suffice"]
    assert idle(placed, ["n1"]) == []


@pytest.mark.parametrize(
    ("topology", "hosts", "per_host"), [("9A", ["n1"], 8), ("3A@tp4", ["n1", "n2"], 4), ("1A@tp8", ["n1", "n2"], 4)]
)
def test_what_does_not_fit_says_how_many_gpus_it_holds(topology: str, hosts: list[str], per_host: int):
    with pytest.raises(SpecError, match=f"holds {Topology(topology).accelerators} GPUs") as raised:
        place(Topology(topology), hosts, per_host=per_host, first_port=8000)
    assert "--hosts" in raised.value.remedy


@pytest.mark.parametrize("hosts", [[], [""], ["n1", "n1"], ["n1; rm -rf /"], ["http://n1"], ["-oProxyCommand=x"], ["n1\n"]])
def test_hosts_that_are_no_addresses_are_refused(hosts: list[str]):
    with pytest.raises(SpecError, match="among the hosts"):
        place(Topology("1A"), hosts, per_host=8, first_port=8000)


def test_a_system_page_that_dynamo_cannot_have_is_refused_with_the_last_port_that_it_can():
    with pytest.raises(SpecError, match=r"port 40301 .* beyond 32767") as raised:
        place(Topology("2A"), ["n1"], per_host=8, first_port=40_000, highest_system_port=32_767)
    assert "between 1024 and 32466" in raised.value.remedy
    assert place(Topology("2A"), ["n1"], per_host=8, first_port=32_466, highest_system_port=32_767)[-1].system_port == 32_767


@pytest.mark.parametrize("port", [0, 65000])
def test_ports_that_do_not_exist_are_refused(port: int):
    with pytest.raises(SpecError, match="do not all exist"):
        place(Topology("1A"), ["n1"], per_host=8, first_port=port)
