"""The manifest: what a run was, said once, in ``manifest.json``; written whole or not at all, and without secrets."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from labkit.errors import StoreError
from labkit.measure.records import SCHEMA_VERSION
from labkit.store.redact import redact, redact_argv
from labkit.store.sums import FIELD, json_sum

FILE: Final = "manifest.json"
#: Variable with the command, as JSON, of whoever runs this process for a person.
COMMAND: Final = "LABKIT_COMMAND"
_PACKAGES: Final = ("numpy", "pyarrow", "httpx", "uvloop", "bokeh", "matplotlib", "ipywidgets", "nvidia-ml-py", "papermill")
#: Of the fields that every reader takes for what they are.
_KINDS: Final[dict[str, type]] = {"windows": list, "clock": dict, "process": dict, "versions": dict}
_HALF: Final = re.compile("[\ud800-\udfff]")
#: A manifest of a thousand measurements has a hundredth of it.
_MOST_BYTES: Final = 256 << 20
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def new_manifest(run_id: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a run that begins now: what the caller gives (redacted), and what only this process knows.

    Args:
        run_id: the run's id.
        given: ``kind``, ``engines``, ``hardware``, ``model``, ``topologies``, ``workload``, ``seed``, … as JSON-like values.
    """
    versions = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "labkit": own_version(),
        "packages": _packages(),
    }
    own = {
        "schema_version": SCHEMA_VERSION,
        "id": run_id,
        "status": "running",
        "reason": None,
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "ended": None,
        "clock": {"wall_ns": time.time_ns(), "monotonic_ns": time.perf_counter_ns(), "boot_id": boot_id()},
        "process": {"pid": os.getpid(), "started_ticks": _started_ticks(os.getpid())},
        "command": redact_argv(_command()),
        "git": git_state(Path.cwd()),
    }
    clean = redact(dict(given))
    return {
        **own,
        "kind": "run",
        **{key: value for key, value in clean.items() if key not in own},
        "versions": {**versions, **clean.get("versions", {})},
        "windows": list(clean.get("windows", [])),
    }


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON so that a reader finds the old text or the new one, never half, with a checksum at the end.

    NaN and infinities become null.

    Raises:
        StoreError: the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.tmp")
    ready = _json_ready(data)
    try:
        with open(partial, "w", encoding="utf-8", opener=_no_link) as file:
            json.dump({**ready, FIELD: json_sum(ready)}, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a file system that has become read-only keeps it
            partial.unlink(missing_ok=True)
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}", remedy="free disk space or name another results folder"
        ) from error


def _no_link(path: str, flags: int) -> int:
    """Opens no link: a folder from elsewhere may have one under this name, to a file that is to be written over."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run's folder.

    Raises:
        StoreError: there is none, it is damaged, or another schema version wrote it.
    """
    path = folder / FILE
    data = read_json(path)
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise StoreError(
            f"run {folder} has schema version {version!r}; this labkit ({own_version()}) reads version {SCHEMA_VERSION}",
            remedy="update labkit" if newer else "open it with the labkit that wrote it (versions are in its manifest.json)",
        )
    for name, kind in _KINDS.items():
        if data.get(name) is not None and not isinstance(data[name], kind):
            raise StoreError(
                f"{path} is damaged: its {name} is no {'list' if kind is list else 'object'}",
                remedy="restore it from a copy; the tables beside it may be whole",
            )
    return data


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, without its checksum; StoreError names the file where it is missing or damaged. Halves of
    characters become ``�``."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device might never end
            raise StoreError(f"{path} is no file", remedy="restore it from a copy; the tables beside it may be whole")
        if path.stat().st_size > _MOST_BYTES:
            raise StoreError(f"{path} has more than {_MOST_BYTES:,} bytes, which no run's has", remedy="restore it from a copy")
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            data = _checked(data, path)
    except FileNotFoundError:
        raise StoreError(f"{path} does not exist", remedy="name a run's folder; `labkit runs` lists them") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}", remedy="check path and rights") from error
    except (ValueError, RecursionError) as error:
        what = "it nests too deep" if isinstance(error, RecursionError) else error
        raise StoreError(
            f"{path} is damaged: {what}", remedy="restore it from a copy; the tables beside it may be whole"
        ) from error
    if not isinstance(data, dict):
        raise StoreError(f"{path} is damaged: no JSON object", remedy="restore it from a copy; the tables beside it may be whole")
    return {str(_whole(key)): _whole(value) for key, value in data.items()}


def _checked(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Without its checksum, which stands last and need not be there: an older labkit wrote none."""
    last = next(reversed(data), None)
    known = data.pop(FIELD, None)
    if known is not None and known != json_sum(data):
        raise StoreError(
            f"{path} is damaged: what it says is not what its checksum {known!r} was made of",
            remedy=f"restore it from a copy; where it was changed on purpose, delete its field {FIELD!r}",
        )
    if last in data and data[last] == json_sum({key: value for key, value in data.items() if key != last}):
        raise StoreError(f"{path} is damaged: its field {last!r} was {FIELD!r} once", remedy="restore it from a copy")
    return data


def live_status(manifest: Mapping[str, Any]) -> str:
    """``running``, ``finished``, ``failed`` or ``interrupted``: a run whose process is gone is not running, whatever it wrote."""
    status = str(manifest.get("status", "unknown"))
    if status != "running":
        return status
    process, clock = manifest.get("process") or {}, manifest.get("clock") or {}
    pid = process.get("pid")
    alive = clock.get("boot_id") == boot_id() and isinstance(pid, int) and _started_ticks(pid) == process.get("started_ticks")
    return "running" if alive else "interrupted"


def own_version() -> str:
    """This labkit's version: that of the package as it was imported, which need not be installed."""
    return str(getattr(sys.modules.get("labkit"), "__version__", "unknown"))


def boot_id() -> str | None:
    """The id of this boot: monotonic clocks of two runs can be set beside each other only within one."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """``{"commit", "dirty"}`` of the repository that ``folder`` is in; ``None`` outside of one or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _command() -> list[str]:
    """The command that a person gave: of a notebook in batch that of ``labkit run``, else this process's own."""
    given = os.environ.get(COMMAND)
    return [str(word) for word in json.loads(given)] if given else sys.orig_argv


def _git(folder: Path, *words: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, check=True, env=environment
    )
    return done.stdout.strip()


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _started_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (field 22 of proc/stat): tells it from a later one of the same pid.

    ``None`` where it is gone, or dead and waiting for a parent that does not look (a container without an init).
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _whole(value: Any) -> Any:
    """The same with halves of characters, which JSON can write and UTF-8 cannot, replaced."""
    if isinstance(value, str):
        return value if value.isascii() else _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {_whole(key): _whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_json_ready(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):  # a numpy scalar
        return _json_ready(value.item())
    return str(value)
