"""On which host, devices and ports each worker of a deployment runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from labkit.errors import SpecError
from labkit.spec import Role, Topology

#: From the first port: of workers, of their system pages (Dynamo), of their KV-transfer side channels.
_WORKER: Final = 100
_SYSTEM: Final = 300
_KV: Final = 1000
_MOST_PORT: Final = 65535
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Placed:
    """A worker and its place.

    Attributes:
        name: ``prefill-0``, ``decode-3``, ``worker-1``: role and number.
        role, tp: what it does, and on how many devices.
        host: address of its node.
        devices: indices of its GPUs (or cores) on that node.
        port, system_port: of its HTTP server, and of Dynamo's page of health and metrics.
        kv_port: of its KV-transfer side channel; ``tp`` consecutive ports from here.
    """

    name: str
    role: Role
    tp: int
    host: str
    devices: tuple[int, ...]
    port: int
    system_port: int
    kv_port: int


def component_name(role: Role) -> str:
    """``prefill``, ``decode``, and ``worker`` for one that does both."""
    return "worker" if role is Role.AGGREGATED else role.noun


def place(
    topology: Topology,
    hosts: Sequence[str],
    *,
    per_host: int | None,
    first_port: int,
    highest_system_port: int = _MOST_PORT,
) -> tuple[Placed, ...]:
    """Fill host after host, large workers first within a role; a worker never spans two hosts.

    Where devices are not counted no host is ever full: the workers take turns on the hosts.

    Args:
        topology: the workers.
        hosts: addresses of the nodes.
        per_host: devices of each; ``None`` where they are not counted.
        first_port: all ports follow it.
        highest_system_port: that the workers' system pages can have.

    Raises:
        SpecError: no or unequal hosts, a port that does not exist, or workers that do not fit.
    """
    doubled = [host for host, count in Counter(hosts).items() if count > 1]
    if not hosts or doubled or not all(_is_address(host) for host in hosts):
        bad = ", ".join(repr(host) for host in hosts if not _is_address(host)) or ", ".join(doubled) or "no host"
        raise SpecError(f"{bad} among the hosts", remedy="name each node once by address or name: --hosts 10.0.0.1,10.0.0.2")
    placed: list[Placed] = []
    used, on_host, numbers = Counter[str](), Counter[str](), Counter[Role]()
    for role, tp in topology.workers:
        fitting = [host for host in hosts if per_host is None or used[host] + tp <= per_host]
        if per_host is None:
            fitting.sort(key=lambda host: used[host])
        host = next(iter(fitting), None)
        if host is None:
            raise SpecError(
                f"{topology} holds {topology.accelerators} GPUs: more than {len(hosts)} × {per_host} hold, or in other portions",
                remedy="name more hosts (--hosts), or say how many GPUs each has (--gpus-per-host)",
            )
        number, devices = on_host[host], tuple(range(used[host], used[host] + tp))
        placed.append(
            Placed(
                f"{component_name(role)}-{numbers[role]}", role, tp, host, devices,
                first_port + _WORKER + number, first_port + _SYSTEM + number, first_port + _KV + used[host],
            )
        )  # fmt: skip
        used[host] += tp
        on_host[host] += 1
        numbers[role] += 1
    last = max(one.kv_port + one.tp for one in placed)
    if first_port < 1 or last > _MOST_PORT:
        raise SpecError(f"ports {first_port} to {last} do not all exist", remedy="give --port a number between 1024 and 60000")
    system = max(one.system_port for one in placed)
    if system > highest_system_port:
        most = first_port + highest_system_port - system
        raise SpecError(
            f"port {system} of a worker's system page is beyond {highest_system_port}, the last that Dynamo reads",
            remedy=f"give --port a number between 1024 and {most}",
        )
    return tuple(placed)


def scripts_by_host(placed: Sequence[Placed]) -> list[str]:
    """A line for each host that has workers: what is to be started there."""
    hosts = dict.fromkeys(one.host for one in placed)
    return [f"  {host}: {', '.join(f'./{one.name}.sh' for one in placed if one.host == host)}" for host in hosts]


def idle(placed: Sequence[Placed], hosts: Sequence[str]) -> list[str]:
    """That some hosts get no worker, if so."""
    none = [host for host in hosts if host not in {one.host for one in placed}]
    return [f"no worker is placed on {', '.join(none)}: the others suffice"] if none else []


def _is_address(host: str) -> bool:
    """A name or an IPv4 address: what goes into URLs and commands as it is."""
    return bool(host) and host.isascii() and all(letter.isalnum() or letter in ".-" for letter in host) and host[0] not in ".-"
