"""What has died, workers and the router: each a red card with the cause in words, and a button that brings it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from labkit.dashboard.form import Line, W, button, row
from labkit.harmless import escaped
from labkit.live.sample import RouterFault

#: What a card is of: a name and a cause, and for a router its last words.
_Fallen = tuple[str, str, tuple[str, ...] | None]


class HealthView:
    """``widget`` is to be displayed; it takes no room while all is well.

    A browser keeps something of every widget that it has shown: cards that are of nothing any more are hidden, and used again.

    Args:
        on_restart: called with the name of a worker that is to come back.
        on_router: called where another router is wanted.
    """

    def __init__(self, on_restart: Callable[[str], object], on_router: Callable[[], object]) -> None:
        self._on_restart, self._on_router = on_restart, on_router
        self._all: list[_Card] = []
        self.widget = W.VBox(layout=W.Layout(width="100%"))

    @property
    def cards(self) -> tuple[Any, ...]:
        """The widgets that are shown, from above: the text, a router's last words, and a row with the button."""
        shown = (card for card in self._all if card.of is not None)
        return tuple(card.widget for card in sorted(shown, key=lambda card: int(card.widget.layout.order)))

    def show(self, dead: Sequence[tuple[str, str]], router: RouterFault | None = None, *, busy: bool) -> None:
        """Show these workers, each with its cause, and the router. A card stays the same widget while what it is of is dead:
        whoever is about to press its button keeps the focus.

        Args:
            dead: workers, each with its cause.
            router: why no router takes requests.
            busy: an order is being carried out; a restart waits for its end.
        """
        wanted: list[_Fallen] = [(router.name, router.cause, router.log)] if router is not None else []
        wanted += [(name, cause, None) for name, cause in dead]
        for card in self._all:
            if card.of is not None and card.of not in wanted:
                card.clear()
        of = {card.of: card for card in self._all if card.of is not None}
        spare = [card for card in self._all if card.of is None]
        for place, fallen in enumerate(wanted):
            card = of.get(fallen) or (spare.pop() if spare else self._another())
            card.tell(fallen, place, busy=busy)

    def _another(self) -> _Card:
        self._all.append(card := _Card(self._on_restart, self._on_router))
        self.widget.children = (*self.widget.children, card.widget)
        return card


class _Card:
    """``of`` is what it is of; ``None``: it is hidden."""

    def __init__(self, on_restart: Callable[[str], object], on_router: Callable[[], object]) -> None:
        self.of: _Fallen | None = None
        self._on_restart, self._on_router = on_restart, on_router
        self._line, self._log = Line(), W.HTML()
        self._again = button("", "refresh", "", "danger")
        self._again.on_click(lambda _: self._press())
        self.widget = W.VBox([self._line.widget, self._log, row(self._again)], layout=W.Layout(width="100%"))

    def tell(self, fallen: _Fallen, place: int, *, busy: bool) -> None:
        """Be of this, so many cards from above."""
        name, cause, log = fallen
        self._again.disabled, self.widget.layout.order = busy and log is None, str(place)
        if fallen == self.of:
            return
        self.of = fallen
        told = cause if cause.startswith(name) else f"{name} is dead: {cause}"
        if log is None:
            self._again.description = f"Restart {name}"
            self._again.tooltip = f"Start {name} again while the others and the load go on"
        else:
            told = f"{told}. No request is served until there is another."
            self._again.description = "New router"
            self._again.tooltip = (
                "Bring up another router over the workers that live; none of them starts again, and the load goes on"
            )
        said = escaped("\n".join(log or ()))
        self._log.value = f'<pre class="lk-last" title="the last lines of its log" tabindex="0">{said}</pre>' if said else ""
        self._log.layout.display = None if said else "none"
        self._line.say(told, "bad")
        self.widget.layout.display = None
        self.widget.add_class("lk-fallen")

    def clear(self) -> None:
        """Be of nothing."""
        self.of = None
        self.widget.layout.display = "none"
        self.widget.remove_class("lk-fallen")
        self._line.say("")
        self._log.value = ""

    def _press(self) -> None:
        if self.of is not None:
            name, _, log = self.of
            self._on_restart(name) if log is None else self._on_router()
