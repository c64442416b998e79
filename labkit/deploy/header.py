"""The comment that a written deployment begins with: what was measured, where, how certain, and what is assumed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

from labkit.deploy.found import FoundSplit
from labkit.deploy.scaling import Scaled
from labkit.live.pin import Estimate

_WIDTH: Final = 118
#: name, factor to the unit shown, unit
_FIGURES: Final = {
    "slo_attainment": ("requests that met the SLO", 100.0, "%"),
    "goodput_hz": ("goodput", 1.0, "req/s"),
    "output_tok_s_per_accelerator": ("output per accelerator", 1.0, "tok/s"),
    "ttft_p50_s": ("TTFT p50", 1e3, "ms"),
    "ttft_p99_s": ("TTFT p99", 1e3, "ms"),
    "tpot_p50_s": ("TPOT p50", 1e3, "ms"),
    "tpot_p99_s": ("TPOT p99", 1e3, "ms"),
    "itl_p50_s": ("ITL p50", 1e3, "ms"),
    "itl_p99_s": ("ITL p99", 1e3, "ms"),
}


def header(
    what: str, found: FoundSplit, size: Scaled, *, assumed: Sequence[str], warnings: Sequence[str], use: Sequence[str]
) -> str:
    """Comment lines, each with ``# `` in front.

    Args:
        what: what the file is.
        found, size: the split, as measured and as deployed.
        assumed: what was not measured and is taken to hold.
        warnings: what a reader must know.
        use: how to use it.
    """
    figures = [
        f"  {name} {_shown(found.figures[key], scale, unit)}"
        for key, (name, scale, unit) in _FIGURES.items()
        if key in found.figures
    ]
    measured = (
        f"Measured ({found.requests} requests, 95 % intervals):" if figures else "Measured: nothing is known of this split."
    )
    lines = [
        what,
        "",
        f"Run: {found.run}; {found.origin}",
        f"Split: {size.topology}; {size.text}",
        f"Model: {found.model}{' (measured with random weights)' if found.dummy else ''}",
        f"Workload: {found.workload or 'unknown'}",
        f"SLO: {found.slo or 'none'}",
        f"Measured on: {'GPUs' if found.on_gpu else 'CPU cores'}: {found.device or 'unknown'}",
        f"Versions: engine {found.engine}{f', {found.versions}' if found.versions else ''}",
        *([f"Served: {found.capacity}"] if found.capacity else []),
        measured,
        *figures,
        *(f"Assumed: {text}" for text in assumed),
        *(f"WARNING: {text}" for text in warnings),
        "",
        *use,
    ]
    return "\n".join(_comment(lines)) + "\n"


def _comment(lines: Iterable[str]) -> Iterable[str]:
    """Every line behind ``#``, whatever a label or a workload says."""
    for line in lines:
        indent = "  " if line.startswith("  ") else ""
        text = " ".join(line.split())
        wrapped = textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent="    ", break_on_hyphens=False) or [""]
        yield from (f"# {part}".rstrip() for part in wrapped)


def _shown(estimate: Estimate, scale: float, unit: str) -> str:
    low, high = estimate.low, estimate.high
    ends = "" if low is None or high is None else f" [{_short(low * scale)}, {_short(high * scale)}]"
    return f"{_short(estimate.value * scale)}{ends} {unit}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
