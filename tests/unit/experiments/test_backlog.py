"""Requests under way are followed by the watch that there is, however late it began."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from labkit.errors import LoadError
from labkit.experiments.backlog import Backlog

FAR_NS = 10**18


def watch(*, heard: bool = True, oldest_sent_ns: int | None = None, known_ns: int = FAR_NS) -> Any:
    window = SimpleNamespace(oldest_sent_ns=oldest_sent_ns, horizon_ns=lambda _: known_ns)
    return SimpleNamespace(window=window, heard=heard)


def looks(watches: list[Any], *, loading: bool = True) -> int:
    """How many looks it takes, where each is at the next of these watches."""
    left = list(watches)
    Backlog(lambda: left.pop(0), lambda: loading, lambda _: None).follow(time.perf_counter_ns(), on_disk=False)
    return len(watches) - len(left)


def test_each_look_is_at_the_watch_of_the_moment():
    stopped = watch(oldest_sent_ns=1)  # it never sees the end of that request
    assert looks([stopped, stopped, watch(), watch()]) == 3


def test_a_watch_that_has_just_begun_knows_of_none_under_way_and_is_not_believed():
    assert looks([watch(oldest_sent_ns=1), watch(heard=False), watch(oldest_sent_ns=1), watch()]) == 4
    assert looks([watch(heard=False), watch()], loading=False) == 1, "no shard tells of itself without a load"
    assert looks([watch(known_ns=0), watch(oldest_sent_ns=FAR_NS)]) == 2


def test_it_takes_too_long_and_that_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("labkit.experiments.backlog._DRAIN_S", 0.0)
    with pytest.raises(LoadError, match="still under way"):
        looks([watch(oldest_sent_ns=1)])
