"""NVIDIA Dynamo's frontend without etcd or NATS: workers register with it through a folder, in the roles that they keep.

What stands here is the same for every kind of Dynamo worker: the frontend's command, the variables by which frontend and workers
find each other, and how to ask the frontend whom it knows and to aim a request at one of them. Seen with ai-dynamo 1.6.1:

* ``/health`` of the frontend says 200 with no worker at all; ``/v1/models/NAME/ready`` counts them by role.
* A worker that is added takes its first request within a second of its own ``/health``; one that gets SIGTERM unregisters, ends
  what is on it, and exits.
* One that is killed leaves its entries in the folder: the frontend counts it, and sends it requests, until they expire after ten
  seconds or more. Where they are removed it forgets the worker within a second.
* Headers aim a request at a worker and a prefill worker. Where aggregated workers serve beside disaggregated ones, the frontend
  draws one of the two sets first and refuses an aimed request (400) where it drew the other.
* It does not set TCP_NODELAY. The event plane's sockets of a worker listen on all addresses, whatever DYN_EVENT_PLANE_HOST says:
  so events go through an exchange (``dynamo_front_entry``), to which workers and frontend connect.
* It logs 4.7 kB a request, and each worker another 1 kB: 7 GB in an hour of small ones. ``QUIET`` leaves 1.6 kB and nothing, and
  is to Dynamo what an access log that is off is to vLLM's server. (The target ``request_span``, the rest, is always on.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from labkit.serve.engines import dynamo_front_entry
from labkit.serve.engines.base import Command, Plan, RouterSpec
from labkit.spec import Role, Topology

#: ``DYN_SYSTEM_PORT`` is read as a signed number of 16 bits.
HIGHEST_PORT: Final = 32_767
#: What ``--router-mode`` takes (1.6.1), but ``direct``: there every client must name the worker of each request.
ROUTER_MODES: Final = ("round-robin", "random", "power-of-two", "kv", "least-loaded", "device-aware-weighted")
#: Times that a request is sent again, to another worker, when the one that had it dies, or where nobody takes it; with 0 the
#: client gets an error. A prefill that has just registered is not routed to for 10 ms, and three tries take a tenth of one.
MIGRATIONS: Final = 1000
#: ``DYN_LOG``: no line for each request. What goes wrong, and what begins and ends, is told.
QUIET: Final = "info,dynamo_llm::http::service=warn,dynamo_runtime::pipeline=warn"
_IDENTITY: Final = re.compile(r'\bworker_id="([0-9a-fA-F]+)"')


def frontend_command(python: str, spec: RouterSpec) -> Command:
    """The frontend, round-robin by default. With ``kv`` it listens to what workers cache, where they tell."""
    mode = spec.options.router_mode or ROUTER_MODES[0]
    argv = [
        *(python, dynamo_front_entry.__file__, "--http-host", "127.0.0.1", "--http-port", str(spec.port)),
        *("--router-mode", mode, "--migration-limit", str(MIGRATIONS)),
    ]
    if mode == "kv":
        argv.append("--router-kv-events" if spec.options.prefix_caching else "--no-router-kv-events")
    return Command(tuple(argv), {**rendezvous(spec.meeting), "PYTHONDONTWRITEBYTECODE": "", "DO_NOT_TRACK": "1"})


def rendezvous(meeting: Path | None) -> dict[str, str]:
    """Variables by which the processes of one deployment find each other, and nobody else does: a folder, and loopback."""
    here = "127.0.0.1"
    return {
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(meeting),
        "LABKIT_MEETING": str(meeting),  # the supervisor removes it where the lab cannot
        "DYN_REQUEST_PLANE": "tcp",
        "DYN_EVENT_PLANE": "zmq",
        dynamo_front_entry.BROKER: f"xsub=ipc://{meeting}/events-in , xpub=ipc://{meeting}/events-out",
        "DYN_TCP_RPC_HOST": here,
        "DYN_TCP_RESPONSE_STREAM_HOST": here,
        "DYN_EVENT_PLANE_HOST": here,
        "DYN_HTTP_RPC_HOST": here,
        "DYN_SYSTEM_HOST": here,
        "DYN_LOG": os.environ.get("DYN_LOG", QUIET),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def registration(port: int, role: Role | None, meeting: Path | None) -> dict[str, str]:
    """Variables of a worker: its health and metrics on ``port``, and where it registers.

    Aggregated and disaggregated workers have a namespace each: as in Dynamo's own rolling updates, the frontend then serves with
    both sets while one takes the other's place.
    """
    return {
        **rendezvous(meeting),
        "DYN_SYSTEM_PORT": str(port),
        "DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS": '["generate"]',  # without it the mocker is never ready
        "DYN_NAMESPACE": "labkit-aggregated" if role in (None, Role.AGGREGATED) else "labkit-disaggregated",
        "DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS": "1",  # between unregistering and the end: the frontend hears of it at once
        "PYTHONHASHSEED": "0",  # prefixes hash alike in every worker
    }


class FrontendRegistry:
    """What the frontend tells of the workers that have registered, and how it is told where to send a request."""

    handshakes = True

    def ready_path(self, model: str) -> str:
        """Counts by role."""
        return f"/v1/models/{model}/ready"

    def registered(self, answer: Any) -> Mapping[Role, int]:
        """Over all namespaces; a 404 and a 503 are answers too."""
        found = dict.fromkeys(Role, 0)
        for space in _dict(_dict(answer).get("namespaces")).values():
            for kind, known in _dict(_dict(space).get("worker_types")).items():
                role = next((role for role in Role if role.noun == kind), None)
                if role is not None:
                    found[role] += int(_dict(known).get("workers", 0))
        return found

    def identity(self, metrics: str) -> str | None:
        """The label ``worker_id`` is hexadecimal; the frontend takes it decimal."""
        found = _IDENTITY.search(metrics)
        return str(int(found[1], 16)) if found else None

    def entries(self, worker: str) -> str:
        """``v1/instances/…%2F7d59597fcf96ded``: the id in hexadecimal behind what was registered."""
        return f"v1/*/*%2F{int(worker):x}"

    def cards(self, worker: str) -> str:
        """``v1/mdc/…``: model deployment cards. The address of a worker is under ``v1/instances``."""
        return f"v1/mdc/*%2F{int(worker):x}"

    def aim(self, worker: str, prefill: str | None) -> Mapping[str, str]:
        """Dynamo's headers for a router outside."""
        headers = {"x-dynamo-worker-instance-id": worker}
        return headers if prefill is None else {**headers, "x-dynamo-prefill-instance-id": prefill}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


