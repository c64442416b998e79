"""What differs between several runs, and what is the same in all: facts of their manifests and windows, set side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from labkit.errors import LabError
from labkit.measure.epochs import options_of
from labkit.measure.records import UNRECORDED, Window
from labkit.spec import Workload

#: Parts of a manifest that say under which conditions it was measured. Paths, identities and instants are no conditions.
_PARTS: Final = ("model", "served", "engine", "engines", "slo")
_NO_CONDITIONS: Final = frozenset({"path", "name", "source"})
_HARDWARE: Final = ("summary", "device", "driver")
_VERSIONS: Final = ("labkit", "python", "platform")
_SOURCE: Final = ("tool", "version")

Facts = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Differences:
    """Facts of several columns, by name (``workload.rate``), in a fixed order.

    Attributes:
        differs: per fact its text in each column; ``None`` where a column does not say.
        same: facts that every column states alike.
        partly: facts that some columns do not state, and that the others state alike.
    """

    differs: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    same: Facts = field(default_factory=dict)
    partly: Facts = field(default_factory=dict)


def differences(columns: Sequence[Facts]) -> Differences:
    """Sort the facts of several columns out."""
    differs: dict[str, tuple[str | None, ...]] = {}
    same: dict[str, str] = {}
    partly: dict[str, str] = {}
    for name in dict.fromkeys(name for column in columns for name in column):
        values = tuple(column.get(name) for column in columns)
        known = {value for value in values if value is not None}
        if len(known) > 1:
            differs[name] = values
        else:
            (same if None not in values else partly)[name] = known.pop()
    return Differences(differs, same, partly)


def facts_of(manifest: Mapping[str, Any], windows: Sequence[Window]) -> Facts:
    """What a side of a run says of its conditions, as texts.

    A workload is completed with the defaults of the fields that it lacks, so that a run from before a field existed says the same
    as one from after. What an imported run does not know is left out.
    """
    found = {**dict(_split(windows)), **_options(manifest, windows)}
    for part in _PARTS:
        found |= dict(_flat(part, manifest.get(part)))
    if engines := engines_of(manifest, windows):
        found["engine"] = engines
    for part, names in (("hardware", _HARDWARE), ("versions", _VERSIONS), ("source", _SOURCE)):
        stated = manifest.get(part)
        stated = stated if isinstance(stated, Mapping) else {}
        found |= {f"{part}.{name}": str(stated[name]) for name in names if stated.get(name)}
    git = manifest.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        found["git"] = f"{str(git['commit'])[:12]}{' with changes' if git.get('dirty') else ''}"
    return found


def engines_of(manifest: Mapping[str, Any], windows: Sequence[Window]) -> str:
    """Those that served these windows, where the run's epochs tell: a run may compare several."""
    served = {epoch.get("epoch"): epoch.get("engine") for epoch in manifest.get("epochs") or ()}
    return " / ".join(dict.fromkeys(str(served[window.epoch]) for window in windows if served.get(window.epoch)))


def complete_workload(workload: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded workload with the default of every field that it lacks: it was recorded before the field existed."""
    try:
        return Workload.from_dict(dict(workload)).to_dict()
    except (LabError, TypeError, ValueError, AttributeError):  # imported, or of another version: as it is
        return {**{one.name: one.default for one in fields(Workload)}, **workload}


def _split(windows: Sequence[Window]) -> Iterator[tuple[str, str]]:
    def each(texts: Sequence[str]) -> str:
        return " / ".join(dict.fromkeys(texts))

    yield "topology", each([window.topology for window in windows])
    held = [
        f"{window.accelerators:g} {window.accelerator}{'s' * (window.accelerators != 1)}"
        for window in windows
        if window.accelerators
    ]
    if held:
        yield "accelerators", each(held)
    works = [complete_workload(window.workload) for window in windows]
    for name in dict.fromkeys(name for work in works for name in work):
        values = [fact_text(work.get(name)) for work in works if work.get(name) != UNRECORDED]
        if values:
            yield f"workload.{name}", each(values)


def _options(manifest: Mapping[str, Any], windows: Sequence[Window]) -> dict[str, str]:
    """What the workers of the windows were started with: a run may have changed it on the way."""
    each = [dict(_flat("options", options_of(manifest, window.epoch))) for window in windows]
    each = each or [dict(_flat("options", manifest.get("options")))]
    names = dict.fromkeys(name for one in each for name in one)
    return {name: " / ".join(dict.fromkeys(one[name] for one in each if name in one)) for name in names}


def _flat(part: str, value: Any) -> Iterator[tuple[str, str]]:
    """``model``: what it is called, then ``model.dtype`` and the like."""
    if isinstance(value, Mapping):
        called = value.get("name") or value.get("source")
        if called:
            yield part, str(called)
        yield from ((f"{part}.{name}", fact_text(item)) for name, item in value.items() if name not in _NO_CONDITIONS)
    elif value:
        yield part, str(value)


def fact_text(value: Any) -> str:
    """A value as facts spell it."""
    if value is None or value in ((), [], {}, ""):
        return "none"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={item}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
