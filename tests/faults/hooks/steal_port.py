"""Tells the campaign each port that the lab has chosen, and waits for it to say that it was stolen, or that it was not wanted.

``FAULT_STEAL`` names a folder; only the scene's own process has a lab, so that other processes never choose a port.
"""

import os
import time
from pathlib import Path

from labkit.serve.ports import PortLease

_FOLDER = Path(os.environ["FAULT_STEAL"])
_WAIT_S = 5.0
_take = PortLease._take


def take_and_tell(lease: PortLease, port: int) -> int:
    """A port, told before anybody uses it."""
    taken = _take(lease, port)
    if (_FOLDER / "wanted").exists():
        partial = _FOLDER / f".{taken}"
        partial.touch()
        partial.rename(_FOLDER / f"chosen-{taken}")
        deadline = time.monotonic() + _WAIT_S
        while not (_FOLDER / f"done-{taken}").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
    return taken


PortLease._take = take_and_tell  # type: ignore[method-assign]
