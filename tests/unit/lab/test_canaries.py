"""Secrets planted where people have them are in nothing that a run leaves, and on no command line that it starts."""

from __future__ import annotations

import io
from pathlib import Path
from textwrap import dedent

import nbformat
import pytest

from labkit.batch.execute import NotebookError, execute
from labkit.cli.main import main
from labkit.deploy import export_deployment
from labkit.errors import SpecError
from labkit.lab.lab import Lab
from labkit.serve.engines.base import EngineOptions
from tests.support.canaries import CANARY, EXTRA_ENV, VARIABLES, command_lines, found_in
from tests.support.fake_engine import FakeEngine
from tests.support.open_lab import OpenLab

ROOT = Path(__file__).parents[3]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


CELLS = (
    """
    import os
    from labkit.lab.engines import ENGINES
    from labkit.lab.lab import Lab
    from labkit.serve.engines.base import EngineOptions
    from tests.support.fake_engine import SHORT, FakeEngine, fake_node
    ENGINES["fake"] = lambda _: FakeEngine(mark=os.environ["LABKIT_TEST_MARK"])
    """,
    """
    options = EngineOptions(extra_env=EXTRA_ENV)
    with Lab("demo", "2A", engine="fake", node=fake_node(), workload=SHORT, options=options, kind="compare") as lab:
        lab.measure(), lab.resplit("1P1D"), lab.measure()
        lab.run.note(f"sent Authorization: Bearer {os.environ['OPENAI_API_KEY']}", data={"headers": dict(os.environ)})
        lab.run.note(f"the worker's last words: {os.environ['SOME_COMPANYS_TOKEN']}")
    print("what a cell says of its environment:", dict(os.environ))
    os.environ["DB_PASSWORD"]
    """,
    """
    from labkit.figures import draw_run
    draw_run(lab.run)
    """,
    "raise RuntimeError(os.environ['AWS_SESSION_TOKEN'])",
)


def test_the_whole_way_from_the_lab_to_what_others_are_given(
    tmp_path: Path, engine: FakeEngine, planted: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    cells = [dedent(cell).strip().replace("EXTRA_ENV", repr(EXTRA_ENV)) for cell in CELLS]
    # The secret of the options is no variable of the kernel, and stands in a cell: that is the author's own.
    cells[1] = cells[1].replace(CANARY, "' + word + '")
    cells[0] = f"word = 'c4n' + '4ry'\n{cells[0]}"
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbformat.write(made, tmp_path / "chain.ipynb")
    results, given = tmp_path / "results", tmp_path / "given"
    given.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with command_lines(engine.mark) as seen:
        done = execute(tmp_path / "chain.ipynb", [], results=results, name="mine", out=io.StringIO())
    assert isinstance(done.error, NotebookError)
    assert done.error.name == "RuntimeError", "the last cell's"
    assert len(seen) > 6, "kernel, workers, routers, shard, sampler"
    assert not [line for line in seen.values() if CANARY.encode() in line]

    exported = ["export", "mine", "--out", str(given), "--format", "json,csv,svg,html"]
    for command in (["report", "--out", str(given / "page.html")], exported):
        assert main([*command, "--results", str(results)]) == 0
    capsys.readouterr()
    for command in (["show", "mine"], ["show", "mine", "--json"], ["runs", "--json"], ["compare", "mine", "--json"]):
        main([*command, "--results", str(results)])
    assert CANARY not in capsys.readouterr().out
    for target in ("vllm-shell", "dynamo-shell"):
        export_deployment("mine", target, side="2A", output=given / target, results=results)
    assert len(list(given.rglob("*.sh"))) > 4
    assert found_in(results) == []
    assert found_in(given) == []
    text = done.notebook.read_text()
    assert "what a cell says of its environment" in text
    assert "[redacted]" in text


@pytest.mark.parametrize(
    "words",
    [
        ("--api-key", CANARY), (f"--api-key={CANARY}",), ("--hf-token", CANARY), ("--otlp-traces-endpoint", f"http://me:{CANARY}@host"),
        ("--config", f"http://host/?key={CANARY}"), ("--header", f"Authorization: Bearer {CANARY}"), (f"sk-{CANARY}-0123456789",),
    ],
)  # fmt: skip
def test_a_secret_among_the_flags_is_refused_before_anything_starts(open_lab: OpenLab, tmp_path: Path, words: tuple[str, ...]):
    """The command line of a worker can be read by everybody on the machine."""
    with pytest.raises(SpecError, match="extra_args holds a secret") as caught:
        open_lab("2A", options=EngineOptions(extra_args=words))
    assert CANARY not in str(caught.value)
    assert "extra_env" in caught.value.remedy
    assert found_in(tmp_path) == []


def test_a_secret_among_the_flags_of_a_re_split_is_refused_too(open_lab: OpenLab):
    with open_lab("2A") as lab:
        with pytest.raises(SpecError, match="extra_args holds a secret"):
            lab.change("1P1D", EngineOptions(extra_args=("--api-key", CANARY)))
        assert str(lab.deployment.topology) == "2A"


@pytest.mark.parametrize("url", [f"http://me:{CANARY}@127.0.0.1:9", f"http://127.0.0.1:9/v1?key={CANARY}"])
def test_an_address_with_a_secret_is_refused_and_not_repeated(tmp_path: Path, url: str):
    with pytest.raises(SpecError, match="carries a login, query or fragment") as caught:
        Lab.attach(url, "m", results=tmp_path)
    assert CANARY not in str(caught.value)
    with pytest.raises(SpecError, match="metrics page of w0") as caught:
        Lab.attach("http://127.0.0.1:9", "m", metrics={"w0": url}, results=tmp_path)
    assert CANARY not in str(caught.value)
    assert not list(tmp_path.iterdir())
