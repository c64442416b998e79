"""The blows, a module a kind."""
