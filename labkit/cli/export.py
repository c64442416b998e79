"""``labkit export``: a run's figures, its measurements as ``vllm bench serve`` saves them, its rows as tables, a page of it."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from labkit.cli.table import add_results, say, short

if TYPE_CHECKING:
    from labkit.measure.digest import Digest
    from labkit.store.run import Run

_JSON: Final = "json"
_PAGE: Final = "page"
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
        "tables with a row a request and a row a chunk; page: one HTML file that replays the run's charts (default: png)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the files (default: figures/ in the run's folder)")
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Write the files and print their paths; 0.

    Raises:
        LabError: no such run, an unknown format (before anything is written), a folder that cannot be written.
    """
    from labkit.cli.view import digested
    from labkit.errors import StoreError
    from labkit.figures import draw_whatif
    from labkit.figures.draw import FORMATS
    from labkit.store.run import open_run
    from labkit.store.tidy import KINDS, write_tidy
    from labkit.whatif import reopened
    from labkit.whatif.kept import KIND

    formats = _formats(args.formats)
    run = open_run(args.run, args.results)
    records, _ = digested(run)
    if _PAGE in formats:
        from labkit.dashboard.exploration_page import save_exploration

        say(short(save_exploration(run, folder=args.out)))
    folder: Path = args.out or run.folder("figures")
    drawn = [kind for kind in formats if kind in FORMATS]
    if run.manifest.get("kind") == KIND and formats == drawn:
        for path in draw_whatif(run, reopened(run), formats=drawn, folder=folder):
            say(short(path))
        return 0
    if not records.windows and set(formats) != {_PAGE}:
        raise StoreError(f"run {run.id} has no measurement to export", remedy="`labkit show` tells what it recorded")
    for path in [
        *(_draw(run, records, folder, drawn) if drawn else []),
        *(_save(run, records, folder) if _JSON in formats else []),
        *(path for kind in KINDS if kind in formats for path in write_tidy(records, run.id, folder, kind)),
    ]:
        say(short(path))
    return 0


def _formats(text: str) -> list[str]:
    from labkit.errors import SpecError
    from labkit.figures.draw import FORMATS
    from labkit.store.tidy import KINDS

    known = (*FORMATS, _JSON, *KINDS, _PAGE)
    formats = [part.strip().lower() for part in text.split(",") if part.strip()]
    for kind in formats or [text]:
        if kind not in known:
            raise SpecError(f"unknown format {kind!r}", remedy=f"use some of {','.join(known)}")
    return list(dict.fromkeys(formats))


def _draw(run: Run, records: Digest, folder: Path, formats: list[str]) -> list[Path]:
    from labkit.cli.view import comparison_of
    from labkit.figures import comparison_rows, draw_all

    comparison, _ = comparison_of(run, records)
    return draw_all(records, run.manifest, folder, formats, None if comparison is None else comparison_rows(comparison))


def _save(run: Run, records: Digest, folder: Path) -> list[Path]:
    from labkit.errors import StoreError
    from labkit.measure.records import UNRECORDED
    from labkit.measure.validity import marks_of
    from labkit.store.vllm_bench import save_vllm_bench

    model = run.manifest.get("model") or {}
    name = str(model.get("source") or model.get("name") or "unknown") if isinstance(model, dict) else str(model)
    source = run.manifest.get("source") or {}
    written = []
    for known in records.windows:
        recorded = {name: value for name, value in known.workload.items() if value != UNRECORDED}
        window = replace(known, workload={**_UNKNOWN_WORK, **recorded})
        side = re.sub(r"[^\w.+@-]", "_", window.side)
        path = folder / f"vllm-bench-{window.measurement}-{side}-{window.repeat + 1}.json"
        notes = [*filter(None, [window.cut]), *(mark.text for mark in marks_of(records, known, run.manifest))]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_vllm_bench(records, window, path, model=name, date=_date(run), tokenizer=source.get("tokenizer"), notes=notes)
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
