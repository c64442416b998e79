"""Names and words that somebody wrote to do harm where they are shown, and how to see that they did none."""

from __future__ import annotations

import unicodedata

#: Set by whatever of ``MARKUP`` is run as a program.
MARKER = "labkitWasHere"
_RUN = f"window.{MARKER}=1;alert(1)"
#: Ends what it may stand in (text, attribute, script, style, comment, JSON in a script), then runs.
MARKUP = (
    f"\"'--></script></style></title></textarea></svg><script>{_RUN}</script>"
    f'<img src=x onerror="{_RUN}"><svg onload="{_RUN}"><a href="javascript:{_RUN}">a</a>'
    f'{{{{constructor.constructor("{_RUN}")()}}}}'
)
#: Clears the screen; sets the title; conceals; turns the direction; overwrites the line; C1's CSI; half a character.
CONTROLS = "\x1b[2J\x1b]0;title\x07\x1b[8m\u202etxet\u2066\rover\x9b31m\x00\x08\x7f\ud800"
#: Rich's markup, TeX in matplotlib and MathJax, a format, a shell.
DIALECTS = r"[bold red][/bold red][link=file:///etc/passwd] $\frac{$ $$\href{javascript:alert(1)}{x}$$ %s {0} `id` $(id)"
LONG = "W" * 20_000
NAMES = {"markup": MARKUP, "controls": CONTROLS, "dialects": DIALECTS, "long": LONG, "lines": "one\n\ntwo\u2028three"}
#: As the path of a file, and as the last part of one: no NUL, and nothing that no file name can be written with.
PATH = f"{MARKUP} {CONTROLS} {DIALECTS}".translate(dict.fromkeys((0, 0xD800)))
ENTRY = PATH.replace("/", "|")
ALL = f"{MARKUP} {CONTROLS} {DIALECTS} one\n\ntwo\u2028three"

_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def obeyed(text: str) -> list[str]:
    """Characters that do something in a terminal, found by what Unicode says of them: not by the lab's own list."""
    return [
        letter
        for letter in text
        if letter not in "\n\t"
        and (unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(letter) in _TURNING)
    ]
