"""Whether a list is in somebody's hands: it must not change under them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets


class Held(anywidget.AnyWidget):
    """Put it beside a list in its ``field``; it shows nothing. ``held`` is true while a browser has the focus there."""

    _esm = (Path(__file__).parent / "held.js").read_text("utf-8")
    held: Any = traitlets.Bool(False).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(layout={"height": "0", "margin": "0"})
