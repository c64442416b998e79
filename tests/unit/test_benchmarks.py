"""Every benchmark runs as ``make bench`` calls it, and leaves its figures in ``results/bench/``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
NAMES = sorted(file.stem for file in BENCH.glob("*.py") if "\ndef main" in file.read_text() and file.stem != "mock_server")


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_called_and_writes_what_it_found(name: str):
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.{name}", "--help"], capture_output=True, text=True, cwd=BENCH.parents[1], timeout=120
    )
    assert done.returncode == 0, done.stderr
    text = (BENCH / f"{name}.py").read_text()
    assert re.search(rf"""write\(["']{name}["'],""", text)
    assert "parse_known_args(" in text, "they are all handed the same arguments"
