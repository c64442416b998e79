"""Without AIConfigurator the lab works, and says what to do where it was needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labkit.errors import ProjectionError
from labkit.whatif.aiconfigurator import AIConfigurator
from tests.support.projected import setting

ROOT = Path(__file__).parents[3]


def test_its_absence_names_the_remedy(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "aiconfigurator"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiconfigurator", None)
    with pytest.raises(ProjectionError, match="cannot be imported") as raised:
        AIConfigurator().workers(setting())
    assert "pip install aiconfigurator==0.12.0" in raised.value.remedy


def test_what_it_would_say_is_known_by_its_content_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "aiconfigurator", None)
    identity = AIConfigurator().identity(setting())
    assert identity["config"]["num_hidden_layers"] == 32
    with pytest.raises(ProjectionError, match=r"config\.json cannot be read"):
        AIConfigurator().identity(setting(str(tmp_path / "none")))


def test_importing_the_room_imports_none_of_it():
    code = "import sys, labkit.whatif, labkit.figures; print([n for n in sys.modules if n in ('aiconfigurator', 'pandas')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
