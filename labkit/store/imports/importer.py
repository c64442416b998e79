"""From files of other tools to runs: recognise each, check all of them, and only then write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from labkit.errors import SpecError, StoreError
from labkit.measure.records import CHUNKS, REQUESTS, UNRECORDED, Window
from labkit.store.imports import aiperf, aiperf_summary, vllm
from labkit.store.imports.document import first_object, plain, read_file
from labkit.store.imports.measured import Imported, Measured, chunk_rows, request_rows, window_of
from labkit.store.run import Run, create_run
from labkit.store.segments import SegmentWriter

_KNOWN: Final = (
    "vllm bench serve --save-result --save-detailed, labkit export --format json, or aiperf profile (profile_export.jsonl)"
)


def import_files(
    paths: Sequence[Path],
    results: Path,
    *,
    name: str | None = None,
    side: str | None = None,
    accelerators: float | None = None,
    accelerator: Literal["GPU", "core"] = "GPU",
) -> list[Run]:
    """Import result files of other tools, each as a finished run.

    Nothing is written before all files are known to be good, and nothing stays where writing fails. What a file does not say
    is ``None`` in the run, and the manifest's ``source`` lists it.

    Args:
        paths: files of ``vllm bench serve`` (one with ``--append-result`` gives a window a line), or of AIPerf: the records, with
            or by the summary beside them.
        results: the folder that runs live in.
        name: the runs' name; several get ``-2``, ``-3`` ….
        side: label of the windows; what the tool's user called it, or the tool's name, by default.
        accelerators: how many served, where you know; without it nothing is said per accelerator.
        accelerator: what one is.

    Raises:
        StoreError: a file that cannot be imported, or a folder that cannot be written.
        SpecError: a number of accelerators that cannot be.
    """
    if accelerators is not None and not (math.isfinite(accelerators) and accelerators > 0):
        raise SpecError(f"{accelerators} accelerators cannot have served", remedy="give --accelerators a number above 0")
    made: list[Run] = []
    try:
        understood = [(one, _windows(one, side, accelerators or 0.0, accelerator)) for one in _understood(paths)]
        for found, windows in understood:
            run = create_run(results, name, _manifest(found, windows, accelerators, accelerator))
            made.append(run)
            _write(run, found, windows)
    except BaseException as error:
        for run in made:
            run.discard()
        if isinstance(error, MemoryError):
            raise StoreError(
                f"{', '.join(plain(path.name) for path in paths)[:300]} needs more memory than this process may have",
                remedy="import on a machine with more, or measure in parts and import each",
            ) from None
        raise
    return made


def _understood(paths: Sequence[Path]) -> list[Imported]:
    found: dict[Path, Imported] = {}
    for path in paths:
        source = read_file(path)
        first = first_object(source)
        if aiperf_summary.is_summary(first):
            source = read_file(aiperf_summary.records_beside(path))
            first = first_object(source)
        key = source.path.resolve()
        if key in found:
            continue  # a summary and its records are one measurement
        if vllm.is_vllm_bench(first):
            found[key] = vllm.import_vllm_bench(source)
        elif aiperf.is_records(first):
            found[key] = aiperf.import_aiperf(source)
        else:
            raise _unknown(source.path.name, list(first))
    return list(found.values())


def _unknown(name: str, keys: list[str]) -> StoreError:
    if "benchmarks" in keys:
        what = "is a file of GuideLLM, which keeps no instants of single chunks: there is nothing to make a run of"
    else:
        shown = ", ".join(plain(key, 30) for key in keys[:5]) or "none"
        what = f"is no result file that labkit knows (its keys: {shown})"
    return StoreError(f"{plain(name)} {what}", remedy=f"give a file of {_KNOWN}")


def _windows(found: Imported, side: str | None, accelerators: float, accelerator: Literal["GPU", "core"]) -> list[Window]:
    windows: list[Window] = []
    for number, one in enumerate(found.measurements):
        label = plain(side or one.label or found.tool, 100) + (_load(one) if len(found.measurements) > 1 else "")
        repeat = sum(window.side == label for window in windows)
        window = window_of(one, number, label, repeat, accelerators, accelerator)
        if window.stop_ns <= window.measure_ns:
            raise StoreError(
                f"{plain(found.files[0].path.name)}: no request of it lasted any time",
                remedy="give a file with answered requests",
            )
        windows.append(window)
    return windows


def _load(one: Measured) -> str:
    """What tells the lines of a sweep from each other: `` @ 2 req/s``, `` @ 8 concurrent``."""
    rate, concurrency = one.workload.get("rate"), one.workload.get("concurrency")
    if isinstance(rate, int | float):
        return f" @ {rate:g} req/s"
    return f" @ {concurrency} concurrent" if isinstance(concurrency, int) else ""


def _manifest(found: Imported, windows: list[Window], accelerators: float | None, accelerator: str) -> dict[str, Any]:
    held = f"{accelerators:g} {accelerator}{'s' * (accelerators != 1)} (declared)" if accelerators else "not recorded"
    source: Mapping[str, Any] = {
        "tool": found.tool,
        "version": found.version,
        "date": found.date,
        "tokenizer": found.tokenizer,
        "files": [file.facts() for file in found.files],
        "not_recorded": list(found.not_recorded),
        "reported": [dict(one.reported) for one in found.measurements],
    }
    return {
        "kind": "import",
        "engine": None,
        "engines": {},
        "hardware": {"summary": held},
        "model": {"name": found.model} if found.model else None,
        "topologies": [],
        "workload": {key: value for key, value in windows[0].workload.items() if value != UNRECORDED},
        "slo": None,
        "seed": None,
        "epochs": [],
        "source": source,
    }


def _write(run: Run, found: Imported, windows: list[Window]) -> None:
    first = 0
    with (
        SegmentWriter(run.segment("requests", "import"), REQUESTS) as requests,
        SegmentWriter(run.segment("chunks", "import"), CHUNKS) as chunks,
    ):
        for number, one in enumerate(found.measurements):
            requests.append(request_rows(one, number, first))
            chunks.append(chunk_rows(one, first))
            first += len(one)
    for window in windows:
        run.add_window(window)
    # This process knows nothing of the machine and the moment of the measurement.
    source = {**run.manifest["source"], "imported_by": f"labkit {run.manifest['versions']['labkit']}"}
    run.update(clock=dict(found.clock), git=None, versions={}, source=source)
    run.finish()
