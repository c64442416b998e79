"""Bokeh in a notebook cell through one small anywidget: BokehJS from the installed package, one message a tick.

What goes over the wire. The browser asks ``bokehjs?`` once a page, ``sync?`` whenever it draws the widget (first display, page
reload, a second view) and is answered with everything; it says ``here`` every few seconds, with how far it has come, and is
``tap`` when somebody clicked. The kernel sends ``figure`` and then a ``rows`` a tick. A figure that nobody has looked at for a
minute gets nothing, so that a closed browser fills no buffer; a browser that comes back gets what it missed.
"""

from __future__ import annotations

import json
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import anywidget
import bokeh
import traitlets
from bokeh.core.json_encoder import serialize_json
from bokeh.document import Document

_HERE: Final = Path(__file__).parent
_BOKEHJS: Final = Path(bokeh.__file__).parent / "server" / "static" / "js" / "bokeh.min.js"
STYLE: Final = (_HERE / "board.css").read_text("utf-8")
BOARD: Final = "".join((_HERE / f"{name}.js").read_text("utf-8") for name in ("columns", "embed", "board"))
_UNHEARD_MOST: Final = 240  # a minute of ticks
Message = tuple[dict[str, Any], list[bytes]]


class Content(Protocol):
    """What a figure shows beside its models, if they are filled from outside."""

    def snapshot(self) -> Message:
        """Everything, for a browser that knows nothing."""

    def since(self, t_s: float) -> Message:
        """What happened after an instant, for a browser that was away."""


class LiveFigure(anywidget.AnyWidget):
    """Any Bokeh models in a cell. Every method may be called from any thread; after ``close`` they do nothing.

    Args:
        roots: Bokeh models, drawn below one another, or where the board's script puts them.
        content: what fills them; without it they hold their own data.
        key: at most one figure of a key is alive: a new one closes the one before, as when a cell is run again.
    """

    _esm = BOARD + (_HERE / "live_figure.js").read_text("utf-8")
    _css = STYLE
    bokeh_version = traitlets.Unicode(bokeh.__version__).tag(sync=True)
    _alive: Final[weakref.WeakValueDictionary[str, LiveFigure]] = weakref.WeakValueDictionary()

    def __init__(self, roots: Sequence[Any], *, content: Content | None = None, key: str | None = None) -> None:
        super().__init__(layout={"width": "100%", "min_width": "0"})
        self._lock = threading.RLock()
        self._closed = False
        self._unheard: int | None = None  # messages since a browser spoke; None until one has asked
        self._content = content
        self._document = document_json(roots)
        self._on_tap: list[Callable[[dict[str, Any]], None]] = []
        self.on_msg(self._receive)
        if key is not None:
            if (before := self._alive.get(key)) is not None:
                before.close()
            self._alive[key] = self

    @property
    def closed(self) -> bool:
        """Whether it is gone: whoever feeds it should stop."""
        return self._closed

    @property
    def seen(self) -> bool:
        """Whether a browser looks, as far as is known."""
        return self._unheard is not None and self._unheard < _UNHEARD_MOST

    def on_tap(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call back with what was clicked: the row of a data source tagged ``tap``, or a dot's ``kind`` and ``request``.

        It runs on the thread that got the message, in JupyterLab one of its own beside the kernel's main loop.
        """
        self._on_tap.append(callback)

    def replace(self, roots: Sequence[Any]) -> None:
        """Draw other models in place of these."""
        document = document_json(roots)
        with self._lock:
            if not self._closed:
                self._document = document
                self._sync()

    def tell(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> bool:
        """Send one message to every browser that looks; False where none does, or after ``close``."""
        with self._lock:
            if self._closed or self._unheard is None or not self.seen:
                return False
            self._unheard += 1
            self.send(content, buffers)
            return True

    @property
    def lock(self) -> threading.RLock:
        """Held while something is sent. Whoever changes the content holds it from the change to ``tell``, so that no browser
        gets the same thing in a snapshot and in a tick."""
        return self._lock

    def close(self) -> None:
        """Take it off the page and let go of everything."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._document, self._content = {}, None
            self._on_tap.clear()
        super().close()

    def _sync(self) -> None:
        if self._unheard is None:
            return
        content, buffers = self._content.snapshot() if self._content is not None else ({}, [])
        self._unheard = 0
        self.send({"type": "figure", "document": self._document, **content}, buffers)

    def _receive(self, _widget: Any, message: Any, _buffers: Any) -> None:
        kind = message.get("type") if isinstance(message, dict) else None
        with self._lock:
            if self._closed:
                return
            if kind == "bokehjs?":
                self.send({"type": "bokehjs"}, [_BOKEHJS.read_bytes()])
            elif kind == "sync?":
                self._unheard = 0
                self._sync()
            elif kind == "here":
                away = self._unheard is None or self._unheard >= _UNHEARD_MOST
                self._unheard = 0
                if away and self._content is not None:
                    content, buffers = self._content.since(float(message["last"]))
                    self.send({"type": "rows", **content}, buffers)
        if kind == "tap":
            for callback in tuple(self._on_tap):
                try:
                    callback(message["what"])
                except Exception:
                    traceback.print_exc()


def document_json(roots: Sequence[Any]) -> dict[str, Any]:
    """A Bokeh document as JSON, its models free to be used again."""
    document = Document()
    for root in roots:
        document.add_root(root)
    made: dict[str, Any] = json.loads(serialize_json(document.to_json(deferred=False)))
    document.clear()
    return made
