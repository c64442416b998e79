"""``labkit export``: a run's figures, its measurements in the format of ``vllm bench serve``, and its rows as tidy tables."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from labkit.cli.table import add_results, short

if TYPE_CHECKING:
    from labkit.measure.records import Records
    from labkit.store.run import Run

_JSON: Final = "json"
_DATE: Final = "%Y%m%d-%H%M%S"
#: Of a window that was cut off before its workload was noted.
_UNKNOWN_WORK: Final = {"api": "completions", "rate": None, "concurrency": None, "arrivals": "poisson", "burstiness": 1.0}


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser("export", help="a run's figures as files, its measurements as JSON or tables")
    parser.add_argument("run", metavar="RUN", help="an id, the beginning of one, a path, or latest")
    parser.add_argument(
        "--format", default="png", metavar="LIST", dest="formats",
        help="of png, svg, pdf, html, separated by commas; json: measurements as `vllm bench serve` saves them; csv, parquet: "
        "tables with a row a request and a row a chunk (default: png)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (default: figures/ in the run's folder)")
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files and print their paths; 0.

    Raises:
        LabError: no such run, an unknown format (before anything is written), a folder that cannot be written.
    """
    from labkit.cli.view import recorded
    from labkit.errors import StoreError
    from labkit.figures.draw import FORMATS
    from labkit.store.run import open_run
    from labkit.store.tidy import KINDS, write_tidy

    formats = _formats(args.formats)
    run = open_run(args.run, args.results)
    records, _ = recorded(run)
    if not records.windows:
        raise StoreError(f"run {run.id} has no measurement to export", remedy="`labkit show` tells what it recorded")
    folder: Path = args.out or run.path / "figures"
    drawn = [kind for kind in formats if kind in FORMATS]
    for path in [
        *(_draw(run, records, folder, drawn) if drawn else []),
        *(_save(run, records, folder) if _JSON in formats else []),
        *(path for kind in KINDS if kind in formats for path in write_tidy(records, run.id, folder, kind)),
    ]:
        print(short(path))
    return 0


def _formats(text: str) -> list[str]:
    from labkit.errors import SpecError
    from labkit.figures.draw import FORMATS
    from labkit.store.tidy import KINDS

    known = (*FORMATS, _JSON, *KINDS)
    formats = [part.strip().lower() for part in text.split(",") if part.strip()]
    for kind in formats or [text]:
        if kind not in known:
            raise SpecError(f"unknown format {kind!r}", remedy=f"use some of {','.join(known)}")
    return list(dict.fromkeys(formats))


def _draw(run: Run, records: Records, folder: Path, formats: list[str]) -> list[Path]:
    from labkit.cli.view import comparison_of
    from labkit.figures import comparison_rows, draw_all

    comparison, _ = comparison_of(run, records)
    return draw_all(records, run.manifest, folder, formats, None if comparison is None else comparison_rows(comparison))


def _save(run: Run, records: Records, folder: Path) -> list[Path]:
    from labkit.errors import StoreError
    from labkit.measure.records import UNRECORDED
    from labkit.store.vllm_bench import to_vllm_bench

    model = run.manifest.get("model") or {}
    name = str(model.get("source") or model.get("name") or "unknown") if isinstance(model, dict) else str(model)
    source = run.manifest.get("source") or {}
    written = []
    for known in records.windows:
        recorded = {name: value for name, value in known.workload.items() if value != UNRECORDED}
        window = replace(known, workload={**_UNKNOWN_WORK, **recorded})
        side = re.sub(r"[^\w.+@-]", "_", window.side)
        saved = to_vllm_bench(records, window, model=name, date=_date(run), tokenizer=source.get("tokenizer"))
        path = folder / f"vllm-bench-{window.measurement}-{side}-{window.repeat + 1}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(saved), encoding="utf-8")
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror or error}", remedy="free space there, or choose another folder"
            ) from error
        written.append(path)
    return written


def _date(run: Run) -> str:
    """When it was measured, as vLLM writes it: of an imported run what its file says."""
    date = str((run.manifest.get("source") or {}).get("date") or run.manifest["started"])
    try:
        return datetime.fromisoformat(date).astimezone().strftime(_DATE)
    except ValueError:
        return date
