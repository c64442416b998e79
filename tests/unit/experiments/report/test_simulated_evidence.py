"""Runs on simulated workers stand beside a claim, and decide none."""

from __future__ import annotations

from types import SimpleNamespace

from labkit.experiments.report.claims import Evidence
from labkit.experiments.report.evidence import Material, _measured_first


def test_what_was_simulated_stands_aside_and_cannot_tell() -> None:
    measured, simulated = (Evidence(True, "1P1D", "numbers", (run,)) for run in ("m", "s"))
    runs = (SimpleNamespace(id="m", manifest={}), SimpleNamespace(id="s", manifest={"simulated": {"gpu": "h100_sxm"}}))
    proper, aside = _measured_first(Material(runs, ()), ([measured, simulated], []))  # type: ignore[arg-type]
    assert proper == [measured]
    (other,) = aside
    assert (other.holds, other.where) == (None, "simulated, not measured: 1P1D")
