"""What has died, workers and the router: each a red card with the cause in words, and a button that brings it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from labkit.dashboard.form import Line, W, button, let_go, row
from labkit.harmless import escaped
from labkit.live.sample import RouterFault

#: What a card is of: a name and a cause, and for a router its last words.
_Fallen = tuple[str, str, tuple[str, ...] | None]


class HealthView:
    """``widget`` is to be displayed; it takes no room while all is well.

    Args:
        on_restart: called with the name of a worker that is to come back.
        on_router: called where another router is wanted.
    """

    def __init__(self, on_restart: Callable[[str], object], on_router: Callable[[], object]) -> None:
        self._on_restart, self._on_router = on_restart, on_router
        self._cards: dict[_Fallen, Any] = {}
        self.widget = W.VBox(layout=W.Layout(width="100%"))

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
        for gone in self._cards.keys() - set(wanted):
            let_go(self._cards.pop(gone))
        for fallen in wanted:
            if fallen not in self._cards:
                self._cards[fallen] = self._card(*fallen)
            self._cards[fallen].children[-1].children[0].disabled = busy and fallen[2] is None
        if (cards := tuple(self._cards[key] for key in wanted)) != self.widget.children:
            self.widget.children = cards

    def _card(self, name: str, cause: str, log: tuple[str, ...] | None) -> Any:
        told = cause if cause.startswith(name) else f"{name} is dead: {cause}"
        if log is None:
            again = button(f"Restart {name}", "refresh", f"Start {name} again while the others and the load go on", "danger")
            again.on_click(lambda _: self._on_restart(name))
            parts = [Line(told, "bad").widget]
        else:
            words = "Bring up another router over the workers that live; none of them starts again, and the load goes on"
            again = button("New router", "refresh", words, "danger")
            again.on_click(lambda _: self._on_router())
            parts = [Line(f"{told}. No request is served until there is another.", "bad").widget]
            if log:
                said = escaped("\n".join(log))
                parts.append(W.HTML(f'<pre class="lk-last" title="the last lines of its log" tabindex="0">{said}</pre>'))
        card = W.VBox([*parts, row(again)], layout=W.Layout(width="100%"))
        card.add_class("lk-fallen")
        return card
