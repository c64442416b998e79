"""What the lab asks of an engine: commands for workers and routers, and a plan for a wished split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

from labkit.errors import LabError, SpecError
from labkit.serve.hardware import Devices
from labkit.serve.models import ServedModel
from labkit.serve.net import LOOPBACK, Net
from labkit.spec import Role, Topology

_OTHER_ROUTER: Final = "leave it out, or launch with engine='dynamo', whose frontend can route by KV cache"


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start: argument list (never a shell string) and variables on top of the lab's environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    """The largest step of a worker; ``None`` is the engine's own choice. Attributes and errors are those of ``EngineOptions``."""

    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None

    def __post_init__(self) -> None:
        _whole(self, ("max_num_batched_tokens", "max_num_seqs"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What a user may set of every worker; ``None`` is the engine's or the lab's own choice.

    Attributes:
        kv_cache_bytes: KV-cache memory of each worker, of all its GPUs (or cores) together.
        max_num_batched_tokens: most tokens of one step: the chunk size of chunked prefill.
        max_num_seqs: most requests of one step.
        prefill: the two above for workers that are prefill workers on the split; then a re-split that gives a worker the other
            role restarts it.
        prefix_caching: whether prompts share cached prefixes; off by default: synthetic prompts must not be warm by accident.
        enforce_eager: no CUDA graphs; by default only where there is no GPU.
        router_mode: how the router chooses workers: ``round-robin`` by default; ``kv`` where the engine knows it. No worker
            depends on it, and it plays no part where options are compared.
        timing: folder of timing profiles (``serve.timing.save_timing``) that simulated workers follow; real ones take none.
        extra_args: flags passed to each worker as they are.
        extra_env: variables passed to each worker as they are.

    Raises:
        SpecError: a number below 1, or flags or variables that are not texts.
    """

    kv_cache_bytes: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    prefill: StepLimits | None = None
    prefix_caching: bool = False
    enforce_eager: bool | None = None
    router_mode: str | None = field(default=None, compare=False)
    timing: str | None = None
    extra_args: tuple[str, ...] = ()
    extra_env: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _whole(self, ("kv_cache_bytes", "max_num_batched_tokens", "max_num_seqs"))
        if isinstance(self.extra_args, str) or not all(isinstance(word, str) for word in self.extra_args):
            raise SpecError(
                f"extra_args = {self.extra_args!r} is not a sequence of texts",
                remedy='give one text a word, such as ("--swap-space", "4")',
            )
        if not isinstance(self.extra_env, Mapping) or not all(
            isinstance(text, str) for pair in self.extra_env.items() for text in pair
        ):
            raise SpecError(
                f"extra_env = {self.extra_env!r} does not map texts to texts",
                remedy='give a dict, such as {"VLLM_LOGGING_LEVEL": "DEBUG"}',
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What ``asdict`` gave, also after it was JSON."""
        limits = data.get("prefill")
        given = {"extra_args": tuple(data.get("extra_args", ())), "prefill": None if limits is None else StepLimits(**limits)}
        return cls(**{**data, **given})

    def of(self, role: Role | None) -> EngineOptions:
        """What a worker with this role is started with; ``None`` for one that the split leaves out."""
        if self.prefill is None:
            return self
        if role is not Role.PREFILL:
            return replace(self, prefill=None)
        limits = self.prefill
        return replace(self, prefill=None, max_num_batched_tokens=limits.max_num_batched_tokens, max_num_seqs=limits.max_num_seqs)

    def __str__(self) -> str:
        """The limits of a step, for people."""
        said = _limits_text(self)
        return said if self.prefill is None else f"{said}; prefill workers: {_limits_text(self.prefill)}"


def _whole(given: StepLimits | EngineOptions, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(given, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise SpecError(f"{name} = {value!r} is not a whole number above 0", remedy=f"give {name}=N, or leave it out")


def _limits_text(given: StepLimits | EngineOptions) -> str:
    limits = [f"{name} {getattr(given, name)}" for name in ("max_num_batched_tokens", "max_num_seqs") if getattr(given, name)]
    return ", ".join(limits) or "the engine's own limits of a step"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """One worker before it runs.

    Attributes:
        name: ``w0``, ``w1`` …: it stays while roles change.
        tp: accelerators that it spans.
        devices: GPUs or cores, and the share of them, that it may use.
        port: of the HTTP server that tells its health and metrics.
        kv_port: of its KV-transfer side channel; ``tp`` consecutive ports from here.
        net: of the machine that it runs on.
        otlp_endpoint: where it sends its request spans; ``None`` for nowhere.
        role: that it keeps; ``None`` where the router decides.
        meeting: folder through which the processes of a deployment find each other, with engines that have a ``Registry``.
        event_port: where it may publish what it caches, for a router that listens.
    """

    name: str
    tp: int
    devices: Devices
    port: int
    kv_port: int
    net: Net = LOOPBACK
    otlp_endpoint: str | None = None
    role: Role | None = None
    meeting: Path | None = None
    event_port: int = 0

    @property
    def url(self) -> str:
        """Base URL of the worker's HTTP server."""
        return f"http://{self.net.address}:{self.port}"


#: Role (``None`` for any) and TP degree of a worker.
Kind = tuple[Role | None, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker is wanted: its name, its TP degree and its devices; and the role that it keeps, ``None`` for any."""

    name: str
    tp: int
    devices: Devices
    role: Role | None = None

    @property
    def kind(self) -> Kind:
        """What it must have in common with another worker to take its part."""
        return self.role, self.tp


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSpec:
    """A router before it runs.

    Attributes:
        port: of its HTTP server, on 127.0.0.1.
        metrics_port: of its Prometheus page, where that has a port of its own.
        workers: URL → role of those that it sends requests to; a ``Registry`` may bring others later.
        options: of the deployment.
        meeting: as for a worker.
    """

    port: int
    metrics_port: int
    workers: Mapping[str, Role]
    options: EngineOptions = field(default_factory=EngineOptions)
    meeting: Path | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How to get from one split or pool to another, before it is done.

    An engine says ``kind`` and ``text`` for a split of the same workers; the deployment, which knows its workers, the rest.

    Attributes:
        kind: ``nothing``, ``swap_router`` (no worker starts or ends), ``restart`` (workers start or end; those that start load
            weights) or ``impossible``.
        text: what will happen, how long it takes and what it costs, as the lab tells the user.
        wanted: the split that it leads to.
        options: what the workers run with afterwards.
        starts: workers that are started, or started again.
        keeps: workers that go on as they are.
        ends: names of workers that are ended, those of ``starts`` that still run among them.
        meanwhile: the split that serves while workers start; ``None`` where none does, or where none starts.
        makes_room: whether workers end, or traffic leaves them, before others start.
        about_s: seconds until the wished split takes requests, from what was measured on this deployment; ``None`` before.
        requests: what becomes of requests under way.
        proof: the counters that will prove each worker's role.
        why: why it is impossible; what carrying it out raises.
        nearest: what is possible and closest to the wish, where that is not.
        router_stays: whether the router goes on, and workers that end drain; else it is another one, and the old one drains.
    """

    kind: Literal["nothing", "swap_router", "restart", "impossible"]
    text: str
    wanted: Topology | None = None
    options: EngineOptions | None = None
    starts: tuple[Place, ...] = ()
    keeps: tuple[Place, ...] = ()
    ends: tuple[str, ...] = ()
    meanwhile: Topology | None = None
    makes_room: bool = False
    about_s: float | None = None
    requests: str = ""
    proof: tuple[str, ...] = ()
    why: LabError | None = None
    nearest: Topology | None = None
    router_stays: bool = False

    def __str__(self) -> str:
        return self.text

    @property
    def reloads_weights(self) -> bool:
        """Whether any worker loads weights."""
        return bool(self.starts)


def check_router_mode(engine: Engine, options: EngineOptions) -> None:
    """Refuse a way to choose workers that the engine's router does not know, before anything is started.

    Raises:
        SpecError: it names those that it knows.
    """
    if options.router_mode not in (None, *engine.router_modes):
        known = ", ".join(engine.router_modes)
        raise SpecError(
            f"router_mode {options.router_mode!r} is not one of the {engine.name} engine's, which knows {known}",
            remedy="leave it out, or take one of these" if len(engine.router_modes) > 1 else _OTHER_ROUTER,
        )


class Registry(Protocol):
    """How workers are found that register with a router which stays, in a role that they keep. Pure, as the engine is.

    Attributes:
        handshakes: whether the first transfer between two workers takes longer than others: then each pair meets before traffic.
    """

    handshakes: bool

    def ready_path(self, model: str) -> str:
        """Path at the router that tells how many workers of each role it knows; anything but JSON tells that there is none."""
        ...

    def registered(self, answer: Any) -> Mapping[Role, int]:
        """The number of workers of each role in what the router answered there."""
        ...

    def identity(self, metrics: str) -> str | None:
        """The name under which a worker with this metrics page has registered; ``None`` where that does not tell."""
        ...

    def entries(self, worker: str) -> str:
        """Pattern, below the folder of the meeting, of the entries by which the router knows the worker of this identity."""
        ...

    def cards(self, worker: str) -> str:
        """Pattern of those among them by which the router chooses it for new requests; without them it still reaches it."""
        ...

    def aim(self, worker: str, prefill: str | None) -> Mapping[str, str]:
        """HTTP headers that send a request to the worker of this identity, its prefill to another's."""
        ...


class Engine(Protocol):
    """Turns a topology into processes. Pure: it builds commands and plans, and starts nothing.

    Attributes:
        name: as users write it.
        router_modes: ways in which its router can choose workers, the usual one first.
        dialect_known: whether what its router takes is known (vLLM's); else the lab asks it, and looks at its transport.
        highest_port: that a worker's server can listen on.
    """

    name: str
    router_modes: tuple[str, ...]
    dialect_known: bool
    highest_port: int

    @property
    def registry(self) -> Registry | None:
        """How workers are found that register with a router which stays: a re-split then starts workers in their roles and
        drains others. ``None`` where the router is told its workers and decides their roles: then it is swapped."""
        ...

    def worker(self, spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> Command:
        """The command of one worker. Raises SpecError for options that the engine cannot meet."""
        ...

    def fork_server(self, worker: Command) -> Command | None:
        """The command of a process that imports what this worker needs and forks it (``serve.forking``); ``None`` for none.

        Workers for which it is equal are forked from one.
        """
        ...

    def router(self, spec: RouterSpec) -> Command:
        """The command of the router."""
        ...

    def router_metrics(self, spec: RouterSpec) -> str:
        """URL of its Prometheus page."""
        ...

    def plan(self, now: Topology, wanted: Topology) -> Plan:
        """What it takes to get the same workers from one split to another: another router, or other workers."""
        ...

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of a start-up in their order, in a few words each."""
        ...

    def stage(self, line: str) -> str | None:
        """The stage that a line of a worker's log announces; ``None`` for other lines."""
        ...

    def missing(self, distributions: Sequence[str]) -> str | None:
        """The first package that the engine needs and ``distributions`` lacks."""
        ...
