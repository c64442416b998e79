"""`make audit` sorts what is known of the locked versions, and says so where nothing is."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "environments" / "audit.py"


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("labkit_audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(*dependencies: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(dependencies), "fixes": []}


VULNERABLE = {
    "name": "Some_Package", "version": "1.0",
    "vulns": [{"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1"], "fix_versions": ["1.1"], "description": "reads\nfiles"}],
}  # fmt: skip
CLEAN = {"name": "other", "version": "2.0", "vulns": []}
SKIPPED = {"name": "third", "skip_reason": "not found"}


def test_every_exception_names_a_locked_package_and_has_a_reason(audit: ModuleType):
    names = {name for name, _ in audit.locked()}
    for one in audit.accepted():
        assert one.package in names, f"{one.package} is locked no more: remove its exception"
        assert len(one.reason.split()) >= 5, f"{one.id}: {one.reason!r} is no reason"


def test_every_package_of_every_lock_is_asked_about(audit: ModuleType):
    pairs = audit.locked()
    for lock in audit.LOCKS:
        text = (ROOT / "environments" / lock).read_text()
        assert text.count("==") == sum(lock in locks for locks in pairs.values()), lock
    files = audit._one_version_each(sorted(pairs))
    assert sum(map(len, files)) == len(pairs)
    assert all(len({pin.partition("==")[0] for pin in file}) == len(file) for file in files)
    assert "pip-audit" in {name for name, _ in pairs}
    assert not [version for _, version in pairs if "+" in version]


def test_what_is_open_fails_and_what_is_accepted_by_any_of_its_names_does_not(
    audit: ModuleType, capsys: pytest.CaptureFixture[str]
):
    assert audit.report(audit.judge(answer(VULNERABLE, CLEAN), ()), 2) == 1
    assert "OPEN      some-package 1.0  PYSEC-2026-1  fixed in 1.1\n          reads files" in capsys.readouterr().out
    reason = audit.Accepted("some-package", "CVE-2026-1", "nothing here reads such files")
    assert audit.report(audit.judge(answer(VULNERABLE, CLEAN), (reason,)), 2) == 0
    out = capsys.readouterr().out
    assert "nothing here reads such files" in out
    assert "2 locked packages, 2 asked about: 0 open, 1 accepted" in out


def test_an_exception_that_nothing_needs_is_to_be_removed(audit: ModuleType, capsys: pytest.CaptureFixture[str]):
    stale = audit.Accepted("other", "CVE-2026-2", "it was once open here")
    assert audit.report(audit.judge(answer(CLEAN), (stale,)), 1) == 1
    assert "stale     other  CVE-2026-2" in capsys.readouterr().out


def test_where_nobody_answers_nothing_is_claimed(audit: ModuleType, capsys: pytest.CaptureFixture[str]):
    assert audit.report(audit.judge(answer(SKIPPED), ()), 1) == 2
    assert "no advisory data" in (out := capsys.readouterr().out)
    assert "says nothing of them" in out
    assert audit.report(audit.judge(answer(SKIPPED, CLEAN), ()), 2) == 0
    assert "unknown   1 packages, of which nobody could say anything: third" in capsys.readouterr().out


@pytest.mark.parametrize("text", ['[[accepted]]\npackage = "a"\nid = "b"', '[[accepted]]\npackage = "a"\nid = "b"\nreason = " "'])
def test_an_exception_without_a_reason_is_none(audit: ModuleType, tmp_path: Path, text: str):
    (tmp_path / "accepted.toml").write_text(text)
    with pytest.raises(ValueError, match="must have package, id and reason"):
        audit.accepted(tmp_path / "accepted.toml")


def test_what_was_found_elsewhere_is_judged_here(tmp_path: Path):
    (tmp_path / "found.json").write_text(json.dumps(answer(VULNERABLE)))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--judge", str(tmp_path / "found.json")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "OPEN      some-package" in done.stdout) == (1, True)
