"""What a model of performance says of single workers: every other number of this room is composed of these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol, Self

from labkit.errors import SpecError
from labkit.spec import Role

#: Of splits.
KINDS: Final = ("aggregated", "disaggregated")
#: Backends whose kernels were timed, as the model of performance calls them.
BACKENDS: Final = ("vllm", "trtllm", "sglang")
#: TP degrees of workers within a node of eight GPUs.
DEGREES: Final = (1, 2, 4, 8)
_MOST_TOKENS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a worker is and what it is given: all that its times depend on.

    Attributes:
        model: a bundled shape, a folder with ``config.json``, or a hub id.
        system: the GPU, as the model of performance calls it: ``h100_sxm``.
        engine: one of ``BACKENDS``, whose kernels were timed.
        isl, osl: tokens of every prompt and of every answer.

    Raises:
        SpecError: an engine that is no such backend, or lengths that no request has.
    """

    model: str
    system: str
    engine: str
    isl: int
    osl: int

    def __post_init__(self) -> None:
        if self.engine not in BACKENDS:
            raise SpecError(
                f"engine = {self.engine!r} is no backend whose kernels were timed",
                remedy=f"use one of {', '.join(BACKENDS)}; Dynamo's workers here are vLLM's: engine=vllm projects them",
            )
        for name, value, least in (("isl", self.isl, 1), ("osl", self.osl, 2)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST_TOKENS:
                raise SpecError(
                    f"{name} = {value!r} cannot be projected", remedy=f"give {least} or more tokens, one length for all"
                )

    def __str__(self) -> str:
        return f"{self.model} on {self.system} with {self.engine}, ISL {self.isl}, OSL {self.osl}"


@dataclass(frozen=True, slots=True)
class WorkerPoint:
    """One worker in a steady state, as projected.

    Attributes:
        role: aggregated, prefill or decode.
        tp: GPUs of the worker.
        batch: requests that it holds at once.
        step_tokens: prompt tokens in a step of an aggregated worker; 0 for the others.
        ttft_s: to the first token, without waiting for a prefill worker that is busy; 0 of a decode worker.
        tpot_s: from token to token; 0 of a prefill worker.
        request_hz: requests that it completes a second.
    """

    role: Role
    tp: int
    batch: int
    step_tokens: int
    ttft_s: float
    tpot_s: float
    request_hz: float


@dataclass(frozen=True, slots=True)
class Beyond:
    """Workers of one kind of split that a calibration left out.

    Attributes:
        reason: what was measured of the kind instead, in words.
        measured: whether anything was.
        points: corrected as far as they can be; nothing is told by them but that there is more than was measured.
    """

    reason: str
    measured: bool
    points: tuple[WorkerPoint, ...]


@dataclass(frozen=True, slots=True)
class Workers:
    """Every worker that was asked about.

    Attributes:
        setting: what they were asked for.
        source: who said so: name, version, and whose timings it rests on.
        points: that fit into memory.
        notes: what is missing, a sentence each.
        beyond: by kind of split, what a calibration left out; not kept, since it is applied anew.
    """

    setting: Setting
    source: str
    points: tuple[WorkerPoint, ...]
    notes: tuple[str, ...] = ()
    beyond: Mapping[str, Beyond] = field(default_factory=dict)

    def of(self, role: Role, tps: Iterable[int] | None = None, *, chunked: bool = True) -> list[WorkerPoint]:
        """The workers of a role.

        Args:
            role: which.
            tps: only of these degrees.
            chunked: aggregated workers may split prompts over steps; without, steps hold whole prompts.
        """
        wanted = None if tps is None else set(tps)
        return [
            point
            for point in self.points
            if point.role is role
            and (wanted is None or point.tp in wanted)
            and (chunked or not point.step_tokens % self.setting.isl)
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = [[p.role.value, p.tp, p.batch, p.step_tokens, p.ttft_s, p.tpot_s, p.request_hz] for p in self.points]
        return {"setting": asdict(self.setting), "source": self.source, "points": rows, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What ``to_dict`` made; KeyError, TypeError or ValueError where it did not."""
        points = tuple(WorkerPoint(Role(role), *rest) for role, *rest in data["points"])
        return cls(Setting(**data["setting"]), str(data["source"]), points, tuple(data["notes"]))


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long single steps of one worker take, as projected, with the corrections that ``WorkerPoint`` has too.

    Attributes:
        source: who said so.
        prefill: prompt tokens → seconds of a prefill.
        decode: requests, tokens of context of each → seconds of a decode step.
        gpu_bytes: memory of a GPU.
        kv_tokens: that the KV cache of the worker holds.
    """

    source: str
    prefill: tuple[tuple[int, float], ...]
    decode: tuple[tuple[int, int, float], ...]
    gpu_bytes: int
    kv_tokens: int


class Estimator(Protocol):
    """A model of performance."""

    def identity(self, setting: Setting) -> Mapping[str, Any]:
        """All that its answer depends on, JSON-ready: versions, and the content of the model's config."""

    def workers(self, setting: Setting) -> Workers:
        """What it says; ProjectionError where it cannot."""


def content_key(identity: Mapping[str, Any]) -> str:
    """What an answer is known by: 16 hex digits of the SHA-256 of all that it depends on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
