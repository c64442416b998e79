"""Labs on stand-in engines."""

from tests.support.open_lab import engine, open_lab, said

__all__ = ["engine", "open_lab", "said"]
