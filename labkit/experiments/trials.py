"""Trials of a split search: one split at one rate, judged against the SLO, kept with the run that measured it.

A trial is known by its content: model, engine, hardware, options, split, work and SLO, and what is in the files of these. So a
search that was stopped goes on where it was: what a run of the results folder has measured under the same content is not
measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from labkit.errors import SpecError, StoreError
from labkit.experiments.candidates import Candidate
from labkit.experiments.contents import contents_of
from labkit.lab.measurement import Measurement
from labkit.serve.engines.base import EngineOptions
from labkit.spec import Slo, Workload
from labkit.store.run import list_runs, open_run

#: Parts of a manifest that a trial's outcome depends on, beside what is asked of it.
_CONDITIONS: Final = ("model", "served", "engine", "engines")
#: Facts of a cluster's node that are others after the next launch or boot, with no effect on what it serves.
_OF_A_LAUNCH: Final = frozenset({"clock_offset_ns", "clock_bound_ns", "boot_id", "processes"})
#: A share of fewer requests says little: at low rates a trial lasts longer, up to so many times.
_LEAST_REQUESTS: Final = 20
_MOST_LENGTHS: Final = 4
_WARMUP_S: Final = 2.0
_AT: Final = " at "


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one trial found.

    Attributes:
        key: of its content.
        candidate: as text.
        rate: offered, requests per second.
        seconds: of the measure phase that was asked for.
        rung: the round.
        served: whether the share that was asked for met the SLO.
        attainment: share of the requests that met it; ``None`` where it ended before one could be judged.
        goodput_hz: requests per second that met it.
        requests: that were judged.
        stopped: why it ended early; empty where it did not.
        run, measurement: where its records are.
    """

    key: str
    candidate: str
    rate: float
    seconds: float
    rung: int
    served: bool
    attainment: float | None
    goodput_hz: float | None
    requests: int
    stopped: str
    run: str
    measurement: int

    @classmethod
    def of(
        cls, measured: Measurement, *, key: str, candidate: Candidate, rate: float, seconds: float, rung: int, share: float
    ) -> Self:
        """Judge a measurement: served if ``share`` of its requests met the SLO, and the load did not outrun the split."""
        summary = measured.summary
        attainment, goodput = summary["slo_attainment"], summary["goodput_request_s"]
        return cls(
            key=key, candidate=str(candidate), rate=rate, seconds=seconds, rung=rung,
            served=not measured.window.stopped and attainment is not None and attainment >= share,
            attainment=attainment, goodput_hz=goodput, requests=int(summary["requests"] or 0), stopped=measured.window.stopped,
            run=measured.run.id, measurement=measured.window.measurement,
        )  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The trial that a manifest has kept."""
        return cls(**{one.name: data[one.name] for one in fields(cls)})

    def __str__(self) -> str:
        share = (
            "no request could be judged" if self.attainment is None else f"{self.attainment:.0%} of {self.requests} met the SLO"
        )
        early = f", {self.stopped}" if self.stopped else ""
        return f"{self.candidate} at {self.rate:.3g} req/s: {'served' if self.served else 'not served'}, {share}{early}"


def side_of_trial(candidate: Candidate | str, rate: float) -> str:
    """What a trial's measurement is called."""
    return f"{candidate}{_AT}{rate:.3g}/s"


def is_trial(side: str) -> bool:
    """Whether a side is a trial of a search, and no answer of it."""
    return _AT in side and side.endswith("/s")


def at_rate(work: Workload, rate: float, seconds: float, rung: int) -> Workload:
    """The work of a trial: the same prompts and arrivals for every split of a round.

    Raises:
        SpecError: a workload whose rate is not one's own to choose.
    """
    if work.rate is None:
        raise SpecError(
            f"{work} has no rate to search over", remedy="give a workload with rate=…, constant, Poisson or gamma arrivals"
        )
    length_s = min(max(seconds, _LEAST_REQUESTS / rate), _MOST_LENGTHS * seconds)
    return replace(
        work, rate=rate, duration_s=length_s, requests=None, warmup_s=_WARMUP_S, warmup="given", seed=work.seed + rung
    )  # fmt: skip


def content_key(
    manifest: Mapping[str, Any], candidate: Candidate, options: EngineOptions, work: Workload, slo: Slo, share: float
) -> str:
    """What a trial is known by: 16 hex digits of the SHA-256 of all that its outcome depends on.

    The manifest names the engine that serves. Simulated workers depend on what their profiles say, and not on the files' place.
    A trace, a file of lengths and a model's folder count with what they hold now.
    """
    content = {
        **{part: manifest.get(part) for part in _CONDITIONS},
        "hardware": _lasting(manifest.get("hardware")),
        "contents": contents_of(work, manifest.get("model")),
        "simulated": (manifest.get("simulated") or {}).get("profiles"),
        "topology": str(candidate.topology), "options": {**asdict(options), "timing": None}, "work": work.to_dict(),
        "slo": asdict(slo), "share": share,
    }  # fmt: skip
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lasting(hardware: Any) -> Any:
    """Hardware without what is found anew at each launch or boot of a cluster's nodes."""
    if not isinstance(hardware, Mapping) or not isinstance(hardware.get("nodes"), list | tuple):
        return hardware
    nodes = [{name: value for name, value in node.items() if name not in _OF_A_LAUNCH} for node in hardware["nodes"]]
    return {**hardware, "nodes": nodes}


def known_trials(results: Path) -> dict[str, Trial]:
    """Every trial that the runs of a folder have kept, by key; the newest of a key counts."""
    return {trial.key: trial for trial in _kept(results)}


def _kept(results: Path) -> Iterator[Trial]:
    for info in reversed(list_runs(results)):
        with suppress(StoreError, KeyError, TypeError):  # damaged, or of another version: measured again
            yield from [Trial.from_dict(data) for data in open_run(info.path).manifest.get("trials") or ()]
