"""Process trees of stand-ins, and the proof that none is left."""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.serve.processes import ProcessTree, execute, stop_all
from tests.support.fake_engine import fake_command
from tests.support.waiting import MARK, marked, until

Start = Callable[..., ProcessTree]


def none_left(mark: str) -> None:
    """Whatever carries the mark is ended; nothing should have."""
    left = marked(mark)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def mark() -> Iterator[str]:
    """A word that a test's processes carry; none of them may be left."""
    mark = uuid.uuid4().hex
    yield mark
    none_left(mark)


@pytest.fixture
def start(mark: str, tmp_path: Path) -> Iterator[Start]:
    """Begins trees, each with a log of its own; all but those of an ``argv`` are awaited until they idle."""
    trees: list[ProcessTree] = []

    def begin(
        *options: str, argv: tuple[str, ...] | None = None, by: Callable[..., Any] = execute, grace_s: float = 0.3, **env: str
    ) -> ProcessTree:
        command, log = argv or fake_command("idle", *options), tmp_path / "logs" / f"t{len(trees)}.log"
        tree = ProcessTree("t", command, env={MARK: mark, **env}, log=log, grace_s=grace_s, start=by)
        trees.append(tree)
        if argv is None:
            until(lambda: "idle\n" in tree.log_tail() + "\n" or not tree.alive, "the start of the tree")
        return tree

    yield begin
    stop_all(trees)


def scratch_of(pid: int) -> Path:
    """The folder for temporary files that a process was given."""
    found = re.search(rb"TMPDIR=([^\0]+)", Path(f"/proc/{pid}/environ").read_bytes())
    assert found is not None
    return Path(found[1].decode())


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
