"""Bash scripts from argument lists: every word quoted, but for the variables that are meant."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from labkit.deploy.commands import EVENTS, MODEL

#: The file that every script reads first, beside it.
ENVIRONMENT: Final = "deployment.env"
_START: Final = f"""set -euo pipefail
here="$(cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")" && pwd)"
# shellcheck source=/dev/null
source "$here/{ENVIRONMENT}"
"""
#: Of a name that nobody knows beforehand, and open to nobody else.
_PRIVATE: Final = 'events="$(umask 077 && mktemp -d)"\n'


def script(what: str, env: Mapping[str, str], argv: Sequence[str]) -> str:
    """A script that becomes the process: signals reach it, and its exit code is that of the script.

    Args:
        what: it starts, and where.
        env: variables on top of the file's.
        argv: of the process.
    """
    comment = f"# {' '.join(what.split())}. What was measured, what is assumed and how to use it: see {ENVIRONMENT} beside it.\n"
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in env.items())
    private = _PRIVATE if any(EVENTS in word for word in argv) else ""
    return f"#!/usr/bin/env bash\n{comment}{_START}\n{exports}{chr(10) if exports else ''}{private}exec {_command(argv)}\n"


def setting(name: str, value: str | None, missing: str = "") -> str:
    """A line of the environment file: a value that the caller's environment may replace, or must give where there is none."""
    if value is None:
        return f': "${{{name}:?{missing}}}"\n'
    return f'if [ -z "${{{name}:-}}" ]; then {name}={shlex.quote(value)}; fi\n'


def _command(argv: Sequence[str]) -> str:
    """One flag a line, with its value."""
    lines: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(_quoted(word))
    return " \\\n  ".join(" ".join(line) for line in lines if line)


def _quoted(word: str) -> str:
    if word == MODEL:
        return '"${MODEL}"'
    if EVENTS in word:
        before, _, after = word.partition(EVENTS)
        return f'{shlex.quote(before)}"${{events}}"{shlex.quote(after)}'
    return '"${PYTHON}"' if word == "python3" else shlex.quote(word)
