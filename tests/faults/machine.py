"""Faults of the machine that reach the scene alone: mounts in a name space of the campaign's, and a library in its processes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

from tests.faults.stage import NotPossible, Stage

_SOURCE = Path(__file__).with_name("hooks") / "machine.c"
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE = 0x00020000, 0x4000, 1 << 18
_LIBC = ctypes.CDLL(None, use_errno=True)
_private: set[int] = set()


def mount_small(stage: Stage, folder: Path, size: str) -> None:
    """A small file system over a folder until the scene is over: nobody else sees it, and what is in the folder then stays.

    Raises:
        NotPossible: this user may not mount, or not have mounts of its own.
    """
    _have_own_mounts()
    kept = stage.setting.folder / f"below{str(folder).replace('/', '-')}"
    own = folder.is_relative_to(stage.setting.folder)
    if own:
        shutil.copytree(folder, kept)
    _mount(b"tmpfs", folder, b"tmpfs", 0, f"size={size},mode=1777".encode())
    if own:
        shutil.copytree(kept, folder, dirs_exist_ok=True)

    def unmount() -> None:
        if own:
            shutil.rmtree(kept)
            shutil.copytree(folder, kept)
        if _LIBC.umount2(os.fsencode(folder), 2):  # MNT_DETACH: somebody may still look
            raise OSError(ctypes.get_errno(), f"cannot unmount {folder}")
        if own:
            shutil.rmtree(folder)
            kept.rename(folder)

    stage.afterwards(unmount)


def fill(folder: Path, leave_bytes: int) -> Path:
    """Write a file that leaves so much room in a file system; its path."""
    path = folder / ".filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            size = file.tell()
        file.truncate(max(size - leave_bytes, 0))
    return path


def load_library(stage: Stage, **env: str) -> None:
    """Have the scene's processes load ``hooks/machine.c``, which the variables speak to.

    Raises:
        NotPossible: there is no C compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NotPossible("no C compiler")
    library = stage.setting.folder / "machine.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"], check=True)
    stage.alter(env={**stage.setting.env, "LD_PRELOAD": str(library), **env})


def _have_own_mounts() -> None:
    """Once in a process: its main thread, and what that starts, get mounts of their own."""
    if os.getpid() in _private:
        return
    if _LIBC.unshare(_CLONE_NEWNS):
        raise NotPossible(f"no mounts of one's own: {os.strerror(ctypes.get_errno())}")
    _mount(b"none", Path("/"), None, _MS_REC | _MS_PRIVATE, None)
    _private.add(os.getpid())


def _mount(what: bytes, where: Path, kind: bytes | None, flags: int, options: bytes | None) -> None:
    if _LIBC.mount(what, os.fsencode(where), kind, ctypes.c_ulong(flags), options):
        raise NotPossible(f"cannot mount {where}: {os.strerror(ctypes.get_errno())}")
