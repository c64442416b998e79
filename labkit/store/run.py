"""A run: one folder under ``results/`` with a manifest, its tables, a summary and figures."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from labkit.errors import LabError, StoreError
from labkit.measure.digest import Digest, digest
from labkit.measure.records import EVENTS, TABLES, Records, Window
from labkit.measure.simulated import is_simulated
from labkit.store.manifest import FILE, live_status, new_manifest, read_json, read_manifest, write_json
from labkit.store.redact import redact, redact_text
from labkit.store.segments import SUFFIX, SegmentWriter
from labkit.store.sums import check_file, file_sum
from labkit.store.tables import SEGMENTS, TableParts, count_rows, finalise_table, read_table

#: Names the file that gets a line (a JSON text) with the path of every run made: how a batch learns what its notebook made.
RUNS_FILE: Final = "LABKIT_RUNS_FILE"
RESERVED: Final = frozenset({"evidence", "bench", "latest"})
#: A digest keeps so many; what needs the instants of each takes ten seconds for them.
_KEPT_CHUNKS: Final = 1_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_NAME_RULE: Final = "use letters, digits, '.', '_' and '-', no leading dot, at most 100 characters"

Status = Literal["running", "finished", "interrupted", "failed"]


class Run:
    """A run's folder, open for reading and, in the process that made it, for writing.

    Attributes:
        id: its name under ``results/``.
        path: its folder.
        manifest: what ``manifest.json`` says.
        notes: instant, kind and text of what this process noted, in order; redacted as it is on disk.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.notes: list[tuple[int, str, str]] = []
        self._events: SegmentWriter | None = None
        self._lock = threading.RLock()
        self._checked = set[str]()

    @property
    def id(self) -> str:
        """The run's name under ``results/``."""
        return self.path.name

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``interrupted`` or ``failed``; a run whose process is gone is interrupted."""
        return live_status(self.manifest)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Its measurements so far."""
        return tuple(Window.from_dict(window) for window in self.manifest["windows"])

    def segment(self, table: str, producer: str) -> Path:
        """Where ``producer`` (``shard0``, ``telemetry``, ``lab``) appends its rows of ``table``."""
        return self.path / SEGMENTS / f"{table}-{producer}{SUFFIX}"

    def folder(self, *names: str) -> Path:
        """Where this run keeps what is drawn or exported of it; the folder need not be there yet.

        Raises:
            StoreError: it, or a file of it, is a link: what is written would land outside of the run, what is read would be
                another's.
        """
        steps = [self.path.joinpath(*names[: at + 1]) for at in range(len(names))]
        files = steps[-1].iterdir() if steps[-1].is_dir() and not steps[-1].is_symlink() else ()
        if link := next((path for path in (*steps, *files) if path.is_symlink()), None):
            raise StoreError(
                f"{link} is a link, which the lab puts into no run: it leads to {str(link.readlink())!r}",
                remedy="remove it if you trust the rest of the run, or name another folder",
            )
        return steps[-1]

    def update(self, **fields: Any) -> None:
        """Set fields of the manifest (redacted) and write it."""
        with self._lock:
            self.manifest.update(redact(fields))
            write_json(self.path / FILE, self.manifest)

    def add_window(self, window: Window) -> None:
        """Keep a measurement's bounds; it can be read back at once."""
        with self._lock:
            others = [known for known in self.manifest["windows"] if known["measurement"] != window.measurement]
            self.update(windows=sorted([*others, window.to_dict()], key=lambda known: int(known["measurement"])))

    def note(self, text: str, *, kind: str = "note", data: Mapping[str, Any] | None = None, t_ns: int | None = None) -> None:
        """Keep an event (launch, resplit, load, fault, note) on the run's clock, on disk before this returns."""
        encoded = None if data is None else json.dumps(redact(dict(data)), default=str)
        t_ns, text = time.perf_counter_ns() if t_ns is None else t_ns, redact_text(text)
        with self._lock:
            if self._events is None:
                self._events = SegmentWriter(self.segment("events", "lab"), EVENTS)
            self._events.append({"t_ns": [t_ns], "kind": [kind], "text": [text], "data": [encoded]})
            self._events.flush()
            self.notes.append((t_ns, kind, text))

    def fault(self, error: LabError, *, text: str | None = None, t_ns: int | None = None) -> None:
        """Keep what went wrong, in its own words unless ``text`` is given, with what to do about it: ``remedy`` of its data."""
        self.note(error.what if text is None else text, kind="fault", data={"remedy": error.remedy}, t_ns=t_ns)

    def records(self, *, chunks: bool = True) -> Records:
        """Everything recorded so far, from Parquet or from segments; only numeric columns and dictionaries are large.

        Args:
            chunks: ``False`` leaves the table of chunks empty, a hundred times as long as any other: ``digest`` takes it in.

        Raises:
            StoreError: a file is damaged.
        """
        names = [name for name in TABLES if chunks or name != "chunks"]
        self._check(*names)
        tables = {name: TABLES[name].empty_table() for name in TABLES} | {name: read_table(self.path, name) for name in names}
        return Records(**tables, windows=self.windows)

    def digest(self, outline: Records | None = None) -> Digest:
        """Everything recorded so far, with what the chunks say of each request in their place: one pass, little memory.

        Few chunks are kept beside.

        Args:
            outline: what ``records(chunks=False)`` gave, if it is at hand; its windows are those that are counted in.

        Raises:
            StoreError: a file is damaged.
        """
        outline = self.records(chunks=False) if outline is None else outline
        parts = self.parts("chunks")
        if count_rows(self.path, "chunks") <= _KEPT_CHUNKS:
            return digest(replace(outline, chunks=read_table(self.path, "chunks")))
        return digest(outline, parts)

    def parts(self, name: str) -> TableParts:
        """One table, part by part: see ``TableParts``.

        Raises:
            StoreError: its file is damaged.
        """
        self._check(name)
        return TableParts(self.path, name)

    def count_rows(self) -> dict[str, int]:
        """Rows recorded so far, by table; StoreError where a file is damaged."""
        self._check(*TABLES)
        return {name: count_rows(self.path, name) for name in TABLES}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json`` (redacted); NaN becomes null."""
        write_json(self.path / "summary.json", redact(dict(summary)))

    def summary(self) -> dict[str, Any] | None:
        """What ``write_summary`` kept; ``None`` before."""
        path = self.path / "summary.json"
        return read_json(path) if path.exists() else None

    def finalise(self) -> dict[str, int]:
        """Turn segments into Parquet, verified before segments are deleted; returns rows per table. May be called again.

        Every writer of the run must be closed. The manifest keeps the checksums of the files (``sums``); its status is left as
        it is: see ``finish``.
        """
        self.close()
        folder = self.path / SEGMENTS
        if self.manifest.get("sums") and folder.is_dir():  # of files that are about to be replaced
            self.update(sums={})
        rows = {name: finalise_table(self.path, name) for name in TABLES}
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        self.update(sums={file: file_sum(self.path / file) for file in map(_parquet, TABLES)})
        return rows

    def finish(self, status: Status = "finished", *, reason: str | None = None) -> None:
        """Say how the run ended, and finalise it."""
        rows = self.finalise()
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.update(status=status, reason=reason, ended=ended, rows=rows)

    def _check(self, *tables: str) -> None:
        """Hold Parquet files to the checksums that the manifest has of them, each once; an older labkit kept none."""
        for name in tables:
            known = (self.manifest.get("sums") or {}).get(_parquet(name))
            if known is not None and name not in self._checked:
                check_file(self.path / _parquet(name), known)
                self._checked.add(name)

    def discard(self) -> None:
        """Remove the folder of a run in which nothing happened: what was asked for could not be meant, or had no hardware."""
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Close the run's own event writer."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def __repr__(self) -> str:
        sides = " ".join(window.side for window in self.windows)
        return f"Run({self.id!r}, {self.status}, {len(self.windows)} measurements{f': {sides}' if sides else ''})"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One line of ``labkit runs``. ``status`` may also be ``unreadable``; ``started`` is ISO 8601 in UTC; the workers of a
    ``simulated`` one computed nothing."""

    id: str
    path: Path
    kind: str
    status: str
    started: str
    topologies: tuple[str, ...]
    size_bytes: int
    measurements: int = 0
    simulated: bool = False


