"""How the command line writes: consoles that fit a terminal and a pipe, numbers with footnotes, JSON."""

from __future__ import annotations

import json
import math
import os
import string
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from labkit.harmless import harmless, harmless_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPE_WIDTH: Final = 120
MISSING: Final = "–"
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def console(*, error: bool = False, width: int | None = None) -> Console:
    """Standard output, or standard error: as wide as the terminal; 120 columns and no colours in a pipe.

    No character of a text that is printed on it is obeyed by a terminal; colours come of markup alone.
    """
    from rich.console import Console
    from rich.text import Text

    class Harmless(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(harmless(text), **options)

    stream = sys.stderr if error else sys.stdout
    if width is None and not stream.isatty() and not os.environ.get("COLUMNS"):
        width = _PIPE_WIDTH
    return Harmless(highlight=False, width=width, stderr=error)


def say(text: str = "", *, error: bool = False) -> None:
    """A line on standard output, or standard error, none of whose characters a terminal obeys."""
    print(harmless(text), file=sys.stderr if error else sys.stdout)


def grid(*columns: str, left: Sequence[str] = ()) -> Table:
    """A table without rules; columns are flush right but for those named in ``left``, which may fold."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=name not in left, overflow="fold")
    return table


def print_json(data: Any) -> None:
    """JSON on standard output; NaN and infinities are null."""
    print(harmless_json(json.dumps(json_ready(data), indent=2, ensure_ascii=False, default=str)))


def json_ready(value: Any) -> Any:
    """The same with what JSON cannot say replaced: NaN and infinities by null."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: float | None, scale: float = 1.0) -> str:
    """Three digits, or whole above a hundred: ``0.412``, ``16.1``, ``1,204``."""
    if value is None or not math.isfinite(value):
        return MISSING
    scaled = value * scale
    size = abs(scaled)
    digits = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{scaled:,.{digits}f}"


def size(count: int) -> str:
    """``1.2 MB``."""
    amount, unit = float(count), 0
    while amount >= 999.5 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.{1 if unit and amount < 99.95 else 0}f} {_UNITS[unit]}"


def local_time(iso: str) -> str:
    """An instant of the manifest in the time of this node: ``2026-11-23 17:45``."""
    try:
        return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return iso


def short_time(iso: str) -> str:
    """The same in 12 columns: ``23 Nov 17:45``, and ``23 Nov 2025`` for another year."""
    try:
        then = datetime.fromisoformat(iso).astimezone()
    except ValueError:
        return iso
    return then.strftime("%d %b %H:%M" if then.year == datetime.now().astimezone().year else "%d %b %Y")


def short(path: Path) -> str:
    """A path as one would type it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


class Footnotes:
    """Reasons, each with a letter: ``a`` … ``z``, ``aa`` …"""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def mark(self, text: str, reason: str) -> str:
        """The text with the letter of its reason."""
        if not reason:
            return text
        count = len(self._reasons)
        letters = string.ascii_lowercase
        label = letters[count] if count < len(letters) else letters[count // len(letters) - 1] + letters[count % len(letters)]
        return f"{text}{self._reasons.setdefault(reason, label)}"

    def lines(self) -> list[str]:
        """``a  reason``, one a line."""
        return [f"{label}  {reason}" for reason, label in self._reasons.items()]


def add_results(parser: Any) -> None:
    """The option ``--results``."""
    parser.add_argument(
        "--results", type=Path, default=Path(os.environ.get("LABKIT_RESULTS") or "results"), metavar="DIR",
        help="folder of runs (default: LABKIT_RESULTS, or results)",
    )  # fmt: skip
