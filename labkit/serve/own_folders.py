"""Folders for as long as a process lives: its number is in their names, so that those of a killed one are known, and removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def own_folder(prefix: str) -> Path:
    """A new one; those of this prefix and user whose processes have ended are removed first."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError, ValueError):
            owner = int(path.name.removeprefix(prefix).split("-")[0])
            if path.stat().st_uid == os.getuid() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-"))
