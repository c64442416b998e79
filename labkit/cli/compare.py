"""``labkit compare``: two sides of a run, or of two runs, with a verdict in words."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from labkit.cli.table import add_results, console, print_json

if TYPE_CHECKING:
    from labkit.experiments import Comparison


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser(
        "compare",
        help="two sides of a run, or of two runs: ratios with intervals, and a verdict",
        description="Set two sides against each other: those of one run, or one of each of two runs. Ratios are second / first.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="one run with two sides, or two runs: ids, paths, or latest")
    parser.add_argument("--sides", nargs=2, metavar=("A", "B"), help="which sides, where a run has several")
    parser.add_argument("--allow-unequal", action="store_true", help="accept unequal hardware or work, and label it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print; 0.

    Raises:
        LabError: runs that are not there, or that must not be compared.
    """
    from labkit.experiments import table, verdict

    comparison = _compare(args)
    said = verdict(comparison)
    if args.json:
        print_json({**comparison.to_dict(), "verdict": asdict(said)})
        return 0
    print(table(comparison))
    console().print(f"\n{said}", markup=False)
    return 0


def _compare(args: argparse.Namespace) -> Comparison:
    from labkit.cli.view import sides_of, slo_of
    from labkit.errors import ComparisonError
    from labkit.experiments import compare, compare_runs
    from labkit.store.run import open_run

    if len(args.runs) > 2:
        raise ComparisonError(f"{len(args.runs)} runs were named", remedy="name one run with two sides, or two runs")
    runs = [open_run(name, args.results) for name in args.runs]
    slo = slo_of(runs[0])
    try:
        if len(runs) == 2:
            side_a, side_b = args.sides or (None, None)
            return compare_runs(*runs, side_a=side_a, side_b=side_b, slo=slo, allow_unequal=args.allow_unequal)
        records = runs[0].digest()
        sides = args.sides or sides_of(records)
        if len(sides) != 2:
            known = f"the sides {', '.join(sides)}" if sides else "no finished measurement"
            raise ComparisonError(f"run {runs[0].id} has {known}", remedy="choose two with --sides A B, or name a second run")
        return compare(records, *sides, slo=slo, manifest=runs[0].manifest, allow_unequal=args.allow_unequal)
    except ComparisonError as error:
        remedy = error.remedy.replace("allow_unequal=True", "--allow-unequal").replace("name one of its sides", "use --sides A B")
        raise ComparisonError(error.what, remedy=remedy) from error
