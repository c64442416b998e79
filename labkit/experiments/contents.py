"""What is in the files that a measurement rests on: a path alone says nothing of what stood there at the time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from labkit.errors import SpecError
from labkit.spec import Model, Workload

#: Files of weights are too large to be read for it: size and time of the last change stand for their contents.
_WEIGHTS: Final = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf"})
_FILE: Final = "file:"


def contents_of(work: Workload, model: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is in the files of a workload (its trace, files of lengths) and in a model's own folder, JSON-ready.

    Args:
        work: the workload.
        model: as a run's manifest has it; a bundled shape and a hub id have no folder of the user's.
    """
    told = work.to_dict()
    texts = [str(value) for value in told.values() if isinstance(value, str) and value.startswith(_FILE)]
    paths = {*([str(work.trace)] if work.trace is not None else []), *(text.removeprefix(_FILE) for text in texts)}
    return {"files": {path: _digest(Path(path)) for path in sorted(paths)}, "folder": _folder(model)}


def _folder(model: Mapping[str, Any] | None) -> dict[str, Any] | None:
    source = (model or {}).get("source")
    try:
        if not isinstance(source, str) or Model(source).kind != "folder":
            return None
    except SpecError:  # written by another version
        return None
    folder = Path(source).expanduser()
    weights = (file for file in sorted(folder.glob("*")) if file.suffix in _WEIGHTS and file.is_file())
    held = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in weights]
    return {"config": _digest(folder / "config.json"), "weights": held}


def _digest(file: Path) -> str | None:
    """SHA-256 of a file; ``None`` where it cannot be read, which whoever reads it next will say."""
    try:
        stat = file.stat()
        return _read(file, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=64)
def _read(file: Path, size: int, changed_ns: int) -> str:
    """Read once for all trials of a search, as long as nobody changes it."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
