"""What a manifest says of the split that served while a window was measured: a run changes splits and options as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def epoch_of(manifest: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """The epoch of this number (``Window.epoch``); empty where the manifest does not know it."""
    return next((epoch for epoch in reversed(manifest.get("epochs") or ()) if epoch.get("epoch") == number), {})


def options_of(manifest: Mapping[str, Any], number: int) -> Mapping[str, Any] | None:
    """What the workers of an epoch were started with; what the run was launched with where that is not said."""
    options = epoch_of(manifest, number).get("options")
    options = manifest.get("options") if options is None else options
    return options if isinstance(options, Mapping) else None
