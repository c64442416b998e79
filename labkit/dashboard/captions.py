"""Names and tooltips for controls that ipywidgets shows without: what is under a caption is called by it."""

from __future__ import annotations

from pathlib import Path

import anywidget


class Captions(anywidget.AnyWidget):
    """Put it anywhere inside the explorer; it shows nothing."""

    _esm = (Path(__file__).parent / "captions.js").read_text("utf-8")

    def __init__(self) -> None:
        super().__init__(layout={"height": "0", "margin": "0"})
