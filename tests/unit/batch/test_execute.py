"""Real kernels, small notebooks."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from labkit.batch.execute import Executed, NotebookError, execute
from labkit.errors import LabError, LaunchError, SpecError, StoreError
from labkit.store import open_run
from tests.support.waiting import until

ROOT = Path(__file__).parents[3]
Make = Callable[..., Path]
MAKE_RUN = """\
import os
from pathlib import Path
from labkit.store.run import create_run
run = create_run(Path(os.environ["LABKIT_RESULTS"]), os.environ.get("LABKIT_RUN_NAME"), {"kind": "compare"})
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "my results"


def go(path: Path, results: Path, *given: str, name: str | None = None) -> tuple[Executed, str]:
    out = io.StringIO()
    done = execute(path, given, results=results, name=name, out=out)
    assert not list(results.glob(".*")), "the copy under way was left behind"
    return done, out.getvalue()


def test_the_executed_copy_and_figures_are_in_the_runs_folder(notebook: Make, results: Path):
    path = notebook(
        "rate = 1.5\ntext = 'a'\nrepeats = 3",
        "## Measure",
        f"{MAKE_RUN}print('rate', rate, repeats)",
        "(run.path / 'figures').mkdir(); (run.path / 'figures' / 'x.png').write_bytes(b''); run.finish()",
        "import sys\nfrom labkit.batch import is_batch\nprint(sys.executable, is_batch())\n{'answer': text}",
    )
    nasty = """__import__('os').system('touch X')"]\\\n\u2028{rate}"""
    done, shown = go(path, results, "rate=2", f"text={nasty}", name="mine")
    run = open_run("mine", results)
    assert done == Executed(run.path / "small one.ipynb", (run.path,))
    assert done.figures == (run.path / "figures" / "x.png",)
    assert run.status == "finished"
    assert "[3/5] Measure\nrate 2.0 3\n" in shown
    assert f"{sys.executable} True\n" in shown
    assert repr({"answer": nasty}) in shown
    copy = nbformat.read(done.notebook, as_version=4)
    assert copy.cells[3].outputs[0].text == "rate 2.0 3\n"
    assert copy.metadata.papermill.output_path == str(done.notebook)
    assert not (Path.cwd() / "X").exists()


def test_an_error_of_the_lab_comes_out_as_itself_and_the_copy_is_kept_with_the_run(notebook: Make, results: Path):
    path = notebook(
        "a = 1",
        MAKE_RUN,
        "from labkit.errors import HardwareError\nraise HardwareError('8 GPUs asked, 2 here', remedy='ask for 2')",
    )
    done, _ = go(path, results, name="mine")
    assert isinstance(done.error, LabError)
    assert type(done.error).__name__ == "HardwareError"
    assert (done.error.what, done.error.remedy) == ("8 GPUs asked, 2 here", "ask for 2")
    assert done.notebook == results / "mine" / "small one.ipynb"
    assert any(
        output.output_type == "error" for cell in nbformat.read(done.notebook, 4).cells for output in cell.get("outputs", [])
    )


def test_another_error_has_the_end_of_its_traceback_and_a_copy_without_a_run_says_failed(notebook: Make, results: Path):
    done, _ = go(notebook("a = 1", "def f():\n    return 1 / 0\nf()"), results)
    assert isinstance(done.error, NotebookError)
    assert (done.error.name, done.error.text) == ("ZeroDivisionError", "division by zero")
    assert any("return 1 / 0" in line for line in done.error.traceback)
    assert "\x1b" not in "".join(done.error.traceback)
    assert done.notebook.parent == results
    assert done.notebook.name.startswith("failed-small one-")


def test_what_a_notebook_cannot_have_leaves_nothing(notebook: Make, results: Path):
    with pytest.raises(SpecError, match="unknown topology '3X'"):
        go(notebook("side = '3X'", "from labkit import Topology", "Topology(side)"), results)
    assert not list(results.iterdir())


