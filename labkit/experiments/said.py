"""What an exploration tells the person who orders it about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Said:
    """A line for the person: what is being done, what was done, or why it failed."""

    t_s: float
    kind: Literal["doing", "done", "failed"]
    text: str
