"""Traces that ask for more memory than a machine has, or never end: one clear error within bounded memory."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bounded import bounded

ROW = b'{"timestamp": 1, "input_length": 10, "output_length": 1'


def endless_line(path: Path) -> None:
    with path.open("wb") as file:
        file.write(ROW + b', "x": "')
        file.truncate(3 << 30)


def rows(path: Path) -> None:
    with path.open("wb") as file:
        file.write((ROW + b"}\n") * 10_100)


def bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\0" * (64 << 20)))


READ = """
from labkit.load import traces
from labkit.load.traces import load_lengths, load_trace
traces._MOST_ROWS //= 500
{}
"""
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an endless line": (endless_line, "the line is longer than 1048576 bytes"),
    "a nest": (lambda path: path.write_bytes(ROW + b', "x": ' + b"[" * 900_000), "is no request"),
    "a number of a million digits": (lambda path: path.write_bytes(ROW.replace(b"10", b"9" * 1_000_000) + b"}"), "is no request"),
    "hash ids of a megabyte": (lambda path: path.write_bytes(ROW + b', "hash_ids": [' + b"-1," * 300_000 + b"0]}"), "hash id"),
    "more rows than a trace has": (rows, "has more than 10000 requests"),
    "gzip": (bomb, "is no UTF-8"),
    "pickle": (lambda path: path.write_bytes(b"cposix\nsystem\n(S'touch PWNED'\ntR."), "is no trace that is known"),
    "YAML": (lambda path: path.write_text("!!python/object/apply:os.system ['touch PWNED']\n"), "is no trace that is known"),
    "a pipe": (os.mkfifo, "it is no file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is no file"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reader", ["load_trace('trace')", "load_lengths('trace', 'isl')"])
def test_a_trace_that_is_a_bomb_is_one_clear_error(tmp_path: Path, name: str, reader: str):
    make, message = CASES[name]
    make(tmp_path / "trace")
    ended = bounded(READ.format(reader), tmp_path, gib=1.0)
    assert ended.kind == "LabError", ended
    assert re.search(message, ended.error), ended.error
    assert len(ended.error) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]