def create_run(results: Path, name: str | None, manifest: Mapping[str, Any]) -> Run:
    """Make a run's folder, and ``results`` with it.

    Args:
        results: the folder that runs live in.
        name: the id wanted (a ``-2`` is added where it is taken); ``None`` or empty: ``20261123-174512-<kind>-a1b2``.
        manifest: JSON-like; ``kind``, ``engines``, ``hardware``, ``model``, ``topologies``, ``workload``, ``seed``, ….

    Raises:
        StoreError: a name that leaves ``results`` or is reserved, or a folder that cannot be made.
    """
    kind = str(manifest.get("kind", "run"))
    wanted = check_name(name) if name else f"{time.strftime('%Y%m%d-%H%M%S')}-{check_name(kind)}-{secrets.token_hex(2)}"
    path = _make_folder(Path(results), wanted)
    run = Run(path, new_manifest(path.name, manifest))
    try:
        run.update()
    except StoreError:
        path.rmdir()
        raise
    if announced := os.environ.get(RUNS_FILE):
        # The batch may be over: what it started earlier still makes its run.
        with contextlib.suppress(OSError), Path(announced).open("a", encoding="utf-8") as file:
            file.write(json.dumps(str(path.resolve())) + "\n")
    return run


def results_folder(given: Path | str | None = None) -> Path:
    """The folder that runs live in: the one given, or ``LABKIT_RESULTS``, or ``results`` here."""
    return Path(given or os.environ.get("LABKIT_RESULTS") or "results")


