"""The workers' commands as the lab's own engine builds them, made fit for other nodes.

No flag is written here a second time: the engine's builder makes the command of a worker of the lab, and what belongs to the
measuring machine alone is taken out of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Final

from labkit.deploy.assumptions import kv_events, router_mode
from labkit.deploy.found import FoundSplit
from labkit.deploy.placing import Placed
from labkit.deploy.settings import Settings
from labkit.serve.engines.base import Command, EngineOptions, RouterSpec, WorkerSpec
from labkit.serve.engines.dynamo import KV_EVENTS
from labkit.serve.engines.dynamo_frontend import MIGRATIONS
from labkit.serve.engines.vllm import Vllm
from labkit.serve.hardware import Devices
from labkit.serve.models import ServedModel
from labkit.spec import Role
from labkit.store.redact import REDACTED

#: Stands for the model in a command until a target puts its own word there.
MODEL: Final = "SET-THE-MODEL"
#: Stands for the folder of the socket on which a worker's engine tells what it caches.
EVENTS: Final = "PRIVATE-FOLDER-OF-EVENTS"
_SERVER: Final = ("python3", "-m", "vllm.entrypoints.openai.api_server")
_SERVER_PAIRS: Final = frozenset({"--host", "--port"})
_TRANSFER: Final = frozenset({"--kv-transfer-config"})
_SERVER_FLAGS: Final = frozenset({"--disable-uvicorn-access-log"})
#: Of the lab's own launcher, telemetry and interpreter: they mean nothing elsewhere.
_OWN: Final = ("LABKIT_", "OTEL_", "PYTHON", "NO_PROXY", "no_proxy", "HF_HUB_OFFLINE")
#: How workers of one node find each other; between nodes UCX and Gloo choose.
_ONE_NODE: Final = ("UCX_", "GLOO_")
#: ``--flag=VALUE``, and ``name=VALUE`` as of a LoRA module.
_NAMED: Final = re.compile(r"[\w.-]+=")
_PATHS: Final = ("/", "~/", "./", "../")
_ADDRESSES: Final = ("VLLM_HOST_IP", "VLLM_NIXL_SIDE_CHANNEL_HOST")


@dataclass(frozen=True, slots=True)
class Portable:
    """A process to start elsewhere.

    Attributes:
        argv: argument list, with ``MODEL`` where the model goes.
        env: variables that it needs.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]


def vllm_worker(found: FoundSplit, placed: Placed, settings: Settings, *, on_gpu: bool) -> Portable:
    """A plain vLLM server at its place.

    Args:
        found: the split as measured.
        placed: the worker.
        settings: of the place. Workers that are all on one machine find each other as they did in the lab.
        on_gpu: whether it runs on GPUs; else on vLLM's CPU backend.
    """
    built = _built(found, placed, settings, on_gpu=on_gpu)
    argv = _with((*_SERVER, *built.argv[2:]), "--host", placed.host)
    dropped = _OWN if settings.one_node else (*_OWN, *_ONE_NODE)
    env = {name: value for name, value in built.env.items() if not name.startswith(dropped)}
    env |= dict.fromkeys(_ADDRESSES, placed.host) | dict(found.options.extra_env)
    return Portable(_portable(argv), {name: _portable_word(value) for name, value in env.items()})


