"""Labs on stand-in engines."""

from tests.support.open_lab import engine, exploration, open_lab, said

__all__ = ["engine", "exploration", "open_lab", "said"]
