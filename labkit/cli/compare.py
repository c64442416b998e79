"""``labkit compare``: sides of a run, or of several runs, beside each other, with a verdict in words where there are two."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.cli.table import add_results, console, print_json, say

if TYPE_CHECKING:
    from labkit.experiments.diagnosis import Diagnosis
    from labkit.experiments.side_by_side import SideBySide
    from labkit.store.run import Run

    Picked = list[tuple[Run, str]]


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser(
        "compare",
        help="runs and their sides beside each other: what differs, values, ratios, a verdict",
        description="Set sides against each other: those of one run, or of several. Ratios are to the first, where both held as "
        "many accelerators and did the same work. Two such sides get a verdict.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="an id, a path, or latest; RUN:SIDE takes one side of it")
    parser.add_argument(
        "--sides", nargs=2, metavar=("A", "B"), help="the same for one run, or for the first and the second of two"
    )
    parser.add_argument("--allow-unequal", action="store_true", help="give ratios for unequal hardware or work too, labelled")
    parser.add_argument(
        "--why", action="store_true", help="where the time of the requests went on both sides, and why one is slower"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print; 0.

    Raises:
        LabError: runs that are not there, or fewer than two sides.
    """
    from labkit.cli.view import slo_of
    from labkit.experiments import side_by_side

    picked = _picked(args)
    slo = next((slo for run, _ in picked if (slo := slo_of(run)) is not None), None)
    found = side_by_side(picked, slo=slo, allow_unequal=args.allow_unequal)
    why = _why(picked) if args.why else None
    if args.json:
        print_json(_json(found) | ({"why": why.to_dict()} if why is not None else {}))
        return 0
    _print(found, several=len({run.path for run, _ in picked}) > 1)
    if why is not None:
        console().print(f"\n{why}", markup=False, soft_wrap=True)
    return 0


def _why(picked: Picked) -> Diagnosis:
    from labkit.errors import ComparisonError
    from labkit.experiments import diagnose_runs

    if len(picked) != 2:
        raise ComparisonError(
            f"--why is asked of two sides, and these are {len(picked)}", remedy="name two: RUN:SIDE RUN:SIDE, or --sides A B"
        )
    (run_a, side_a), (run_b, side_b) = picked
    return diagnose_runs(run_a, run_b, side_a=side_a, side_b=side_b)


def _json(found: SideBySide) -> dict[str, Any]:
    from labkit.experiments import verdict

    if found.comparison is None:
        return found.to_dict()
    return {**found.comparison.to_dict(), "verdict": asdict(verdict(found.comparison)), **found.conditions()}


def _print(found: SideBySide, *, several: bool) -> None:
    from labkit.experiments import conditions_text, side_by_side_text, table, verdict

    out = console()
    if found.comparison is None:
        out.print(side_by_side_text(found, out.width), markup=False, soft_wrap=True)
        if any(column.unequal for column in found.columns):
            out.print("--allow-unequal gives their ratios too, and says what is unequal", markup=False, soft_wrap=True)
        return
    if several and (head := conditions_text(found, out.width)):
        out.print(f"{head}\n", markup=False, soft_wrap=True)
    say(table(found.comparison))
    out.print(f"\n{verdict(found.comparison)}", markup=False)


def _picked(args: argparse.Namespace) -> Picked:
    """The sides that were named; every side of a run that was named alone."""
    from labkit.errors import ComparisonError
    from labkit.store.run import open_run

    named = [_split(text) for text in args.runs]
    runs = [open_run(name, args.results) for name, _ in named]
    if args.sides:
        if len(runs) > 2 or any(side for _, side in named):
            raise ComparisonError(
                f"--sides {' '.join(args.sides)} cannot choose among these", remedy="name each as RUN:SIDE instead"
            )
        return [(runs[0], args.sides[0]), (runs[-1], args.sides[1])]
    picked = [(run, side) for run, (_, chosen) in zip(runs, named, strict=True) for side in ([chosen] if chosen else _sides(run))]
    empty = next((run for run in runs if not run.windows), None)
    if empty is not None:
        raise ComparisonError(f"run {empty.id} has no finished measurement", remedy="measure first, or name another run")
    if len(picked) < 2:
        known = ", ".join(side for _, side in picked)
        raise ComparisonError(
            f"run {runs[0].id} has the sides {known}", remedy="name a second run, or two sides with --sides A B"
        )
    return picked


def _sides(run: Run) -> list[str]:
    return list(dict.fromkeys(window.side for window in run.windows))


def _split(text: str) -> tuple[str, str]:
    """``RUN:SIDE`` as both; an existing path with a colon is a path."""
    if Path(text).exists():
        return text, ""
    name, _, side = text.partition(":")
    return name, side
