"""AIPerf's summary, ``profile_export_aiperf.json``: what was asked, by which version, and what the tool itself reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from labkit.errors import StoreError
from labkit.measure.records import UNRECORDED
from labkit.store.imports.document import Document, SourceFile, damaged, first_object, plain, read_file
from labkit.store.imports.measured import workload

_RECORDS, _SUMMARY = "profile_export.jsonl", "profile_export_aiperf.json"
#: A phase without a rate is a closed loop, whose arrivals the lab calls by their default.
_ARRIVALS: Final = {"poisson": "poisson", "constant": "constant", "gamma": "gamma", "concurrency": "poisson"}
_METRICS: Final = (
    "time_to_first_token", "inter_token_latency", "inter_chunk_latency", "request_latency", "output_token_throughput",
    "request_throughput", "request_count", "error_request_count", "benchmark_duration",
)  # fmt: skip
_FIGURES: Final = ("avg", "p50", "p90", "p95", "p99")


class _Named(msgspec.Struct):
    name: str = ""


class _Models(msgspec.Struct):
    items: list[_Named] = []


class _Endpoint(msgspec.Struct):
    type: str = ""


class _Spread(msgspec.Struct):
    mean: float
    stddev: float = 0.0


class _Data(msgspec.Struct):
    type: str = ""
    turns: _Spread | None = None
    turn_delay: _Spread | None = None  # milliseconds


class _Phase(msgspec.Struct):
    kind: str = "profiling"
    type: str = ""
    rate: float | None = None
    smoothness: float | None = None
    concurrency: int | None = None
    requests: int | None = None
    sessions: int | None = None
    duration: float | None = None


class _Config(msgspec.Struct):
    models: _Models = msgspec.field(default_factory=_Models)
    endpoint: _Endpoint = msgspec.field(default_factory=_Endpoint)
    tokenizer: _Named | None = None
    datasets: list[_Data] = []
    phases: list[_Phase] = []


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary as it was read."""

    source: SourceFile
    document: Document
    config: _Config

    @property
    def version(self) -> str | None:
        """AIPerf's own."""
        return plain(self.document.get("aiperf_version", str, "")) or None

    @property
    def date(self) -> str | None:
        """When it began, in the time of its node."""
        return plain(self.document.get("start_time", str, "")) or None

    @property
    def model(self) -> str | None:
        """The models' names."""
        return ", ".join(plain(one.name) for one in self.config.models.items if one.name) or None

    @property
    def tokenizer(self) -> str | None:
        """The one that prompts were made with."""
        return plain(self.config.tokenizer.name) or None if self.config.tokenizer else None

    def workload(self) -> dict[str, Any]:
        """The load of the profiling phase, where there is one of a kind that the lab has words for."""
        api = {"completions": "completions", "chat": "chat"}.get(self.config.endpoint.type, UNRECORDED)
        phases = [phase for phase in self.config.phases if phase.kind == "profiling"]
        if len(phases) != 1 or phases[0].type not in _ARRIVALS:
            return workload(api=api)
        phase = phases[0]
        rate = phase.rate if phase.type != "concurrency" else None
        for name, value in (("rate", rate), ("concurrency", phase.concurrency), ("duration", phase.duration)):
            if value is not None and not 0 < value < 1e9:
                raise damaged(self.source.path.name, f"{name} of the profiling phase is {value}")
        talks = self._talks()
        return workload(
            api=api,
            rate=UNRECORDED if talks and rate is not None else rate,  # of turns, and the lab's is of conversations
            concurrency=phase.concurrency,
            arrivals=_ARRIVALS[phase.type],
            burstiness=(phase.smoothness or UNRECORDED) if phase.type == "gamma" else 1.0,
            requests=UNRECORDED if phase.requests is None and phase.sessions is not None else phase.requests,
            duration_s=phase.duration,
            **talks,
        )

    def _talks(self) -> dict[str, Any]:
        """What is known of conversations, where a synthetic data set has such: they hold what the server answered."""
        data = self.config.datasets[0] if len(self.config.datasets) == 1 else _Data()
        if data.type != "synthetic" or data.turns is None or not (data.turns.mean > 1 or data.turns.stddev > 0):
            return {}
        delay = data.turn_delay or _Spread(0.0)
        return {
            "turns": _spread(data.turns, 1.0),
            "think_s": _spread(delay, 1e-3),
            "history": "served",
        }

    def reported(self) -> dict[str, float]:
        """``time_to_first_token_p50_ms`` and the like."""
        found = {}
        for name in _METRICS:
            metric: dict[str, Any] = self.document.get(name, dict[str, Any], {})
            for figure in _FIGURES:
                value, unit = metric.get(figure), plain(str(metric.get("unit", ""))).replace("/", "_per_")
                if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
                    found[f"{name}_{figure}_{unit}"] = float(value)
        return found


def _spread(told: _Spread, unit: float) -> str:
    """``normal:3,1``, or ``3`` where nothing varies; the lab's words for a distribution."""
    mean, deviation = f"{told.mean * unit:g}", f"{told.stddev * unit:g}"
    return f"normal:{mean},{deviation}" if told.stddev > 0 else mean


def is_summary(first: Document) -> bool:
    """Whether a file's first object is AIPerf's summary."""
    return "aiperf_version" in first or ("input_config" in first and "request_latency" in first)


def records_beside(summary: Path) -> Path:
    """The records that belong to a summary.

    Raises:
        StoreError: they are not there: a summary holds percentiles alone.
    """
    beside = summary.with_name(_RECORDS) if summary.name == _SUMMARY else summary.with_suffix(".jsonl")
    if beside.is_file():
        return beside
    raise StoreError(
        f"{plain(summary.name)} is AIPerf's summary: it holds no single request, and {plain(beside.name)} is not beside it",
        remedy=f"give {_RECORDS}, which `aiperf profile` writes unless it was told to export summaries alone",
    )


def summary_beside(records: Path) -> Summary | None:
    """The summary of records, where it lies beside them."""
    beside = records.with_name(_SUMMARY) if records.name == _RECORDS else records.with_suffix(".json")
    if not beside.is_file():
        return None
    source = read_file(beside)
    document = first_object(source)
    if not is_summary(document):
        return None
    try:
        config = document.get("input_config", _Config, _Config())
    except StoreError:  # another version's words: then nothing is known of the load
        config = _Config()
    return Summary(source, document, config)
