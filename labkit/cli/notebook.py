"""``labkit run``: a notebook in batch."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.cli.table import add_results, say, short

if TYPE_CHECKING:
    from labkit.batch.execute import Executed, NotebookError


def add_parser(subparsers: Any) -> None:
    """Add the command to ``labkit``."""
    parser = subparsers.add_parser(
        "run",
        help="execute a notebook in batch, and keep it with its run",
        description="Execute a notebook in batch with this interpreter, showing what it prints. The executed copy and figures "
        "are kept in the folder of the run that it makes. Ctrl-C lets the notebook close its run; a second one ends it at once. "
        "Exit code 1 if the notebook failed, 2 if the lab says why.",
    )
    parser.add_argument("notebook", type=Path, metavar="NOTEBOOK", help="an .ipynb file")
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", dest="parameters",
        help="value for a parameter of the notebook; may be repeated",
    )  # fmt: skip
    parser.add_argument("--name", metavar="RUN", help="id of the run (default: from date and kind)")
    add_results(parser)


def run(args: argparse.Namespace) -> int:
    """Execute and say where everything is; 0 done, 1 an unexpected error in the notebook, 128 + n ended by signal n.

    Raises:
        LabError: the notebook cannot be run, or it raised one.
    """
    from labkit.batch.execute import execute
    from labkit.errors import LabError

    if isinstance(sys.stdout, io.TextIOWrapper):  # no character of a notebook may end a measurement
        sys.stdout.reconfigure(errors="replace")
    done = execute(args.notebook, args.parameters, results=args.results, name=args.name, out=sys.stdout)
    _report(done)
    if done.signal is not None:
        print("labkit: interrupted", file=sys.stderr)
        return 128 + done.signal
    if isinstance(done.error, LabError):
        sys.stdout.flush()
        raise done.error
    if done.error is not None:
        _print_error(done.error)
        return 1
    return 0


def _report(done: Executed) -> None:
    say()
    for folder in done.runs:
        say(f"run       {short(folder)}")
    say(f"notebook  {short(done.notebook)}")
    folders: dict[Path, list[Path]] = {}
    for figure in done.figures:
        folders.setdefault(figure.parent, []).append(figure)
    for folder, figures in folders.items():
        kinds = ", ".join(dict.fromkeys(figure.suffix[1:] for figure in figures))
        names = ", ".join(dict.fromkeys(figure.stem for figure in figures))
        say(f"figures   {short(folder)}/  {names} ({kinds})")


def _print_error(error: NotebookError) -> None:
    message = f"{error.name}: {error.text}" if error.text else error.name
    lines = [line for line in error.traceback if line != message]
    say("\n".join(["labkit: the notebook failed", *(f"  {line}" for line in lines), f"  {message}"]), error=True)
