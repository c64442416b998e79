"""`make audit`: known vulnerabilities of every locked version, each open or accepted with its reason.

pip-audit asks for what is known of them (PyPI's advisories; `make audit ARGS="--service osv"` for OSV's); `accepted.toml` says
which are open on purpose, and why. Exit codes: 0 nothing is open; 1 something is; 2 nobody could be asked, so nothing is known.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
LOCKS: Final = ("cpu.txt", "h100.txt", "dev.txt", "uv.txt")
ACCEPTED: Final = HERE / "accepted.toml"
_PINNED: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_UNASKED: Final = (
    "no advisory data: what pip-audit asks did not answer for any of {count} packages ({why}).\n"
    "This says nothing of them, good or bad: run `make audit` on a machine that reaches PyPI's advisories, or OSV's\n"
    "(ARGS='--service osv'), or judge what pip-audit found there: ARGS='--judge FILE', its output with --format json."
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A vulnerability that stays open, with the reason."""

    package: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of the locked versions.

    Attributes:
        open, accepted: ``(package, version, id, fixed in, summary or reason)``.
        stale: exceptions that nothing needs any more.
        unknown: package → why nobody could say.
        asked: packages of which something is known, if only that there is nothing.
    """

    open: tuple[tuple[str, ...], ...]
    accepted: tuple[tuple[str, ...], ...]
    stale: tuple[Accepted, ...]
    unknown: Mapping[str, str]
    asked: int


def locked(names: Sequence[str] = LOCKS) -> dict[tuple[str, str], set[str]]:
    """``(package, version)`` → the locks that hold it; a build's own label (``+cpu``) is no part of a version here."""
    found: dict[tuple[str, str], set[str]] = {}
    for name in names:
        for line in (HERE / name).read_text(encoding="utf-8").splitlines():
            if match := _PINNED.match(line):
                found.setdefault((_normal(match[1]), match[2].partition("+")[0]), set()).add(name)
    return found


def accepted(path: Path = ACCEPTED) -> tuple[Accepted, ...]:
    """The exceptions; ValueError for one without package, id and reason, or twice."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("accepted", [])
    found = []
    for entry in entries:
        if set(entry) != {"package", "id", "reason"} or not all(
            isinstance(text, str) and text.strip() for text in entry.values()
        ):
            raise ValueError(f"{path.name}: {entry} must have package, id and reason, and nothing else")
        found.append(Accepted(_normal(entry["package"]), entry["id"], entry["reason"]))
    if len({(one.package, one.id) for one in found}) < len(found):
        raise ValueError(f"{path.name}: an exception stands twice")
    return tuple(found)


def judge(answer: Mapping[str, Any], exceptions: Sequence[Accepted]) -> Judged:
    """Sort what pip-audit found (``--format json``)."""
    still_open, known, needed, unknown, asked = [], [], set(), {}, 0
    for entry in answer["dependencies"]:
        name = _normal(entry["name"])
        if "skip_reason" in entry:
            unknown[name] = str(entry["skip_reason"])
            continue
        asked += 1
        for one in entry["vulns"]:
            ids = {one["id"], *one.get("aliases", ())}
            reason = next((each for each in exceptions if each.package == name and each.id in ids), None)
            told = (name, entry["version"], one["id"], ", ".join(one.get("fix_versions", ())) or "no version")
            if reason is None:
                still_open.append((*told, " ".join(str(one.get("description", "")).split())[:160]))
            else:
                needed.add(reason)
                known.append((*told, reason.reason))
    stale = tuple(one for one in exceptions if one not in needed and one.package not in unknown)
    return Judged(tuple(sorted(still_open)), tuple(sorted(known)), stale, unknown, asked)


def report(found: Judged, count: int) -> int:
    """Print it; the exit code."""
    if found.asked == 0:
        why = next(iter(found.unknown.values()), "no answer")
        print(_UNASKED.format(count=count, why=why))
        return 2
    for name, version, identity, fixed, text in found.open:
        print(f"OPEN      {name} {version}  {identity}  fixed in {fixed}\n          {text}")
    for name, version, identity, fixed, reason in found.accepted:
        print(f"accepted  {name} {version}  {identity}  fixed in {fixed}\n          {reason}")
    for one in found.stale:
        print(f"stale     {one.package}  {one.id}: nothing needs this exception any more; remove it from {ACCEPTED.name}")
    if found.unknown:
        print(f"unknown   {len(found.unknown)} packages, of which nobody could say anything: {', '.join(sorted(found.unknown))}")
    print(f"{count} locked packages, {found.asked} asked about: {len(found.open)} open, {len(found.accepted)} accepted")
    return 1 if found.open or found.stale else 0


def _asked(pins: Sequence[str], service: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="labkit-") as folder:
        file = Path(folder) / "locked.txt"
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--requirement",
            str(file),
            "--no-deps",
            "--disable-pip",
        ]
        command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    except ValueError:
        last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
        return {"dependencies": [{"name": pin.partition("==")[0], "skip_reason": last} for pin in pins]}


def _one_version_each(pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Pins in files none of which names a package twice: the locks differ in some versions."""
    files: list[dict[str, str]] = []
    for name, version in pairs:
        file = next((file for file in files if name not in file), None)
        if file is None:
            files.append(file := {})
        file[name] = version
    return [[f"{name}=={version}" for name, version in file.items()] for file in files]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(argv: Sequence[str]) -> int:
    """Ask, judge, print."""
    parser = argparse.ArgumentParser(prog="make audit", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi", help="whom pip-audit asks")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="judge this output of pip-audit --format json, and ask nobody")
    args = parser.parse_args(argv)
    pairs = sorted(locked())
    if args.judge is not None:
        answer = json.loads(args.judge.read_text(encoding="utf-8"))
    else:
        answers = [_asked(pins, args.service) for pins in _one_version_each(pairs)]
        answer = {"dependencies": [entry for one in answers for entry in one["dependencies"]]}
    return report(judge(answer, accepted()), len(pairs))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
