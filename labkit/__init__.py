"""labkit: an interactive performance lab for LLM serving."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.lab import Lab, close_labs
    from labkit.serve.engines.base import EngineOptions
    from labkit.spec import Model, Slo, Topology, Workload

__version__ = "0.1.0"
__all__ = ["EngineOptions", "Lab", "Model", "Slo", "Topology", "Workload", "__version__", "close_labs"]

_HOMES = {
    "EngineOptions": "labkit.serve.engines.base",
    "Lab": "labkit.lab",
    "Model": "labkit.spec",
    "Slo": "labkit.spec",
    "Topology": "labkit.spec",
    "Workload": "labkit.spec",
    "close_labs": "labkit.lab",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: the command line and the supervisors start without it."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")
