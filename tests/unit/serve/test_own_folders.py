from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.serve.own_folders import own_folder


def test_folders_of_ended_processes_go_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, mine = tmp_path / f"x-{ended.pid}-a", tmp_path / f"x-{os.getpid()}-b"
    odd, other = tmp_path / "x-no-number", tmp_path / f"y-{ended.pid}-c"
    for folder in (left, mine, odd, other):
        folder.mkdir()
    made = own_folder("x-")
    assert made.name.startswith(f"x-{os.getpid()}-")
    assert set(tmp_path.iterdir()) == {mine, odd, other, made}
    assert made.stat().st_mode & 0o077 == 0, "nobody else reads it"
