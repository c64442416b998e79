"""Execute a notebook in batch: check its parameters, run it, and keep the executed copy with the run that it made."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from labkit import errors
from labkit.batch import mode
from labkit.batch.broom import swept
from labkit.batch.parameters import checked, parameters_of
from labkit.errors import HardwareError, LabError, MissingEngine, SpecError, StoreError
from labkit.store.manifest import COMMAND
from labkit.store.redact import redact_known
from labkit.store.run import RUNS_FILE, check_name

if TYPE_CHECKING:
    from labkit.batch.kernel import Session

_ARROW: Final = "\n  → "
_START_TIMEOUT_S: Final = 120
_LAST_LINES: Final = 6
#: Errors that need no executed copy to be understood: nothing was launched.
_MEANINGLESS: Final = (SpecError, HardwareError, MissingEngine)


@dataclass(frozen=True, slots=True)
class NotebookError:
    """An error that a notebook did not expect: its type, its message and the end of its traceback."""

    name: str
    text: str
    traceback: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Executed:
    """An executed notebook.

    Attributes:
        notebook: the executed copy, outputs and errors included.
        runs: folders of the runs that it made.
        error: what stopped it; ``None`` where it went through.
        signal: the number of the signal that stopped it; ``None`` otherwise.
    """

    notebook: Path
    runs: tuple[Path, ...]
    error: LabError | NotebookError | None = None
    signal: int | None = None

    @property
    def figures(self) -> tuple[Path, ...]:
        """Figures that the runs hold now."""
        return tuple(path for run in self.runs for path in sorted((run / "figures").glob("*")) if path.is_file())


def execute(notebook: Path, given: Sequence[str], *, results: Path, name: str | None = None, out: TextIO) -> Executed:
    """Execute a notebook with this interpreter as its kernel; what it prints appears on ``out`` at once.

    The kernel sees ``LABKIT_MODE=batch``, ``LABKIT_RESULTS`` and, with a name, ``LABKIT_RUN_NAME``. When this returns the kernel
    has ended. The executed copy is in the folder of the first run that the notebook made, or in ``results`` where it made none.

    Args:
        notebook: an ``.ipynb`` file.
        given: ``name=value`` texts; see ``labkit.batch.parameters``.
        results: the folder that runs live in.
        name: id of the run; ``None`` leaves it to the notebook.
        out: gets the notebook's output.

    Raises:
        LabError: no such notebook, a parameter or name that cannot be, results that cannot be written; or what the notebook
            asked for cannot be meant or had, before it made a run. Nothing is left then.
    """
    content = read_notebook(notebook)
    values = checked(parameters_of(content), given)
    if name:
        check_name(name)
    from labkit.batch.kernel import Session  # two seconds to import: what is wrong above is said at once

    results = results.absolute()
    with _scratch(results) as scratch:
        # The copy is written beside the runs, so that it can be moved there whole, and outlives a kill of this process.
        copy = results / f".executing-{notebook.stem}-{os.getpid()}.ipynb"
        runs_file = scratch / "runs"
        environment = {**os.environ, mode.VARIABLE: "batch", "LABKIT_RESULTS": str(results), RUNS_FILE: str(runs_file)}
        environment |= {"LABKIT_RUN_NAME": name} if name else {}
        environment[COMMAND] = json.dumps(sys.orig_argv)
        environment.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        try:
            error, number = _execute(notebook, copy, values, Session(out, environment, scratch))
            runs = _runs(runs_file)
            if isinstance(error, _MEANINGLESS) and not runs:
                raise error
            kept = _keep(copy, notebook, results, runs, failed=error is not None or number is not None)
            return Executed(kept, runs, error, number)
        finally:
            copy.unlink(missing_ok=True)


def read_notebook(path: Path) -> Mapping[str, Any]:
    """The notebook in a file.

    Raises:
        SpecError: there is none, or it is none.
    """
    if not path.is_file():
        raise SpecError(f"there is no notebook {str(path)!r}", remedy="name an .ipynb file, such as notebooks/01_compare.ipynb")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        good = content["nbformat"] >= 4 and all("cell_type" in cell and "source" in cell for cell in content["cells"])
    except OSError as error:
        raise SpecError(f"cannot read {str(path)!r}: {error.strerror}", remedy="check path and rights") from error
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise SpecError(
            f"{str(path)!r} is no notebook", remedy="name an .ipynb file (nbformat 4); jupytext makes one from a script"
        )
    return dict(content)


def _execute(
    notebook: Path, copy: Path, values: dict[str, Any], session: Session
) -> tuple[LabError | NotebookError | None, int | None]:
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from papermill.execute import execute_notebook

    from labkit.batch.kernel import ENGINE, KERNEL

    logging.getLogger("papermill").setLevel(logging.ERROR)
    error: LabError | NotebookError | None = None
    try:
        # Papermill formats paths with its parameters: braces in a path are meant as they are.
        execute_notebook(
            _literal(notebook), _literal(copy), values, engine_name=ENGINE, kernel_name=KERNEL, language="python",
            progress_bar=False, log_output=True, start_timeout=_START_TIMEOUT_S, session=session,
        )  # fmt: skip
    except PapermillExecutionError as found:
        error = _understood(found)
    except KeyboardInterrupt:
        if session.interrupted is None:
            raise
    except DeadKernelError:
        error = _died(session.died or "it does not answer", session.last_words())
    except RuntimeError as found:
        if "Kernel died" not in str(found):
            raise
        error = _died("it ended while it started", session.last_words())
    except OSError as found:
        raise StoreError(
            f"cannot write {copy}: {found.strerror or found}", remedy="free disk space, or name another results folder"
        ) from found
    return error, session.interrupted


def _understood(error: Any) -> LabError | NotebookError:
    """An error of the lab as itself; another with the last lines of its traceback."""
    kind = getattr(errors, error.ename, None)
    if isinstance(kind, type) and issubclass(kind, LabError):
        what, _, remedy = error.evalue.partition(_ARROW)
        return kind(what, remedy=remedy or "read the executed notebook")
    from papermill.exceptions import strip_color

    lines = [line.rstrip() for part in error.traceback for line in strip_color(part).splitlines() if line.strip()]
    return NotebookError(error.ename, error.evalue, tuple(lines[-_LAST_LINES:]))


def _died(how: str, last_words: str) -> LabError:
    said = f"; it last wrote: {last_words}" if last_words else ""
    return errors.LaunchError(
        f"the notebook's kernel died: {how}{said}",
        remedy="look for a lack of memory (`dmesg`); if a run was made, `labkit show latest` opens what it recorded",
    )


def _runs(file: Path) -> tuple[Path, ...]:
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return tuple(path for line in lines if (path := Path(json.loads(line))).is_dir())


def _keep(copy: Path, notebook: Path, results: Path, runs: Sequence[Path], *, failed: bool) -> Path:
    """Move the executed copy to where it belongs; it names that place in its metadata."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    loose = results / f"{'failed-' if failed else ''}{notebook.stem}-{stamp}.ipynb"
    kept = runs[0] / f"{notebook.stem}.ipynb" if runs else loose
    with contextlib.suppress(ValueError, OSError, KeyError):  # a copy that was cut off is kept as it is
        content = json.loads(copy.read_text(encoding="utf-8"))
        content["metadata"]["papermill"]["output_path"] = str(kept)
        # What a cell printed of the environment is nobody's who is shown the notebook.
        copy.write_text(redact_known(json.dumps(content, indent=1, ensure_ascii=False)) + "\n", encoding="utf-8")
    if not copy.exists():  # stopped before the first save
        shutil.copyfile(notebook, copy)
    copy.replace(kept)
    return kept


@contextlib.contextmanager
def _scratch(results: Path) -> Iterator[Path]:
    try:
        results.mkdir(parents=True, exist_ok=True)
        if not os.access(results, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise StoreError(
            f"cannot write to {results}: {error.strerror}", remedy="name a results folder you can write to"
        ) from error
    with tempfile.TemporaryDirectory(prefix="labkit-") as folder, swept(Path(folder)):
        yield Path(folder)


def _literal(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")