class BehindFrontend:
    """What engines whose workers register with the frontend have in common; what a worker is, is theirs.

    Args:
        python: interpreter in which ai-dynamo is installed.
        registry: how its workers are found.
    """

    router_modes: tuple[str, ...] = ROUTER_MODES
    dialect_known = False
    highest_port = HIGHEST_PORT
    _stages: tuple[tuple[str, re.Pattern[str]], ...] = ()

    def __init__(self, python: str, registry: FrontendRegistry) -> None:
        self.python, self.registry = python, registry

    def router(self, spec: RouterSpec) -> Command:
        """The frontend; workers register with it themselves."""
        return frontend_command(self.python, spec)

    def router_metrics(self, spec: RouterSpec) -> str:
        """The frontend tells its metrics where it serves."""
        return f"http://127.0.0.1:{spec.port}/metrics"

    def plan(self, now: Topology, wanted: Topology) -> Plan:
        """Workers keep their roles: another split needs other workers, beside those whose role it has."""
        if now == wanted:
            return Plan("nothing", f"{now} serves already")
        return Plan("restart", f"{now} → {wanted}: starts workers in their roles, drains others; the frontend goes on")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of a start-up in their order."""
        return tuple(name for name, _ in self._stages)

    def stage(self, line: str) -> str | None:
        """The start-up stage that a log line announces."""
        return next((name for name, pattern in self._stages if pattern.search(line)), None)
