"""Dynamo's mocker: workers that compute nothing and take the time that a profile says, behind the same frontend as real ones.

Scheduler, KV cache and batching are simulated after vLLM's (continuous batching, chunked prefill); requests, queues and streams
are real. Every number that is measured on them is *simulated*. Seen with ai-dynamo 1.6.1:

* A worker has a process of its own: with ``--num-workers`` several share one port for health and metrics, and then nobody can
  tell them apart or let one of them drain.
* A prefill worker tells no ``vllm:`` metric; what proves its role is Dynamo's own count of requests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from labkit.errors import SpecError
from labkit.serve.engines.base import Command, EngineOptions, WorkerSpec, check_router_mode
from labkit.serve.engines.dynamo_frontend import BehindFrontend, FrontendRegistry, registration
from labkit.serve.models import ServedModel
from labkit.serve.timing import TimingProfile, timing_file
from labkit.spec import Role

#: Tokens of a block of the simulated KV cache: vLLM's own default on GPUs.
BLOCK_TOKENS: Final = 16
#: The mocker's own largest step, which is vLLM's on large GPUs.
_STEP_TOKENS: Final = 8192
_STAGES: Final = (("registering", re.compile(r"mocker worker\(s\) created|Creating mocker worker")),)
_NO_TRANSFER_GB_S: Final = 0.0  # the mocker's own word for a transfer that takes no time


class MockerRegistry(FrontendRegistry):
    """As with real workers, but that a first transfer between two of them takes no longer than any other."""

    handshakes = False


class Mocker(BehindFrontend):
    """Dynamo's frontend as router and ``dynamo.mocker`` workers.

    Args:
        python: interpreter in which ai-dynamo is installed.
    """

    name = "mocker"
    _stages = _STAGES

    def __init__(self, python: str) -> None:
        super().__init__(python, MockerRegistry())

    def worker(self, spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> Command:
        """Command and environment of one simulated worker; its timing profile is read from ``options.timing``.

        Raises:
            SpecError: there is no profile of its TP degree, or an option that means nothing without a real engine.
        """
        check_router_mode(self, options)
        if options.timing is None:
            raise SpecError(
                "the mocker needs a timing profile: its workers compute nothing, and take the time that one says",
                remedy="give EngineOptions(timing=save_timing([labkit.whatif.timing_from_estimates(model, gpu)], folder))",
            )
        file = timing_file(options.timing, spec.tp)
        profile = TimingProfile.load(file)
        kv_tokens = (options.kv_cache_bytes or 0) // (model.kv_bytes_per_token or 1) or profile.kv_tokens
        gb_s = _NO_TRANSFER_GB_S if profile.kv_transfer_bytes_s is None else profile.kv_transfer_bytes_s / 1e9
        argv = [
            *(self.python, "-m", "dynamo.mocker", "--model-path", model.path, "--model-name", model.name),
            *("--planner-profile-data", str(file), "--block-size", str(BLOCK_TOKENS)),
            *("--num-gpu-blocks-override", str(max(1, kv_tokens // BLOCK_TOKENS)), "--kv-transfer-bandwidth", f"{gb_s:g}"),
            "--enable-prefix-caching" if options.prefix_caching else "--no-enable-prefix-caching",
        ]
        for flag, value in (
            ("--kv-bytes-per-token", model.kv_bytes_per_token),
            ("--max-model-len", model.max_model_len),
            ("--max-num-seqs", options.max_num_seqs),
            ("--max-num-batched-tokens", options.max_num_batched_tokens or _largest_step(profile)),
            ("--disaggregation-mode", spec.role.noun if spec.role in (Role.PREFILL, Role.DECODE) else None),
        ):
            if value is not None:
                argv += [flag, str(value)]
        return Command((*argv, *options.extra_args), {**registration(spec.port, spec.role, spec.meeting), **options.extra_env})

    def fork_server(self, worker: Command) -> Command | None:
        """None: a mocker is imported in 0.2 s."""
        return None

    def missing(self, distributions: Sequence[str]) -> str | None:
        """Dynamo alone: no vLLM, no NIXL, no weights."""
        return None if "ai-dynamo" in distributions else "ai-dynamo"


def _largest_step(profile: TimingProfile) -> int:
    """No prefill step is larger than the profile knows, unless that was asked for; longer prompts come in chunks."""
    return _STEP_TOKENS if profile.extrapolate else max(1, min(_STEP_TOKENS, int(profile.prefill_tokens[-1])))
