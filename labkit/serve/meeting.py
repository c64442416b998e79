"""The folder through which the processes of a deployment find each other: private, and gone at its end."""

from __future__ import annotations

import shutil

from labkit.serve.own_folders import own_folder

_PREFIX = "labkit-meeting-"


class Meeting:
    """A folder of this user alone, under the temporary folder of this machine: what watches it needs a local disk.

    Attributes:
        folder: where it is.
    """

    def __init__(self) -> None:
        self.folder = own_folder(_PREFIX)

    def close(self) -> None:
        """Remove it with all that is in it. Harmless when done twice."""
        shutil.rmtree(self.folder, ignore_errors=True)