def test_a_kernel_that_dies_is_one_clear_error(notebook: Make, results: Path):
    done, _ = go(notebook("a = 1", MAKE_RUN, "os.kill(os.getpid(), 9)"), results, name="mine")
    assert isinstance(done.error, LaunchError)
    assert "killed by SIGKILL" in done.error.what
    assert done.notebook.parent == results / "mine"
    assert open_run("mine", results).status == "interrupted"


@pytest.mark.parametrize(
    ("given", "name", "kind"),
    [(["b=1"], None, SpecError), (["a=x"], None, SpecError), ([], "../out", StoreError), ([], "evidence", StoreError)],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    notebook: Make, results: Path, given: list[str], name: str | None, kind: type[LabError]
):
    with pytest.raises(kind):
        go(notebook("a = 1"), results, *given, name=name)
    assert not results.exists()


def test_no_notebook_is_one_clear_error(tmp_path: Path, results: Path):
    with pytest.raises(SpecError, match="there is no notebook"):
        go(tmp_path / "none.ipynb", results)
    (tmp_path / "text.ipynb").write_text("a = 1")
    with pytest.raises(SpecError, match="is no notebook"):
        go(tmp_path / "text.ipynb", results)


def test_results_that_cannot_be_a_folder_are_refused(notebook: Make, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write to"):
        execute(notebook("a = 1"), [], results=tmp_path / "file" / "results", out=io.StringIO())


#: A signal that comes at any time after the first line is refused.
STUBBORN = """\
import time
line = f"pid {os.getpid()}"
while True:
    try:
        print(line, flush=True)
        time.sleep(100)
    except KeyboardInterrupt:
        line = "refused"
"""
ORDERLY = """\
import time
try:
    print("pid", os.getpid(), flush=True)
    time.sleep(100)
except BaseException:
    run.finish("interrupted")
    raise
"""


class Batch:
    """``labkit run`` as a process of its own."""

    def __init__(self, path: Path, results: Path) -> None:
        code = "import sys; from labkit.cli.main import main; sys.exit(main())"
        argv = [sys.executable, "-c", code, "run", str(path), "--results", str(results), "--name", "mine"]
        self.process = subprocess.Popen(
            argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.kernel = int(self.line("pid ").split()[1])

    def line(self, start: str) -> str:
        assert self.process.stdout is not None
        return next(line for line in self.process.stdout if line.startswith(start))

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=60)
        return self.process.returncode, out, error


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_notebook_close_its_run(notebook: Make, results: Path, number: signal.Signals):
    batch = Batch(notebook("a = 1", MAKE_RUN, ORDERLY), results)
    batch.process.send_signal(number)
    code, out, error = batch.end()
    assert code == 128 + number
    assert error == "labkit: interrupting; the notebook closes its run (once more ends it at once)\nlabkit: interrupted\n"
    assert "Traceback" not in out
    assert ended(batch.kernel)
    run = open_run("mine", results)
    assert run.manifest["status"] == "interrupted"
    assert json.loads((run.path / "small one.ipynb").read_text())["cells"]


def test_a_second_signal_ends_a_kernel_that_goes_on(notebook: Make, results: Path):
    batch = Batch(notebook("a = 1", MAKE_RUN, STUBBORN), results)
    batch.process.send_signal(signal.SIGINT)
    batch.line("refused")
    batch.process.send_signal(signal.SIGINT)
    assert batch.end()[0] == 130
    assert ended(batch.kernel)
    assert (results / "mine" / "small one.ipynb").exists()


def test_a_signal_that_was_ignored_stays_so(notebook: Make, results: Path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        done, shown = go(notebook("a = 1", f"import os\nos.kill({os.getpid()}, 1)", "print('went on')"), results)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (done.error, done.signal) == (None, None)
    assert shown.endswith("went on\n")


def test_a_kill_leaves_no_kernel(notebook: Make, results: Path):
    batch = Batch(notebook("a = 1", MAKE_RUN, STUBBORN), results)
    os.kill(batch.process.pid, signal.SIGKILL)
    batch.end()
    until(lambda: ended(batch.kernel), "the end of the kernel", timeout_s=30)
    assert open_run("mine", results).status == "interrupted"
