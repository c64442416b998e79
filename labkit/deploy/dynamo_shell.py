"""A split as shell scripts for bare nodes: Dynamo's frontend and its vLLM workers, which find each other through etcd."""

from __future__ import annotations

from typing import Final

from labkit.deploy.assumptions import DYNAMO, assumptions, doubts, fill_in, with_dynamo
from labkit.deploy.commands import dynamo_worker, frontend_env, to_fill_in
from labkit.deploy.found import FoundSplit
from labkit.deploy.header import header
from labkit.deploy.placing import Placed, idle, place, scripts_by_host
from labkit.deploy.scaling import Scaled
from labkit.deploy.settings import Settings, Written
from labkit.deploy.shell import ENVIRONMENT, script, setting
from labkit.serve.engines.dynamo_frontend import HIGHEST_PORT

_ETCD_PORT: Final = 2379
#: What a process tells the others of its own address: every one of them is its node's.
_ADDRESSES: Final = (
    "DYN_TCP_RPC_HOST",
    "DYN_TCP_RESPONSE_STREAM_HOST",
    "DYN_EVENT_PLANE_HOST",
    "DYN_HTTP_RPC_HOST",
    "DYN_SYSTEM_HOST",
)
_PLANES: Final = {"DYN_DISCOVERY_BACKEND": "etcd", "DYN_REQUEST_PLANE": "tcp", "DYN_EVENT_PLANE": "zmq"}


def dynamo_shell(found: FoundSplit, size: Scaled, settings: Settings) -> Written:
    """A script for the frontend, one for each worker, and the file of settings that they share."""
    hosts = settings.hosts
    placed = place(
        size.topology, hosts, per_host=settings.gpus_per_host, first_port=settings.port, highest_system_port=HIGHEST_PORT
    )
    etcd = settings.etcd or f"http://{hosts[0]}:{_ETCD_PORT}"
    commands = {one.name: dynamo_worker(found, one, settings) for one in placed}
    warnings = doubts(found, size, settings, on_gpu=True, dynamo=True)
    warnings += idle(placed, hosts)
    warnings += fill_in(sorted({word for command in commands.values() for word in to_fill_in(command)}))

    version, served = found.packages.get("ai-dynamo", DYNAMO), settings.served_name_of(found)
    use = [
        f"Use: every node has this folder, the model, and a Python with ai-dynamo {version}, vLLM and NIXL.",
        f"etcd runs at {etcd}. On {hosts[0]}: ./frontend.sh. On each node its own scripts, in any order:",
        *scripts_by_host(placed),
        f"Then http://{hosts[0]}:{settings.port}/v1 serves {served}; it is ready when /v1/models names it.",
        "A worker that does not renew its lease in etcd within ETCD_LEASE_TTL seconds ends itself: let systemd start it again.",
        "Every port is open to whoever reaches the node: keep them inside a network that you trust.",
    ]
    assumed = [*assumptions(found, on_gpu=True), *with_dynamo(found)]
    what = "Settings of all scripts, written by labkit export-deployment --to dynamo-shell."
    planes = {**_PLANES, "ETCD_ENDPOINTS": etcd}
    files = {
        ENVIRONMENT: header(what, found, size, assumed=assumed, warnings=warnings, use=use)
        + setting("PYTHON", "python3")
        + setting("MODEL", settings.model_of(found), "a hub id, or the folder that has the model on every node")
        + "".join(setting(name, value) for name, value in planes.items())
        + f"export {' '.join(planes)}\n",
        "frontend.sh": script(
            f"Dynamo's frontend on {hosts[0]}", dict.fromkeys(_ADDRESSES, hosts[0]) | frontend_env(found),
            ("python3", "-m", "dynamo.frontend", "--http-host", hosts[0], "--http-port", str(settings.port)),
        ),
    }  # fmt: skip
    for one in placed:
        env = {**_of_worker(one, one_node=settings.one_node), **commands[one.name].env}
        files[f"{one.name}.sh"] = script(f"{one.name} on {one.host}", env, commands[one.name].argv)
    return Written(files, tuple(warnings))


def _of_worker(one: Placed, *, one_node: bool) -> dict[str, str]:
    """Its devices, addresses and ports; UCX chooses the transport between nodes."""
    env = {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, one.devices)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **dict.fromkeys((*_ADDRESSES, "VLLM_HOST_IP", "VLLM_NIXL_SIDE_CHANNEL_HOST"), one.host),
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(one.kv_port),
        "DYN_SYSTEM_PORT": str(one.system_port),
    }
    return {**env, "UCX_NET_DEVICES": "lo", "GLOO_SOCKET_IFNAME": "lo"} if one_node else env
