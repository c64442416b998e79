"""Nothing of this project starts a notebook server that lets anybody in."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Settings that open a server: no token or password, other origins, no check of requests, all addresses.
OPEN = re.compile(
    r"""(?:token|password|hashed_password)\s*=\s*(?:''|""|None|False)|allow_origin|allow_remote_access|disable_check_xsrf"""
    r"""|(?:ServerApp|NotebookApp|LabApp)\.ip=(?!127\.0\.0\.1)|--ip[= ](?!127\.0\.0\.1)|allow_unauthenticated_access\s*=\s*True"""
)
READ = (".py", ".sh", ".md", ".toml", ".ipynb", ".in", ".json", "")


def texts() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()
    names = listed or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    own = Path(__file__).name
    return [ROOT / name for name in names if Path(name).suffix in READ and not name.endswith(own) and (ROOT / name).is_file()]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_lab_binds_loopback_and_leaves_the_token_on():
    shown = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = [line for line in shown.splitlines() if "jupyter lab" in line]
    words = shlex.split(command.strip().removeprefix("@"))
    assert "--ServerApp.ip=127.0.0.1" in words
    assert not [word for word in words if "token" in word.lower() or "password" in word.lower()]


def test_no_file_opens_a_server():
    found = {
        str(path.relative_to(ROOT)): match[0] for path in texts() if (match := OPEN.search(path.read_text(errors="replace")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    ["--ServerApp.token=''", '--IdentityProvider.token=""', "c.ServerApp.password = ''", "--ServerApp.ip=0.0.0.0", "--ip 0.0.0.0",
     "c.ServerApp.allow_origin = '*'", "--ServerApp.disable_check_xsrf=True"],
)  # fmt: skip
def test_what_would_open_one_is_seen(line: str):
    assert OPEN.search(line)
