"""Removes a folder when whoever made it is gone: a script of the standard library, ``python -I -S broom.py FOLDER``.

Its standard input is a pipe from there. A ``TemporaryDirectory`` outlives a process that is killed; this does not depend on how
the process ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_MOMENT_S = 5.0  # for a kernel that ends itself when its parent is gone, and writes until then
_POLL_S = 0.1


@contextlib.contextmanager
def swept(folder: Path) -> Iterator[None]:
    """Let the folder go with this process, however that ends; the block's end lets the broom go and leaves the folder."""
    broom = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    assert broom.stdin is not None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            broom.stdin.write(b"leave it")
            broom.stdin.close()
        broom.wait()


def main(folder: str) -> None:
    """Wait for the end of the pipe; what was written there says that the folder is looked after."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.read(0, 64):
        return
    deadline = time.monotonic() + _MOMENT_S
    while time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main(sys.argv[1])