def dynamo_worker(found: FoundSplit, placed: Placed, settings: Settings, *, events: str = EVENTS) -> Portable:
    """A ``dynamo.vllm`` worker on GPUs: vLLM's engine flags without its server, and Dynamo's role.

    Its environment has nothing of devices, addresses and discovery: these are the target's.

    Args:
        found: the split as measured.
        placed: the worker.
        settings: of the place.
        events: a folder that nobody else reaches: whoever can bind the socket first would tell the router what is cached.
    """
    built = _built(found, placed, settings, on_gpu=True)
    apart = placed.role is not Role.AGGREGATED
    flags = _without(built.argv[2:], _SERVER_PAIRS if apart else _SERVER_PAIRS | _TRANSFER)
    if apart:
        flags += ["--disaggregation-mode", placed.role.noun]
    if kv_events(found):
        flags += ["--kv-events-config", json.dumps({**KV_EVENTS, "endpoint": f"ipc://{events}/kv-events-{placed.system_port}"})]
    kept = {name: built.env[name] for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")} | dict(found.options.extra_env)
    return Portable(
        ("python3", "-m", "dynamo.vllm", *_portable(tuple(flags))), {name: _portable_word(value) for name, value in kept.items()}
    )


def frontend_env(found: FoundSplit) -> dict[str, str]:
    """How Dynamo's frontend chooses workers, and how often it sends a request again, as while measuring."""
    env, events = {"DYN_ROUTER_MODE": router_mode(found)}, kv_events(found)
    if events is not None:
        env["DYN_ROUTER_USE_KV_EVENTS"] = str(events).lower()
    if found.engine == "dynamo":
        env["DYN_MIGRATION_LIMIT"] = str(MIGRATIONS)
    return env


def vllm_router(placed: tuple[Placed, ...], host: str, port: int) -> Portable:
    """The router in front of the workers, which listens on ``host``; its metrics page stays on the loopback address."""
    urls = {f"http://{one.host}:{one.port}": one.role for one in placed}
    built = Vllm("python3").router(RouterSpec(port=port, metrics_port=port + 1, workers=urls))
    return Portable(_with(built.argv, "--host", host), {})


def _built(found: FoundSplit, placed: Placed, settings: Settings, *, on_gpu: bool) -> Command:
    """What the lab would start, given the same devices; from a core to a GPU nothing that was sized for the core goes along."""
    moved = on_gpu and not found.on_gpu
    model = ServedModel(
        path=MODEL, name=settings.served_name_of(found), load_format="dummy" if settings.dummy_weights else "auto",
        dtype=found.dtype if moved else found.served_dtype, max_model_len=found.max_model_len,
    )  # fmt: skip
    devices = Devices(
        worker=0, gpus=placed.devices if on_gpu else (), cores=() if on_gpu else placed.devices, memory_bytes=0,
        memory_fraction=1.0, shared=False, accelerators=float(placed.tp),
    )  # fmt: skip
    spec = WorkerSpec(name=placed.name, tp=placed.tp, devices=devices, port=placed.port, kv_port=placed.kv_port)
    options: EngineOptions = replace(found.options.of(placed.role), router_mode=None)  # of the frontend, and not the worker's
    return Vllm("python3").worker(spec, model, replace(options, kv_cache_bytes=None) if moved else options)


def _without(argv: tuple[str, ...], pairs: frozenset[str]) -> list[str]:
    """Without the server's flags, and without these and their values."""
    kept, words = [], iter(argv)
    for word in words:
        if word in pairs:
            next(words)
        elif word not in _SERVER_FLAGS:
            kept.append(word)
    return kept


def _with(argv: tuple[str, ...], flag: str, value: str) -> tuple[str, ...]:
    at = argv.index(flag) + 1
    return (*argv[:at], value, *argv[at + 1 :])


def _portable(argv: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_portable_word(word) for word in argv)


def _portable_word(word: str) -> str:
    """A flag or a value that a user gave, without what was only true on the measuring machine: paths, and what was redacted."""
    if _NAMED.match(word):  # also what is behind it: --lora-modules=sql=/adapters/sql
        head, sign, value = word.partition("=")
        return f"{head}{sign}{_portable_word(value)}"
    value = word
    if REDACTED in value:
        return "SET-THIS-SECRET"
    try:
        held = json.loads(value) if value[:1] in ("{", "[") else None
    except ValueError:
        held = None
    if held is not None:
        moved = _without_paths(held)
        return value if moved == held else json.dumps(moved)
    return _without_path(value)


def _without_paths(held: object) -> object:
    if isinstance(held, dict):
        return {name: _without_paths(value) for name, value in held.items()}
    if isinstance(held, list):
        return [_without_paths(value) for value in held]
    return _without_path(held) if isinstance(held, str) else held


def _without_path(value: str) -> str:
    path = value.removeprefix("file://")
    return f"SET-THE-FOLDER-OF/{PurePosixPath(path).name}" if path.startswith(_PATHS) or value != path else value


def to_fill_in(command: Portable) -> list[str]:
    """The words of a command that must be filled in before it can run, the model apart."""
    words = (*command.argv, *command.env.values())
    return sorted({word for word in words if "SET-THE-FOLDER-OF/" in word or "SET-THIS-SECRET" in word})
