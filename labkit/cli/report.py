"""``labkit report``: any set of runs as one page, with a verdict for each claim that they can speak to."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from labkit.cli.table import add_results, console, print_json, say, short


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser(
        "report",
        help="any set of runs as one page: conditions, table, figures, a verdict for each claim",
        description="Set runs side by side, compare each aggregated side with each disaggregated one that was measured under the "
        "same conditions, and say of each claim under test whether the runs reproduce it. Nothing is measured.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="ids, beginnings of ids, paths, or latest (default: every run)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page there, and keep no run of the report")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON, and write nothing")
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report, and write its page; 0.

    Raises:
        LabError: a run that is not there, or a page that cannot be written.
    """
    from labkit.experiments.report import pick_runs, report, unread_runs

    found = report(pick_runs(args.results, args.runs), unread=() if args.runs else unread_runs(args.results))
    if args.json:
        print_json(found.to_dict())
        return 0
    from labkit.figures.report import PAGE, draw_report, keep_report, save_page

    console().print(str(found), markup=False, soft_wrap=True)
    if args.out is None:
        page = keep_report(found, args.results).path / PAGE
    else:
        with tempfile.TemporaryDirectory(prefix="labkit-") as folder:
            page = save_page(found, draw_report(found, Path(folder), formats=("svg",)), args.out)
    say(f"\n{short(page)}")
    return 0
