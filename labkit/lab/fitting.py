"""A model made ready for what will be sent to it, on the hardware that will serve it."""

from __future__ import annotations

from pathlib import Path

from labkit.serve.hardware import Node
from labkit.serve.models import ServedModel, prepare
from labkit.spec import Model, Workload


def fitted(model: Model, folder: Path, node: Node, workload: Workload | None) -> ServedModel:
    """``prepare``, with the context length fitted to the workload; raises as that does."""
    longest, grows = (workload.longest, workload.turns is not None) if workload else (None, False)
    return prepare(model, folder, isl_osl_max=longest, may_clip=grows, dtype=None if node.gpus else "float32")
