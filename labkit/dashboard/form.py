"""Small pieces of the controls: labelled fields, headings, lines of text that are always escaped."""

from __future__ import annotations

from typing import Any, Final, Literal

import ipywidgets

from labkit.harmless import escaped

W: Final[Any] = ipywidgets  # it has no types

Tone = Literal["", "good", "bad", "busy"]


def heading(text: str) -> Any:
    """The name of a group of controls."""
    return W.HTML(f'<div class="lk-heading">{escaped(text)}</div>')


def clock(t_s: float) -> str:
    """An instant as the charts write it, with tenths: 3:09.6."""
    tenths = round(t_s * 10)
    hours, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def field(label: str, widget: Any, tooltip: str) -> Any:
    """A widget below its label, with a tooltip on both; the label is read out with it (``captions.js``).

    Args:
        label: may be empty where the widget says by itself what it is.
    """
    widget.tooltip = tooltip
    widget.layout.width = "auto"
    caption = W.HTML(f'<label class="lk-label" title="{escaped(tooltip)}">{escaped(label)}</label>')
    caption.layout.display = None if label else "none"
    whole = W.VBox([caption, widget], layout=W.Layout(flex="1 1 0%", min_width="0", overflow="visible"))
    whole.add_class("lk-field")
    return whole


def row(*widgets: Any) -> Any:
    """Widgets beside each other, each as wide as the others."""
    return W.HBox(list(widgets), layout=W.Layout(width="100%", grid_gap="6px"))


def button(label: str, icon: str, tooltip: str, style: str = "") -> Any:
    """A button with an icon; it is reached with Tab and pressed with Enter or Space."""
    return W.Button(
        description=label,
        icon=icon,
        tooltip=tooltip,
        button_style=style,
        layout=W.Layout(width="auto", flex="1 1 0", min_width="0"),
    )


def let_go(*widgets: Any) -> None:
    """Close widgets, what is in them, and how they look: each is an object on both sides, and is kept until it is closed."""
    for widget in widgets:
        let_go(*getattr(widget, "children", ()))
        widget.close()
        for look in ("layout", "style"):
            if hasattr(widget, look):
                getattr(widget, look).close()


def fold(label: str, tooltip: str, body: Any) -> Any:
    """A part that is closed until its button is pressed. (The header of ipywidgets' accordion is out of the keyboard's reach.)"""
    toggle = W.ToggleButton(description=label, icon="caret-right", tooltip=tooltip, layout=W.Layout(width="100%"))
    toggle.add_class("lk-fold")

    def turn(change: Any) -> None:
        toggle.icon = "caret-down" if change["new"] else "caret-right"
        body.layout.display = None if change["new"] else "none"

    body.layout.display = "none"
    toggle.observe(turn, "value")
    return W.VBox([toggle, body], layout=W.Layout(width="100%"))


class Line:
    """A text that changes: what is planned, what was done, what is wrong. ``widget`` shows it; line ends are kept."""

    def __init__(self, text: str = "", tone: Tone = "") -> None:
        self.widget = W.HTML(layout=W.Layout(width="100%"))
        self.text = ""
        self.say(text, tone)

    def say(self, text: str, tone: Tone = "") -> None:
        """Show a text; whatever is in it is text."""
        if text == self.text and tone in (self._tone(),):
            return
        self.text = text
        sign = {"good": "✓ ", "bad": "✗ ", "busy": "… "}.get(tone, "")
        role = ' role="alert"' if tone == "bad" else ""
        self.widget.value = f'<div class="lk-line {tone}"{role}>{escaped(sign + text)}</div>' if text else ""

    def _tone(self) -> str:
        value = str(self.widget.value)
        return next((tone for tone in ("good", "bad", "busy") if value.startswith(f'<div class="lk-line {tone}"')), "")
