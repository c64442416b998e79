"""What the run was: which worker had which role when, which colours, and the line of conditions under every figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from labkit.errors import LabError
from labkit.figures import style
from labkit.figures.series import origin_ns, sides, text_of
from labkit.measure.digest import Digest, digest
from labkit.measure.records import UNRECORDED, Records, Window
from labkit.measure.simulated import is_simulated
from labkit.measure.validity import grouped, marks_of
from labkit.spec.topology import Role, Topology
from labkit.spec.workload import talk_text

_MOST_WARNINGS: Final = 3


@dataclass(frozen=True, slots=True)
class Epoch:
    """One split: from ``start_ns`` until the next one's. ``gpus`` are the devices of each worker, where known."""

    epoch: int
    start_ns: int
    end_ns: int
    topology: str
    roles: Mapping[str, str]
    gpus: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """A run as the figures see it. ``warnings``: what a reader must know before believing it, a sentence each."""

    records: Digest
    zero_ns: int
    end_ns: int
    epochs: tuple[Epoch, ...]
    sides: Mapping[str, tuple[Window, ...]]
    colors: Mapping[str, str]
    caption: str
    warnings: tuple[str, ...] = ()

    @property
    def end_s(self) -> float:
        """Length of the run in seconds, at least a moment."""
        return max((self.end_ns - self.zero_ns) / 1e9, 1e-3)

    def epoch_of(self, window: Window) -> Epoch | None:
        """The split that a window started in."""
        return next((epoch for epoch in self.epochs if epoch.epoch == window.epoch), None)

    def worker_of_gpu(self, source: str, epoch: Epoch) -> str | None:
        """The worker that holds ``gpu3`` in this epoch; several sharing it are joined with ``+``."""
        number = int(source.removeprefix("gpu")) if source.removeprefix("gpu").isdigit() else -1
        held = [worker for worker, gpus in epoch.gpus.items() if number in gpus]
        return "+".join(held) or None


def context(records: Records | Digest, manifest: Mapping[str, Any]) -> Context:
    """Read what the figures need from a manifest; whatever is missing there is derived from the windows, or left out."""
    records = records if isinstance(records, Digest) else digest(records)
    zero = origin_ns(records)
    ends = [window.end_ns for window in records.windows]
    ends += [int(value) for value in records.requests["end_ns"].drop_null().to_pylist()[-1:]]
    end = max([*ends, zero])
    by_side = sides(records.windows)
    colors = style.topology_colors((window.side, window.topology) for window in records.windows)
    epochs, caption = _epochs(records.windows, manifest, end), conditions(records.windows, manifest)
    return Context(records, zero, end, epochs, by_side, colors, caption, warnings(records, manifest))


def warnings(records: Digest, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Warnings among the marks of all windows, each kind once with its windows: a simulation, then the most common."""
    named = [(f"{window.side} #{window.repeat + 1}", marks_of(records, window, manifest)) for window in records.windows]
    found = [(mark, names) for mark, names in grouped(named).values() if mark.severity == "warning"]
    found.sort(key=lambda item: (item[0].kind != "simulated", -len(item[1])))
    told = [f"{'all' if len(names) == len(named) > 1 else ', '.join(names)}: {mark.text}" for mark, names in found]
    more = len(told) - _MOST_WARNINGS
    return (*told[:_MOST_WARNINGS], *([f"{more} more: `labkit show` lists them"] if more > 0 else []))


def _epochs(windows: tuple[Window, ...], manifest: Mapping[str, Any], end_ns: int) -> tuple[Epoch, ...]:
    listed: list[dict[str, Any]] = sorted(manifest.get("epochs") or [], key=lambda item: item["start_ns"])
    if not listed:
        firsts = {window.epoch: window for window in sorted(windows, key=lambda window: -window.start_ns)}
        listed = [
            {"epoch": epoch, "topology": window.topology, "start_ns": window.start_ns, "roles": declared_roles(window.topology)}
            for epoch, window in sorted(firsts.items(), key=lambda item: item[1].start_ns)
        ]
    ends = [item["start_ns"] for item in listed[1:]] + [max(end_ns, item["start_ns"]) + 1 for item in listed[-1:]]
    return tuple(
        Epoch(
            epoch=item["epoch"],
            start_ns=item["start_ns"],
            end_ns=until,
            topology=str(item.get("topology", "")),
            roles=dict(item.get("roles") or {}),
            gpus={worker: tuple(gpus) for worker, gpus in (item.get("gpus") or {}).items()},
        )
        for item, until in zip(listed, ends, strict=True)
    )


def declared_roles(topology: str) -> dict[str, str]:
    """Worker → role as the topology's text lists them; empty for a topology that the lab does not know."""
    try:
        return {f"w{i}": role.value for i, (role, _) in enumerate(Topology(topology).workers)}
    except LabError:
        return {}


def role_noun(role: str | None) -> str:
    """``A`` as ``aggregated``; an unknown role says so."""
    return Role(role).noun if role in {member.value for member in Role} else "role unknown"


def role_color(role: str | None) -> str:
    """The hue of a role."""
    return style.ROLE.get(role or "", style.UNKNOWN)


def conditions(windows: tuple[Window, ...], manifest: Mapping[str, Any]) -> str:
    """Model, device, workload and run id in one line; what the manifest does not say is left out."""
    model = manifest.get("model")
    name = text_of(model, "name", "label", "id", "path")
    if name and isinstance(model, Mapping) and any(model.get(key) for key in ("dummy_weights", "dummy", "is_dummy")):
        name += " (dummy weights)"
    hardware = manifest.get("hardware")
    device = text_of(manifest.get("device"), "name") or text_of(hardware, "device", "summary", "name", "cpu")
    loads = list(dict.fromkeys(workload_text(window.workload) for window in windows))
    load = loads[0] if len(loads) == 1 else f"{len(loads)} workloads" if loads else ""
    run = text_of(manifest.get("id") or manifest.get("run"), "id")
    simulated = ("simulated,", "not measured") if is_simulated(manifest) else ("", "")  # ``is_of_simulation`` looks for it
    shown = (simulated, ("model", name), ("device", device), ("workload", load), ("run", run))
    return "  ·  ".join(f"{label} {text}" for label, text in shown if text)


def is_of_simulation(caption: str) -> bool:
    """Whether a figure with this line of conditions shows simulated workers."""
    return caption.startswith("simulated, not measured")


def workload_text(workload: Mapping[str, Any]) -> str:
    """A workload without its seed: ``ISL 512, OSL 32, 1.5 req/s poisson``."""
    workload = {name: value for name, value in workload.items() if value != UNRECORDED}
    parts = [f"trace {PurePath(workload['trace']).name}"] if workload.get("trace") else []
    parts += [f"{key.upper()} {workload[key]}" for key in ("isl", "osl") if workload.get(key) not in (None, "trace")]
    talk = talk_text(workload)
    unit = "conversations/s" if talk else "req/s"
    parts += [talk] if talk else []
    if workload.get("rate"):
        parts.append(f"{workload['rate']:g} {unit} {workload.get('arrivals', 'poisson')}")
    elif workload.get("concurrency"):
        parts.append(f"{workload['concurrency']} concurrent{' conversations' if talk else ''}")
    elif ":" in str(workload.get("arrivals")):
        parts.append(f"{workload['arrivals']} {unit}")
    return ", ".join(parts)
