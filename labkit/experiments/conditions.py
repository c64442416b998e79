"""The conditions under which a result holds: a verdict without them is a rumour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from labkit.measure.epochs import options_of
from labkit.measure.records import UNRECORDED, Window
from labkit.measure.validity import dummy_weights
from labkit.spec.workload import talk_text


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds for both sides; an empty text is unknown.

    Attributes:
        model: its name. dummy_weights: whether its weights are random.
        device: what the accelerators are.
        hardware: how many each side held, such as ``2 cores each``.
        workload: without its seed.
        versions: ``vllm 0.25, labkit 0.1.0``.
        settings: of the workers: what was set by hand, such as ``max_num_batched_tokens 256``, or that nothing was.
        warmup: what was found to be warm-up and left out, on both sides alike.
        turns: how engines took turns, where the sides have different ones, and how requests came to them.
        ended: why there are so many repeats and no more, where that was decided while they ran.
    """

    model: str = ""
    dummy_weights: bool = False
    device: str = ""
    hardware: str = ""
    workload: str = ""
    versions: str = ""
    settings: str = ""
    warmup: str = ""
    turns: str = ""
    ended: str = ""

    def __str__(self) -> str:
        model = f"model {self.model or 'unknown'}{' (dummy weights)' if self.dummy_weights else ''}"
        parts = (model, self.device or "device unknown", self.versions, self.settings, self.turns, self.warmup, self.ended)
        return "; ".join(part for part in parts if part)


#: Options that are told otherwise; a timing profile is what a simulation follows, and its folder no setting.
_NO_SETTINGS: Final = ("extra_args", "extra_env", "timing")
#: Windows, and the manifest of their run.
Measured = tuple[Sequence[Window], Mapping[str, Any]]


def conditions(*measured: Measured) -> Conditions:
    """Gather them from windows and the manifests of their runs; what differs is named each."""
    windows = [window for held, _ in measured for window in held]
    manifests = [manifest for _, manifest in measured]
    held = sorted({(window.accelerators, window.accelerator) for window in windows})
    amounts = [f"{count:g} {unit}{'s' * (count != 1)}" if count else "unknown accelerators" for count, unit in held]
    return Conditions(
        model=_each(_text(manifest.get("model"), "name", "source", "label") for manifest in manifests),
        dummy_weights=any(dummy_weights(manifest) for manifest in manifests),
        device=_each(_device(manifest) for manifest in manifests),
        hardware=f"{amounts[0]} each" if len(amounts) == 1 else " against ".join(amounts),
        workload=_each(workload_text(window.workload) for window in windows),
        versions=_each(_versions(manifest) for manifest in manifests),
        settings=_each(_settings(options) for held, manifest in measured for options in _options(held, manifest)),
        warmup=_left_out(windows),
        turns=_each(_turns(manifest) for manifest in manifests),
        ended=_each(_text(manifest.get("repeats"), "text") for manifest in manifests),
    )


def workload_text(workload: Mapping[str, Any]) -> str:
    """``1.5 req/s Poisson, ISL 512, OSL 32``."""
    workload = {name: value for name, value in workload.items() if value != UNRECORDED}
    rate, concurrency = workload.get("rate"), workload.get("concurrency")
    arrivals = {"poisson": "Poisson", "gamma": f"gamma (burstiness {workload.get('burstiness', 1):g})"}
    arrival = str(workload.get("arrivals", ""))
    talk = talk_text(workload)
    unit, plural = ("conversations/s", "conversations") if talk else ("req/s", "requests")
    if rate is not None:
        load = f"{rate:g} {unit} {arrivals.get(arrival, arrival)}".strip()
        load += f", at most {concurrency} at once" if concurrency is not None else ""
    elif concurrency is not None:
        load = f"{concurrency} concurrent {plural}"
    else:
        load = "requests at its times" if arrival == "trace" else f"{arrival} {unit}" if arrival else "load unknown"
    trace = [f"trace {PurePath(workload['trace']).name}"] if workload.get("trace") else []
    lengths = [f"{key.upper()} {workload[key]}" for key in ("isl", "osl") if workload.get(key) not in (None, "trace")]
    return ", ".join([*trace, load, *([talk] if talk else []), *lengths])


def _left_out(windows: Sequence[Window]) -> str:
    counts = sorted({window.first_index for window in windows})
    if not any(counts):
        return ""
    requests = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"warm-up found by MSER-5: the first {requests} requests of a repeat left out on both sides"


def _device(manifest: Mapping[str, Any]) -> str:
    direct = _text(manifest.get("device"), "name")
    return direct or _text(manifest.get("hardware"), "device", "summary", "name", "cpu")


def _options(windows: Sequence[Window], manifest: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """Of the workers of each window; those that the run was launched with where there is none."""
    launched = manifest.get("options")
    known = [options_of(manifest, window.epoch) for window in windows]
    return known or [launched if isinstance(launched, Mapping) else None]


def _settings(options: Mapping[str, Any] | None) -> str:
    """An aggregated side at the engine's own chunk size may not be at its best: a reader must know."""
    if options is None:
        return ""
    chosen = [f"{name} {value}" for name, value in options.items() if value and name not in _NO_SETTINGS]
    chosen += [" ".join(map(str, options.get("extra_args") or ()))] if options.get("extra_args") else []
    return ", ".join(chosen) or "workers at the engine's defaults (chunk size not tuned)"


def _turns(manifest: Mapping[str, Any]) -> str:
    """A server without TCP_NODELAY delays first tokens on connections that are kept, and would be held against one with it."""
    told = _text(manifest.get("turns"), "text")
    if not told:
        return ""
    late = []
    for engine, transport in (manifest.get("transports") or {}).items():
        late_s = transport.get("late_s")
        late.append(f"{engine} {'not known' if late_s is None else f'{late_s * 1e3:.0f} ms'}")
    return f"{told}; each request on a connection of its own, on which the transport delays first tokens by: {', '.join(late)}"


def _versions(manifest: Mapping[str, Any]) -> str:
    """Of what served; Dynamo's only where it did. Of an imported run the tool that measured it: it says no more."""
    source = manifest.get("source")
    if manifest.get("kind") == "import" and isinstance(source, Mapping):
        return f"imported from {' '.join(str(source[key]) for key in ('tool', 'version') if source.get(key))}"
    versions = manifest.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    engines = versions.get("engines") or manifest.get("engines") or {}
    served = {manifest.get("engine"), *(epoch.get("engine") for epoch in manifest.get("epochs") or ())} - {None}
    if served == {"mocker"} and isinstance(engines, Mapping):  # of what is installed beside it none served
        engines = {name: version for name, version in engines.items() if name == "ai-dynamo"}
    named_so = isinstance(engines, Mapping) and str(engines.get("name", "")).startswith("dynamo")
    dynamo = bool(served & {"dynamo", "mocker"}) or named_so
    apart = {"ai-dynamo": dynamo, "vllm-router": "vllm" in served or not dynamo}
    named: dict[str, str] = {}
    for name, version in engines.items() if isinstance(engines, Mapping) else ():
        if isinstance(version, str) and name not in ("name", "python") and apart.get(name, True):
            named[name] = version
    if isinstance(versions.get("labkit"), str):
        named["labkit"] = versions["labkit"]
    return ", ".join(f"{name} {version}" for name, version in named.items())


def _text(value: Any, *keys: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return next((str(value[key]) for key in keys if value.get(key)), "")
    return ""


def _each(texts: Any) -> str:
    return " and ".join(dict.fromkeys(text for text in texts if text))
