"""``labkit doctor``: what this node has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
from typing import Any

from labkit.cli.table import add_results, console, print_json

_MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "missing": "[red]✗[/]"}


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser("doctor", help="what this node has, and the command for each thing missing")
    add_results(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 if the demo can run here, 1 if not."""
    from labkit.doctor import Report, examine

    report: Report = examine(args.results)
    if args.json:
        print_json(report.to_dict())
    else:
        _print(report)
    return 0 if report.ready else 1


def _print(report: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for check in report.checks:
        table.add_row(_MARKS[check.state], check.name, escape(check.found))
        if check.remedy:
            table.add_row("", "", f"→ [cyan]{escape(check.remedy)}[/]")
    out = console()
    out.print(table)
    missing = [check.name for check in report.checks if check.state == "missing"]
    if missing:
        out.print(f"\n[red]Not ready[/]: {escape(', '.join(missing))}.")
    else:
        out.print(f"\n[green]Ready[/] on {escape(str(report.node))}: `make demo` measures, `make lab` opens the notebooks.")
