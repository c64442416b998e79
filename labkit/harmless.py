"""Text from elsewhere, safe to show in a terminal or on a page: names of models and runs, last words of a worker, reasons.

A terminal obeys control characters: they move the cursor, set its title, hide what follows. Marks of writing direction show a
text in another order than it has. Neither is wanted in a text that somebody else wrote, so they are shown as Python writes them.
"""

from __future__ import annotations

import html
import re
from typing import Final

#: C0 but tab and line feed, DEL, C1, separators of lines and paragraphs, marks of direction, halves of characters.
_OBEYED: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""The same with what a terminal would obey written out: ``\x1b[2J``, ``\u202e``; ``\r\n`` is a line's end."""
    return _OBEYED.sub(_written, text.replace("\r\n", "\n"))


def harmless_json(text: str) -> str:
    """JSON with the same characters as JSON writes them, so that it still says the same; its own escapes stay."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def escaped(text: str) -> str:
    """The same for an HTML page, between tags or in a quoted attribute."""
    return html.escape(harmless(text))


def _written(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]
