"""``python -m tests.faults.asking FOLDER``: hurts ``FOLDER/hurt`` as ``hurts.json`` says, one hurt after the other, and asks
everything that reads runs each time; what it said is ``said.json``. One process, for imports take longer than the answers."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.cli.main import main

#: What a person reads of a run; ``{out}`` is a folder for what is written. The first have all the numbers, and are quick.
QUICK = (("export", "{run}", "--format", "csv,json", "--out", "{out}"), ("runs", "--results", "{folder}"))
SLOW = (
    ("show", "{run}"),
    ("compare", "{run}", "{other}", "--allow-unequal", "--json"),
    ("report", "{run}", "{other}", "--json"),
)
_NEWER = 99
#: Files and their sizes, and the checksums that the manifest has of them.
_FILES = re.compile(r'(?m)^files in [^\n]*$|"files": \{[^}]*\}|"sums": \{(?:[^{}]|\{[^{}]*\})*\}')


def hurt_file(path: Path, how: str, at: int, bit: int) -> None:
    """``flip`` a bit, ``cut`` the file, or let a ``newer`` labkit have written it."""
    data = bytearray(path.read_bytes())
    if how == "newer":
        said = json.loads(data)
        del said["crc32"]
        path.write_text(json.dumps({**said, "schema_version": _NEWER}))
    elif how == "flip":
        data[at] ^= 1 << bit
        path.write_bytes(data)
    else:
        path.write_bytes(data[:at])


def ask(folder: Path, commands: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each command."""
    names = {"run": folder / "hurt", "other": folder / "other", "out": folder / "exported", "folder": folder}
    return [_ask([word.format(**names) for word in command], names["out"]) for command in commands]


def _ask(words: Sequence[str], written: Path) -> tuple[int, str, str]:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = main(words)
        except BaseException:
            code = 1
            traceback.print_exc()
    text = _FILES.sub("", out.getvalue())
    if words[0] == "runs":  # without sizes
        text = re.sub(r"[\d.]+ [kM]?B", "", text)
    if written.exists():
        text += "".join(f"\n{path.name}\n{path.read_text()}" for path in sorted(written.iterdir()))
        shutil.rmtree(written)
    return code, text, error.getvalue()


def _all(folder: Path) -> None:
    """The slow ones are asked of the last hurt alone."""
    hurts: list[dict[str, Any]] = json.loads((folder / "hurts.json").read_text())
    said = [ask(folder, (*QUICK, *SLOW))]
    for one in hurts:
        path = folder / "hurt" / one["path"]
        whole = path.read_bytes()
        hurt_file(path, one["how"], one["at"], one["bit"])
        said.append(ask(folder, (*QUICK, *SLOW) if one is hurts[-1] else QUICK))
        path.write_bytes(whole)
    (folder / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    _all(Path(sys.argv[1]))
