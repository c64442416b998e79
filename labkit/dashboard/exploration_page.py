"""The page of one exploration: what it was, its charts, its pins and what happened, from what is live or from the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from labkit.dashboard.chart_data import ChartData
from labkit.dashboard.page import save_page
from labkit.experiments.conclude import slo_of
from labkit.experiments.conditions import conditions, workload_text
from labkit.experiments.pins import pins_of
from labkit.live.pin import Pin
from labkit.live.replay import samples_of
from labkit.spec import Slo
from labkit.store.run import Run

FILE: Final = "exploration.html"


def save_exploration(
    run: Run, *, history: ChartData | None = None, pins: Sequence[Pin] | None = None, folder: Path | None = None
) -> Path:
    """Write one HTML file that replays an exploration and needs nothing else.

    Args:
        run: the exploration's, open or finished.
        history: what the charts have shown; made from the records by default.
        pins: those to show; all of the run's in the store by default.
        folder: for the file; the run's own by default.

    Raises:
        StoreError: the run cannot be read, or the file not be written.
    """
    slo, accelerator = slo_of(run), _accelerator(run)
    pins = pins_of(run) if pins is None else pins
    if history is None:
        history = ChartData()
        for sample in samples_of(run.records(), run.windows, run.manifest, slo=slo):
            history.append(sample)
    path = (folder or run.path) / FILE
    about = _about(run, history, pins)
    return save_page(
        history, path, title=f"Exploration of {_model(run)} on {about['hardware']}", subtitle=f"run {run.id}",
        about=about, slo=slo, accelerator=accelerator, pins=pins,
    )  # fmt: skip


def _about(run: Run, history: ChartData, pins: Sequence[Pin]) -> dict[str, str]:
    """What a reader must know before believing any of it, each under its name."""
    manifest = run.manifest
    known = conditions(([], manifest))
    lasted = float(history.column("t")[-1]) if len(history) else 0.0
    splits = list(dict.fromkeys(split for _, split in history.splits if split)) or list(
        map(str, manifest.get("topologies") or ())
    )
    proofs = [epoch.get("verified") for epoch in manifest.get("epochs") or ()]
    proven = " (each verified by the workers' counters)" if proofs and all(proofs) else " (not all verified by counters)"
    workload = manifest.get("workload")
    told = {
        "model": f"{_model(run)}{' (dummy weights: times are real, the text is not)' if known.dummy_weights else ''}",
        "hardware": known.device or "unknown hardware",
        "versions": known.versions,
        "workers": known.settings,
        "splits": ", ".join(splits) + proven,
        "first load": workload_text(workload) if workload else "",
        "SLO": f"{slo_of(run) or 'none'}{_others(slo_of(run), pins)}",
        "begun": f"{manifest.get('started', 'unknown')}, shown for {lasted:,.0f} s",
    }
    return {name: text for name, text in told.items() if text}


def _others(slo: Slo | None, pins: Sequence[Pin]) -> str:
    """Pins may have been made under other SLOs."""
    known = {pin.slo for pin in pins}
    if known <= {"" if slo is None else str(slo)}:
        return ""
    return " (of each pin: see their table)" if len(known) > 1 else f" (of the pins: {known.pop() or 'none'})"


def _model(run: Run) -> str:
    model: Any = run.manifest.get("model")
    return str(model.get("name", "an unknown model")) if isinstance(model, dict) else str(model or "an unknown model")


def _accelerator(run: Run) -> str:
    if run.windows:
        return run.windows[0].accelerator
    hardware = run.manifest.get("hardware") or {}
    return "GPU" if hardware.get("gpus") else "core" if hardware.get("cores") else "accelerator"
