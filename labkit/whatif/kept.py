"""What a model of performance has said is kept with the run that asked, and not asked again: known by its content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from labkit.errors import StoreError
from labkit.store.manifest import read_json, write_json
from labkit.store.run import Run, list_runs
from labkit.whatif.workers import Estimator, Setting, Workers, content_key

#: Kind of the runs that hold projections.
KIND: Final = "whatif"
FILE: Final = "projected_workers.json"
#: Kind of the runs on simulated workers that a second opinion makes.
SIMULATION: Final = "simulation"


class Remembering:
    """An estimator that looks into earlier runs first.

    Args:
        estimator: is asked for what is not known.
        results: the folder that runs live in.
    """

    def __init__(self, estimator: Estimator, results: Path) -> None:
        self._estimator = estimator
        self._results = results
        self._known: dict[str, Mapping[str, Any]] | None = None
        self._used: dict[str, Workers] = {}
        self.asked = 0

    def identity(self, setting: Setting) -> Mapping[str, Any]:
        """That of the estimator behind it."""
        return self._estimator.identity(setting)

    def workers(self, setting: Setting) -> Workers:
        """What is known, or what the estimator says; its errors pass."""
        key = content_key(self.identity(setting))
        if key not in self._used:
            self._used[key] = self._recalled(key, setting) or self._ask(setting)
        return self._used[key]

    def keep(self, run: Run) -> None:
        """Write all that was used into a run's folder.

        Raises:
            StoreError: it cannot be written.
        """
        write_json(run.path / FILE, {key: workers.to_dict() for key, workers in self._used.items()})

    def _ask(self, setting: Setting) -> Workers:
        self.asked += 1
        return self._estimator.workers(setting)

    def _recalled(self, key: str, setting: Setting) -> Workers | None:
        if self._known is None:
            self._known = _kept(self._results)
        try:
            found = Workers.from_dict(self._known[key])
        except (KeyError, TypeError, ValueError):  # never asked, damaged, or of another version
            return None
        # A folder of equal content may have another name.
        return Workers(setting, found.source, found.points, found.notes)


def kept_workers(run: Run) -> dict[Setting, Workers]:
    """What a run has kept; raises KeyError, TypeError, ValueError or StoreError where its file is damaged."""
    return {one.setting: one for one in map(Workers.from_dict, read_json(run.path / FILE).values())}


def _kept(results: Path) -> dict[str, Mapping[str, Any]]:
    known: dict[str, Mapping[str, Any]] = {}
    for info in reversed(list_runs(results)):
        if info.kind == KIND:
            with suppress(StoreError, json.JSONDecodeError):
                known |= read_json(info.path / FILE)
    return known
