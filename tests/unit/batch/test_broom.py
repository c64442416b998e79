"""A folder that goes with its process, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
CODE = """
import sys
from pathlib import Path
from labkit.batch.broom import swept
with swept(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_folder_of_a_killed_process_goes(tmp_path: Path, number: signal.Signals):
    """Found by the fault campaign: a killed ``labkit run`` left its kernel's files behind."""
    folder = tmp_path / "labkit-x"
    folder.mkdir()
    (folder / "kernel.json").touch()
    argv = [sys.executable, "-c", CODE, str(folder)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert folder.exists()
        process.send_signal(number)
    until(lambda: not folder.exists(), "the end of the folder")


def test_a_process_that_goes_on_keeps_it(tmp_path: Path):
    argv = [sys.executable, "-c", CODE, str(tmp_path)]
    subprocess.run(argv, cwd=ROOT, input=b"", check=True, capture_output=True)
    assert tmp_path.exists()
