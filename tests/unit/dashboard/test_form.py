"""Small pieces of the controls: what is folded away, and cards that stay while somebody is about to press them."""

from __future__ import annotations

from typing import Any

import ipywidgets
from ipywidgets.widgets.widget import _instances

from labkit.dashboard.form import fold
from labkit.dashboard.health_view import HealthView
from labkit.live.sample import RouterFault

W: Any = ipywidgets


def test_a_fold_is_opened_by_a_button_that_the_keyboard_reaches():
    body = W.VBox()
    toggle = fold("Pool", "how many", body).children[0]
    assert (type(toggle), toggle.tooltip, body.layout.display) == (W.ToggleButton, "how many", "none")
    toggle.value = True
    assert (body.layout.display, toggle.icon) == (None, "caret-down")
    toggle.value = False
    assert body.layout.display == "none"


def test_a_card_stays_while_its_worker_is_dead_and_is_used_again():
    asked: list[str] = []
    health = HealthView(asked.append, lambda: asked.append("router"))
    assert health.cards == ()
    health.show([("w1", "w1 died: <b>"), ("w2", "out of memory")], busy=False)
    first, second = health.cards
    assert "&lt;b&gt;" in first.children[0].value
    assert "w2 is dead: out of memory" in second.children[0].value
    health.show([("w1", "w1 died: <b>")], busy=True)
    assert health.cards == (first,)
    assert second.layout.display == "none"
    assert first.children[1].layout.display == "none", "a worker's last words are in its cause"
    button = first.children[-1].children[0]
    assert button.disabled
    health.show([("w1", "w1 died: <b>")], busy=False)
    assert not button.disabled
    button.click()
    assert asked == ["w1"]
    health.show([("w1", "w1 died: <b>")], RouterFault("router3", "router3 died: it exited with code 1", ("<i>bye",)), busy=True)
    router, worker = health.cards
    assert (router, worker) == (second, first), "the router's is the upper one, on the card that was of another worker"
    assert router.layout.order < worker.layout.order
    assert "No request is served until there is another" in router.children[0].value
    assert "&lt;i&gt;bye</pre>" in router.children[1].value
    another = router.children[-1].children[0]
    assert not another.disabled, "it waits for no order"
    another.click()
    assert asked == ["w1", "router"]
    made = len(_instances)
    health.show([], busy=False)
    assert health.cards == ()
    assert {card.layout.display for card in health.widget.children} == {"none"}
    another.click()
    assert asked == ["w1", "router"], "a hidden card is of nothing"
    health.show([("w3", "w3 died: again"), ("w4", "w4 died: too")], busy=False)
    assert [card.children[-1].children[0].description for card in health.cards] == ["Restart w3", "Restart w4"]
    assert [card.children[1].value for card in health.cards] == ["", ""]
    health.cards[1].children[-1].children[0].click()
    assert asked[-1] == "w4"
    assert len(_instances) == made, "nothing is made anew"
