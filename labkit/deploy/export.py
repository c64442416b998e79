"""From a run to a folder of files that start its split elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from labkit.deploy.dynamo_shell import dynamo_shell
from labkit.deploy.found import found_split
from labkit.deploy.kubernetes import dynamo_k8s
from labkit.deploy.scaling import Scaled, scaled
from labkit.deploy.settings import Settings, Written
from labkit.deploy.vllm_shell import vllm_shell
from labkit.errors import SpecError, StoreError
from labkit.spec import Topology
from labkit.store.run import Run, open_run, results_folder

#: What a split can be written as.
TARGETS: Final[Mapping[str, Callable[..., Written]]] = {
    "dynamo-k8s": dynamo_k8s,
    "dynamo-shell": dynamo_shell,
    "vllm-shell": vllm_shell,
}
#: What a target has no place for.
_NOT_OF: Final[Mapping[str, frozenset[str]]] = {
    "dynamo-k8s": frozenset({"hosts", "gpus_per_host", "port", "etcd"}),
    "dynamo-shell": frozenset({"image", "name", "hf_secret"}),
    "vllm-shell": frozenset({"image", "name", "hf_secret", "etcd"}),
}
_EXECUTABLE: Final = 0o755


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written; as text, for people.

    Attributes:
        target: a name of ``TARGETS``.
        topology: what it deploys.
        text: how large it is, and why.
        paths: the files.
        warnings: what must be known before they are used; the files say the same.
    """

    target: str
    topology: Topology
    text: str
    paths: tuple[Path, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.topology} for {self.target}: {self.text}", *(f"  {path}" for path in self.paths)]
        return "\n".join([*lines, *(f"! {warning}" for warning in self.warnings)])


def export_deployment(
    run: Run | str | os.PathLike[str],
    to: str,
    *,
    side: str | None = None,
    pin: str | None = None,
    trial: int | None = None,
    request_rate: float | None = None,
    replicas: int | None = None,
    output: Path | str | None = None,
    results: Path | str | None = None,
    **place: Any,
) -> Exported:
    """Write the files that start a run's split elsewhere.

    Args:
        run: open, or by id, the beginning of one, path, or ``latest``.
        to: a name of ``TARGETS``.
        side, pin, trial: which split; see ``found_split`` for what is taken without a choice.
        request_rate: requests per second that it is to serve: its workers are scaled to that.
        replicas: copies of the split, in place of a rate.
        output: folder for the files; ``deployment/<to>`` in the run's folder by default.
        results: where runs are looked for by id.
        place: attributes of ``Settings``: ``model``, ``hosts``, ``etcd``, ``gpus_per_host``, ``port``, ``image``, ….

    Raises:
        LabError: no such run, target or split; a number or a name that cannot be meant; a folder that is not empty, or cannot be
            written. Nothing is written then.
    """
    if to not in TARGETS:
        raise SpecError(f"unknown target {to!r}", remedy=f"use one of {', '.join(TARGETS)}")
    settings = _settings(place)
    if alien := sorted(name for name in _NOT_OF[to] if place.get(name) is not None):
        meant = " and ".join(f"--{name.replace('_', '-')}" for name in alien)
        others = ", ".join(target for target in TARGETS if alien[0] not in _NOT_OF[target])
        raise SpecError(f"{to} has no place for {meant}", remedy=f"leave it out; it is for {others}")
    opened = run if isinstance(run, Run) else open_run(run, results_folder(results))
    found = found_split(opened, side=side, pin=pin, trial=trial)
    size: Scaled = scaled(found, request_rate=request_rate, replicas=replicas, to_gpu=to != "vllm-shell" or found.on_gpu)
    folder = Path(output) if output is not None else opened.folder("deployment", to)
    written = TARGETS[to](found, size, settings)
    return Exported(to, size.topology, size.text, _save(written, folder), written.warnings)


def _settings(given: Mapping[str, Any]) -> Settings:
    known = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(known) - set(Settings.__dataclass_fields__)):
        raise SpecError(f"unknown setting {unknown[0]!r}", remedy=f"use {', '.join(Settings.__dataclass_fields__)}")
    if isinstance(known.get("hosts"), str):
        known["hosts"] = known["hosts"].split(",")
    if "hosts" in known:
        known["hosts"] = tuple(host.strip() for host in known["hosts"])
    return Settings(**known)


def _save(written: Written, folder: Path) -> tuple[Path, ...]:
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(f"{folder} is not an empty folder", remedy="name another with --output, or remove what is there")
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in written.files.items():
            path = folder / name
            path.write_text(text, encoding="utf-8")
            if path.suffix == ".sh":
                path.chmod(_EXECUTABLE)
    except OSError as error:
        raise StoreError(
            f"cannot write {folder}: {error.strerror or error}", remedy="free space there, or name another folder with --output"
        ) from error
    return tuple(folder / name for name in written.files)
