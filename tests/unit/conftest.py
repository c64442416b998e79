"""Notebooks made on the spot, and the real nvidia-ml-py binding on a fake libnvidia-ml.so.1 (tests/support/fake_nvml)."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nbformat
import pynvml
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

NVML = Path(__file__).parents[1] / "support" / "fake_nvml" / "fake_nvml.c"


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    """``notebook("a = 1", "# Title", "print(a)")``: the first cell holds the parameters; one that begins with # is text."""

    def make(*cells: str, name: str = "small one.ipynb") -> Path:
        first, *others = cells
        content = [new_code_cell(first, metadata={"tags": ["parameters"]})]
        content += [new_markdown_cell(cell) if cell.startswith("#") else new_code_cell(cell) for cell in others]
        path = tmp_path / "note books {x}" / name
        path.parent.mkdir(exist_ok=True)
        nbformat.write(new_notebook(cells=content), path)
        return path

    return make


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake, built once a session."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to build the fake NVML")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    # No soname: with it, whatever loads NVML by name in this process later would get the fake.
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(library), str(NVML)], check=True)
    return library


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write the fake's configuration; it counts from the next NVML call on."""
    config = tmp_path / "fake_nvml.txt"
    config.write_text("")
    monkeypatch.setenv("FAKE_NVML", str(config))

    def write(text: str) -> None:
        config.write_text(text)

    return write


@pytest.fixture
def fake_nvml(
    nvml_library: Path, configure: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[str], None]:
    """The binding of this process on the fake; the value configures it. Each test has a library of its own, and so counts what
    it left there itself."""
    own = shutil.copy(nvml_library, tmp_path / nvml_library.name)
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(own)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return configure
