"""What the user's own runs measured, in the terms of a projection: to fit it to them, and to judge it by them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from labkit.errors import LabError
from labkit.experiments.points import estimates
from labkit.experiments.sides import windows_of_side
from labkit.measure.digest import Digest
from labkit.measure.epochs import options_of
from labkit.measure.records import UNRECORDED, Window
from labkit.measure.simulated import is_simulated
from labkit.spec import Topology
from labkit.store.run import Run
from labkit.whatif.at_load import STEP_TOKENS
from labkit.whatif.workers import Setting

#: What NVML calls a GPU → what AIConfigurator does. The first that matches.
SYSTEMS: Final = (
    (r"GB300", "gb300"),
    (r"GB200", "gb200"),
    (r"B300", "b300_sxm"),
    (r"B200", "b200_sxm"),
    (r"H200", "h200_sxm"),
    (r"H100.*PCIe", "h100_pcie"),
    (r"H100", "h100_sxm"),
    (r"A100.*PCI", "a100_pcie"),
    (r"A100", "a100_sxm"),
    (r"RTX PRO 6000.*Server", "rtx_pro_6000_server"),
    (r"L40S", "l40s"),
    (r"\bL4\b", "l4"),
    (r"\bA30\b", "a30"),
)
#: Of every worker that the lab launches, Dynamo's too.
ENGINE: Final = "vllm"
#: Requests of a closed loop, in times those in flight: then half or more neither began with the first nor ended with the last.
_LEAST_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One measured side of one run.

    Attributes:
        run, side: where it is.
        setting: model, GPU, engine and lengths.
        topology: that served.
        concurrency: requests in flight of a closed loop; or
        rate_hz: requests sent a second.
        step_tokens: the most prompt tokens of a step.
        ttft_s, tpot_s: medians, measured.
        request_hz: completed by the whole deployment; ``None`` in an open loop, whose rate was not the deployment's doing.
    """

    run: str
    side: str
    setting: Setting
    topology: Topology
    concurrency: float | None
    rate_hz: float | None
    step_tokens: int
    ttft_s: float
    tpot_s: float
    request_hz: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "topology": str(self.topology)}


def system_of(gpu: str) -> str | None:
    """AIConfigurator's name of a GPU; ``None`` where it has none."""
    return next((system for pattern, system in SYSTEMS if re.search(pattern, gpu)), None)


def observations_of(runs: Sequence[Run], left_out: list[str]) -> list[Observation]:
    """Every side and trial of runs that a projection can be held against.

    Args:
        runs: of any kind; those without measurements give none.
        left_out: gets a line for each kind of side that cannot be used, with the reason.
    """
    found: list[Observation] = []
    for run in runs:
        try:
            for side in dict.fromkeys(window.side for window in run.windows):
                one = _observe(run, side)
                if isinstance(one, str):
                    left_out.append(f"{side} of {run.id}: {one}")
                else:
                    found.append(one)
        except LabError as error:
            left_out.append(f"run {run.id}: {error.what}")
    return found


def _observe(run: Run, side: str) -> Observation | str:
    """The observation, or why there is none."""
    records = run.digest()
    windows = windows_of_side(records, side)
    unusable = next(_reasons(windows, run.manifest, records), None)
    if unusable is not None:
        return unusable
    first = windows[0]
    figures = estimates([(records, window) for window in windows], None, resamples=2)
    values = [figures[name].value if name in figures else None for name in ("ttft_p50_s", "tpot_p50_s", "output_tok_s")]
    ttft_s, tpot_s, tok_s = values
    if ttft_s is None or tpot_s is None:
        return "no request of it ended"
    load, osl = first.workload, int(first.workload["osl"])
    closed = load.get("rate") is None
    return Observation(
        run=run.id,
        side=side,
        setting=Setting(
            model=_model(run.manifest), system=_system(run.manifest) or "", engine=ENGINE, isl=int(load["isl"]), osl=osl
        ),
        topology=Topology(first.topology),
        concurrency=float(load["concurrency"]) if closed else None,
        rate_hz=None if closed else float(load["rate"]),
        step_tokens=_step_tokens(run.manifest, first),
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        request_hz=tok_s / osl if closed and tok_s else None,
    )


def _reasons(windows: Sequence[Window], manifest: Mapping[str, Any], records: Digest) -> Iterator[str]:
    """Why a side cannot be held against a projection."""
    first = windows[0]
    if is_simulated(manifest):
        yield "simulated, not measured"
    if any(window.accelerator == "core" for window in windows):
        yield "measured on a CPU, which AIConfigurator has no timings of"
    elif _system(manifest) is None:
        yield f"measured on {_gpu(manifest) or 'an unknown GPU'}, which AIConfigurator has no timings of"
    if not _model(manifest):
        yield "its model is not known"
    if any(window.stopped for window in windows):
        yield "it was stopped before its time"
    try:
        Topology(first.topology)
    except LabError:
        yield "its split is not known"
    for name in ("isl", "osl"):
        if not str(first.workload.get(name)).isdigit():
            yield f"its {name.upper()} is {first.workload.get(name)}: one length is needed"
    if str(first.workload.get("osl")) == "1":
        yield "its OSL is 1: answers of one token have no TPOT"
    load = first.workload
    if not isinstance(load.get("rate"), int | float) and not isinstance(load.get("concurrency"), int | float):
        yield "its load is neither a rate nor a number of requests in flight"
    if len({_step_tokens(manifest, window) for window in windows}) > 1:
        yield "its repeats had different chunk sizes"
    yield from _unsteady(windows, records)


def _unsteady(windows: Sequence[Window], records: Digest) -> Iterator[str]:
    """A projection knows single requests, each prompt computed whole, in a load that goes on as it is."""
    if any(window.workload.get("turns") not in (None, UNRECORDED) for window in windows):
        yield "its requests are turns of conversations, whose prompts grow and repeat what went before"
    if any(window.workload.get("prefix_groups") not in (None, 0, UNRECORDED) for window in windows):
        yield "its prompts share prefixes, which a cache need not compute again"
    for window in windows:
        in_flight = window.workload.get("concurrency")
        if window.workload.get("rate") is None and isinstance(in_flight, int | float):
            sent = np.count_nonzero(records.requests["measurement"].to_numpy() == window.measurement)
            if sent < _LEAST_ROUNDS * in_flight:
                yield f"{sent} requests, {in_flight:g} in flight: fewer than {_LEAST_ROUNDS} rounds are a wave and no steady load"


def _step_tokens(manifest: Mapping[str, Any], window: Window) -> int:
    """Of the workers that served it: a change may have given them another chunk size than the launch did."""
    return int((options_of(manifest, window.epoch) or {}).get("max_num_batched_tokens") or STEP_TOKENS)


def _model(manifest: Mapping[str, Any]) -> str:
    model = manifest.get("model")
    found = (model.get("source") or model.get("name")) if isinstance(model, Mapping) else model
    return str(found or "")


def _gpu(manifest: Mapping[str, Any]) -> str:
    hardware = manifest.get("hardware")
    gpus = hardware.get("gpus") if isinstance(hardware, Mapping) else None
    return str(gpus[0].get("name", "")) if gpus else ""


def _system(manifest: Mapping[str, Any]) -> str | None:
    return system_of(_gpu(manifest))
