"""The ``labkit`` command. Each command lives in a module of its own that is imported only when it is called.

Exit codes: 0 done; 1 the command's own "no" (``doctor`` not ready); 2 a LabError or wrong usage; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from labkit import __version__
from labkit.errors import LabError

#: Command → (module with ``add_parser(subparsers)`` and ``run(args) -> int``, one line of help). A module may add
#: several commands; ``args.command`` tells it which was called.
COMMANDS: dict[str, tuple[str, str]] = {
    "bench": ("labkit.cli.bench", "the load client alone, against any OpenAI-compatible endpoint"),
    "doctor": ("labkit.cli.doctor", "what this node has, and the command for each thing missing"),
    "run": ("labkit.cli.notebook", "execute a notebook in batch, and keep it with its run"),
    "runs": ("labkit.cli.runs", "list the runs, newest first"),
    "show": ("labkit.cli.runs", "what a run was, what it measured, and its verdict"),
    "compare": ("labkit.cli.compare", "runs and their sides beside each other: what differs, values, ratios, a verdict"),
    "report": ("labkit.cli.report", "any set of runs as one page, with a verdict for each claim"),
    "import": ("labkit.cli.importing", "result files of vllm bench serve and AIPerf as runs"),
    "export": ("labkit.cli.export", "a run's figures as files, its measurements as JSON or tables"),
    "export-deployment": ("labkit.cli.export_deployment", "a run's split as files that start it elsewhere"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code. Errors of the lab are one message on stderr, never a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _ended_by(signal.SIGTERM):
            code = _run(arguments)
        sys.stdout.flush()
    except LabError as error:
        print(f"labkit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("labkit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep the interpreter from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    return code


@contextlib.contextmanager
def _ended_by(number: signal.Signals) -> Iterator[None]:
    """Let a signal unwind the command, so that it removes its temporary folders; one that was ignored stays so."""

    def end(*_: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is not signal.SIG_DFL:
        yield
        return
    signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL)


def _run(arguments: Sequence[str]) -> int:
    called = next((word for word in arguments if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="labkit", description="A performance lab for LLM serving: aggregated against disaggregated, measured on your node."
    )
    parser.add_argument("--version", action="version", version=f"labkit {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    module_name = COMMANDS[called][0] if called in COMMANDS else None
    module = importlib.import_module(module_name) if module_name else None
    for name, (owner, summary) in COMMANDS.items():
        if owner != module_name:
            subparsers.add_parser(name, help=summary, add_help=False)
        elif module is not None and name == called:
            module.add_parser(subparsers)
    args = parser.parse_args(arguments)
    return int(module.run(args)) if module is not None else 2


if __name__ == "__main__":
    sys.exit(main())
