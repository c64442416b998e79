"""The import rules of pyproject.toml hold, bite, and the command line starts light."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    # -P and an explicit path: the tree given is the one that is judged, not the one that happens to be installed.
    code = f"import sys; sys.path.insert(0, {str(tree)!r}); {LINT}"
    return subprocess.run([sys.executable, "-P", "-c", code], cwd=tree, capture_output=True, text=True, check=False)


def test_the_rules_hold():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "5 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("spec/slo.py", "import labkit.measure.records"),
        ("measure/records.py", "import labkit.serve.ports"),
        ("serve/ports.py", "import labkit.store"),
        ("load/__init__.py", "import labkit.lab"),
        ("measure/records.py", "import matplotlib"),
        ("serve/hardware.py", "import torch"),
        ("experiments/points.py", "import labkit.whatif.winning"),
        ("whatif/winning.py", "import aiconfigurator"),
        ("whatif/winning.py", "import bokeh"),
        ("serve/remote.py", "import ray"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, module: str, statement: str):
    shutil.copytree(ROOT / "labkit", tmp_path / "labkit", ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    victim = tmp_path / "labkit" / module
    victim.write_text(f"{victim.read_text()}\n\n{statement}\n")
    result = lint(tmp_path)
    assert result.returncode == 1
    assert "1 broken" in result.stdout
    assert statement.removeprefix("import ") in result.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import json, sys; from labkit.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('MODULES', json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(json.loads(result.stdout.split("MODULES", 1)[1]))
    assert "labkit.cli.main" in modules
    assert not modules & {"numpy", "pyarrow", "bokeh", "matplotlib", "rich", "psutil", "pynvml", "vllm", "torch"}
