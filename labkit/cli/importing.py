"""``labkit import``: result files of other tools as runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from labkit.cli.table import add_results, console, short


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser(
        "import",
        help="result files of vllm bench serve and AIPerf as runs",
        description="Make a run of each result file: `vllm bench serve --save-result --save-detailed` (also --append-result), "
        "`labkit export --format json`, or AIPerf's profile_export.jsonl with the summary beside it. What a file does not say "
        "stays unknown, and the run says so.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a result file")
    parser.add_argument("--name", metavar="RUN", help="id of the run (default: from date and kind); several get -2, -3 …")
    parser.add_argument("--side", metavar="LABEL", help="what served, such as 1P1D (default: the file's label, or the tool)")
    parser.add_argument(
        "--accelerators", type=float, metavar="N", help="how many accelerators served, for figures per accelerator"
    )
    parser.add_argument("--accelerator", choices=("GPU", "core"), default="GPU", help="what one is (default: GPU)")
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Import and say where the runs are; 0.

    Raises:
        LabError: a file that cannot be imported: nothing is written then.
    """
    from labkit.measure.outcomes import CANCELLED, is_failure
    from labkit.measure.validity import imported
    from labkit.store.imports import import_files

    made = import_files(
        args.files,
        args.results,
        name=args.name,
        side=args.side,
        accelerators=args.accelerators,
        accelerator=args.accelerator,
    )
    out = console()
    for one in made:
        outcomes = one.records().requests["outcome"].to_pylist()
        failed, cancelled = sum(map(is_failure, outcomes)), outcomes.count(CANCELLED)
        said = f"{len(one.windows)} measurement{'s' * (len(one.windows) != 1)}, {len(outcomes)} requests, {failed} failed"
        said += f", {cancelled} cancelled" if cancelled else ""
        out.print(f"{short(one.path)}  {said}", markup=False, soft_wrap=True)
        mark = imported(one.manifest)
        if mark is not None:
            out.print(f"  {mark.text}", markup=False, soft_wrap=True)
    return 0
