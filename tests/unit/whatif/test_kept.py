"""What was projected once is recalled by its content, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.errors import ProjectionError, SpecError
from labkit.store.run import create_run
from labkit.whatif.kept import FILE, KIND, Remembering
from labkit.whatif.workers import Setting, Workers
from tests.support.projected import Law, setting


def kept(results: Path, known: Remembering) -> None:
    run = create_run(results, None, {"kind": KIND})
    known.keep(run)
    run.finish()


def test_what_an_earlier_run_kept_is_not_asked_again(tmp_path: Path):
    first, law = Remembering(Law(), tmp_path), Law()
    said = first.workers(setting())
    assert first.workers(setting()) is said
    assert first.asked == 1
    kept(tmp_path, first)
    again = Remembering(law, tmp_path)
    assert again.workers(setting()) == said
    again.workers(setting(isl=999))
    assert [one.isl for one in law.asked] == [999]


def test_other_content_is_other_knowledge(tmp_path: Path):
    first = Remembering(Law(), tmp_path)
    first.workers(setting())
    kept(tmp_path, first)
    other = Remembering(Law(tps=(1, 2)), tmp_path)
    assert {point.tp for point in other.workers(setting()).points} == {1, 2}
    assert other.asked == 1


@pytest.mark.parametrize("text", ["", "{", '{"k": 1}', "[]"])
def test_a_damaged_file_is_no_knowledge(tmp_path: Path, text: str):
    run = create_run(tmp_path, None, {"kind": KIND})
    (run.path / FILE).write_text(text)
    run.finish()
    known = Remembering(Law(), tmp_path)
    known.workers(setting())
    assert known.asked == 1


def test_an_error_is_not_kept(tmp_path: Path):
    known = Remembering(Law(), tmp_path)
    with pytest.raises(ProjectionError, match="no timings"):
        known.workers(setting(system="cpu"))
    assert known.workers(setting()).points


def test_workers_survive_the_disk():
    said = Law().workers(setting())
    assert Workers.from_dict(said.to_dict()) == said


@pytest.mark.parametrize(("isl", "osl"), [(0, 10), (10, 1), (10, 2.5), ("uniform:1-2", 10), (True, 10)])
def test_lengths_that_no_request_has_are_refused(isl: object, osl: object):
    with pytest.raises(SpecError, match="cannot be projected"):
        Setting(model="demo", system="h100_sxm", engine="vllm", isl=isl, osl=osl)  # type: ignore[arg-type]