def new_run(results: Path | str | None, name: str | None, manifest: Mapping[str, Any]) -> Run:
    """``create_run``, with the environment's folder and name (``LABKIT_RUN_NAME``, as a batch sets it) where none are given."""
    return create_run(results_folder(results), name or os.environ.get("LABKIT_RUN_NAME") or None, manifest)


def open_run(path_or_id: str | os.PathLike[str], results: Path = Path("results")) -> Run:
    """A run by id, by the unique beginning of one, by path, or the ``latest``.

    Raises:
        StoreError: none or several match, or the folder cannot be read.
    """
    text = os.fspath(path_or_id)
    direct = Path(text)
    if isinstance(path_or_id, Path) or os.sep in text or (direct / FILE).is_file():
        return Run(direct, read_manifest(direct))
    results = Path(results)
    if text == "latest":
        known = list_runs(results)
        if not known:
            raise StoreError(f"there are no runs in {results}", remedy="make one first, or name another results folder")
        return open_run(known[0].path)
    check_name(text, reserved=False)
    if (results / text / FILE).is_file():
        return open_run(results / text)
    found = [folder for folder in _run_folders(results) if folder.name.startswith(text)]
    if len(found) != 1:
        names = ", ".join(sorted(folder.name for folder in found)[:5])
        what = f"{text!r} begins several runs: {names}" if found else f"there is no run {text!r} in {results}"
        raise StoreError(what, remedy="give more of its id" if found else "`labkit runs` lists them; `latest` names the newest")
    return open_run(found[0])


def list_runs(results: Path = Path("results")) -> list[RunInfo]:
    """The runs of a results folder, newest first; a damaged one is listed as ``unreadable``."""
    infos = [_info(folder) for folder in _run_folders(Path(results))]
    return sorted(infos, key=lambda info: (info.started, info.id), reverse=True)


def check_name(name: str, *, reserved: bool = True) -> str:
    """The name itself, if it can be a run's id; StoreError otherwise."""
    if not _NAME.fullmatch(name):
        raise StoreError(f"run name {name!r} cannot be a folder of its own under results", remedy=_NAME_RULE)
    if reserved and name.lower() in RESERVED:
        raise StoreError(f"run name {name!r} is reserved", remedy=f"choose another than {', '.join(sorted(RESERVED))}")
    return name


def _parquet(table: str) -> str:
    return f"{table}.parquet"


def _make_folder(results: Path, wanted: str) -> Path:
    try:
        results.mkdir(parents=True, exist_ok=True)
        path, number = results / wanted, 1
        while True:
            try:
                path.mkdir()
                return path
            except FileExistsError:
                number += 1
                path = results / f"{wanted}-{number}"
    except OSError as error:
        raise StoreError(
            f"cannot make a run's folder in {results}: {error.strerror or error}", remedy="name a results folder you can write to"
        ) from error


def _run_folders(results: Path) -> list[Path]:
    if not results.is_dir():
        return []
    return [folder for folder in results.iterdir() if folder.name not in RESERVED and (folder / FILE).is_file()]


def _info(folder: Path) -> RunInfo:
    size = sum(_size(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)
    try:
        manifest = read_manifest(folder)
        windows = [str(window["topology"]) for window in manifest["windows"]]
        topologies = tuple(dict.fromkeys([*map(str, manifest.get("topologies") or ()), *windows]))
        return RunInfo(
            id=folder.name,
            path=folder,
            kind=str(manifest.get("kind")),
            status=live_status(manifest),
            started=str(manifest["started"]),
            topologies=topologies,
            size_bytes=size,
            measurements=len(windows),
            simulated=is_simulated(manifest),
        )
    except (StoreError, KeyError, TypeError, AttributeError, ValueError):
        started = datetime.fromtimestamp(folder.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
        return RunInfo(folder.name, folder, "?", "unreadable", started, (), size)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # a run under way deletes segments
        return 0
