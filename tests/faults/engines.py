"""What serves in a campaign: stand-ins, Dynamo's mocker or real workers; and the lab's arguments for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.lab.engines import ENGINES
from labkit.serve.engines.base import Command, EngineOptions, WorkerSpec
from labkit.serve.hardware import Node
from labkit.serve.models import ServedModel
from labkit.serve.timing import save_timing
from tests.faults.setting import Setting
from tests.support.fake_engine import FakeEngine, fake_gpu, fake_node
from tests.support.profiles import handmade_profile


@dataclass
class StandIns(FakeEngine):
    """Stand-ins of vLLM's workers that keep a log of every request.

    Attributes:
        truth: folder of these logs.
    """

    truth: Path = Path()
    name: str = "stand-ins"

    def worker(self, spec: WorkerSpec, model: ServedModel, options: EngineOptions) -> Command:
        command = super().worker(spec, model, options)
        return Command((*command.argv, "--truth", str(self.truth), "--name", spec.name), command.env)


def lab_arguments(setting: Setting) -> dict[str, Any]:
    """What ``Lab`` takes beside the split; makes the engine known where it is one of the tests' own."""
    if setting.engine == "vllm":
        return {"model": "demo"}
    if setting.engine == "mocker":
        timing = save_timing([handmade_profile(kv_transfer_bytes_s=50e9)], setting.folder / "timing")
        return {"model": "llama-3.1-8b", "engine": "mocker", "options": EngineOptions(timing=timing)}
    everywhere = ("--token-s", f"{setting.token_s:g}", *(("--core",) if setting.core else ()))
    engine = StandIns(
        setting.mark, everywhere=everywhere, forks=() if setting.forks else None, truth=setting.truth, faults=dict(setting.faults)
    )
    ENGINES[engine.name] = lambda _: engine
    there: dict[str, Any] = {"nodes": setting.nodes} if setting.nodes else {"node": _node(setting.gpus)}
    return {"model": "demo", "engine": engine.name, **there}


def _node(gpus: int) -> Node:
    node = fake_node()
    return replace(node, gpus=tuple(map(fake_gpu, range(gpus))), no_gpu=None) if gpus else node
