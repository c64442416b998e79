"""A papermill engine of our own: this interpreter as the kernel, its output on the terminal, and signals that end well."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.util import run_sync
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

from labkit.harmless import harmless

ENGINE: Final = "labkit"
KERNEL: Final = "python3"
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_TITLE: Final = 64
_LONGEST_SOCKET: Final = 90
_LOG: Final = "kernel.log"
_INTERRUPTING: Final = b"labkit: interrupting; the notebook closes its run (once more ends it at once)\n"

log = logging.getLogger("labkit.batch")
log.addHandler(logging.NullHandler())
log.propagate = False


class ThisInterpreter(KernelSpecManager):  # type: ignore[misc, unused-ignore]
    """Knows one kernel, the interpreter that runs this: whatever kernels are installed, and whatever the notebook names."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The interpreter that runs this, under any name."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


@dataclass
class Session:
    """One execution, as the engine sees it.

    Attributes:
        out: where the notebook's output goes while it runs.
        environment: of the kernel.
        folder: a short-lived one of this execution, for the kernel's sockets.
        interrupted: the number of the signal that ended it; ``None`` where none did.
        died: how the kernel ended where it died under a cell; empty otherwise.
    """

    out: TextIO
    environment: Mapping[str, str]
    folder: Path
    interrupted: int | None = None
    died: str = ""
    _kernel_pid: int | None = field(default=None, repr=False)
    _client: Any = field(default=None, repr=False)

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """The first signal interrupts the cell, as in JupyterLab, and the notebook closes its run; the second ends the kernel."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What is ignored stays so: nohup, and jobs in the background of a script.
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def cell(self, client: Any, pid: int) -> Iterator[None]:
        """While a cell runs, a signal goes to the kernel."""
        if self.interrupted is not None:
            raise KeyboardInterrupt
        self._client, self._kernel_pid = client, pid
        try:
            yield
        finally:
            self._kernel_pid = None

    def last_words(self) -> str:
        """The last line that the kernel's process wrote for itself; empty where there is none."""
        path = self.folder / _LOG
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def write(self, text: str) -> None:
        """Show output of the notebook now, none of which a terminal obeys; whoever read it may be gone, the notebook goes on."""
        with contextlib.suppress(BrokenPipeError):
            self.out.write(harmless(text.replace("\r", "\n")))
            self.out.flush()

    def _on_signal(self, number: int, frame: object) -> None:
        first, self.interrupted = self.interrupted is None, self.interrupted or number
        if first and self._kernel_pid is not None:
            with contextlib.suppress(OSError):  # past the buffers, which this may have interrupted; the terminal may be gone
                os.write(2, _INTERRUPTING)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._kernel_pid, signal.SIGINT)
            return
        for later in _SIGNALS:
            signal.signal(later, signal.SIG_IGN)
        if self._client is not None:
            self._client.shutdown_kernel = "immediate"
        raise KeyboardInterrupt


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """Executes the cells, says which one runs, and passes on what they print."""

    session: Session

    def execute(self, **kwargs: Any) -> Any:
        """Execute the notebook; the kernel has ended when this returns or raises."""
        manager = self.km
        # What the process itself says (warnings of its start and end, a crash) is not the notebook's output.
        with (self.session.folder / _LOG).open("wb") as file:
            try:
                return super().execute(env=dict(self.session.environment), stdout=file, stderr=file, cleanup_kc=True, **kwargs)
            finally:
                if manager.has_kernel:
                    run_sync(manager.shutdown_kernel)(now=True)

    def execute_cell(self, cell: Any, cell_index: int, **kwargs: Any) -> Any:
        """Execute one cell under its title."""
        if cell.cell_type != "code" or not cell.source.strip():
            return cell
        provisioner = self.km.provisioner
        self.session.write(f"{_title(self.nb.cells, cell_index)}\n")
        try:
            with self.session.cell(self, provisioner.pid):
                return super().execute_cell(cell, cell_index, **kwargs)
        except RuntimeError:
            code = getattr(provisioner.process, "returncode", None)
            self.session.died = _ending(code)
            raise

    def log_output_message(self, output: Any) -> None:
        """Streams and results as text, at once; a picture is in the executed notebook, and in the run's figures."""
        if output.output_type == "stream":
            self.session.write("".join(output.text))
        elif "data" in output and not any(kind.startswith("image/") for kind in output.data):
            self.session.write("".join(output.data.get("text/plain", "")).rstrip("\n") + "\n")


class Engine(NBClientEngine):  # type: ignore[misc]
    """What papermill calls."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        """Execute the cells with ``kwargs["session"]``."""
        session: Session = kwargs["session"]
        manager = AsyncKernelManager(kernel_name=kernel_name, kernel_spec_manager=ThisInterpreter(), **_wires(session.folder))
        client = Client(nb_man, km=manager, log=log, log_output=True, startup_timeout=kwargs["start_timeout"], timeout=None)
        client.session = session
        with session.signals():
            client.execute()


papermill_engines.register(ENGINE, Engine)


def _title(cells: list[Any], index: int) -> str:
    """``[2/6] Measure``: which code cell, under which heading or with which first line."""
    numbers = [number for number, cell in enumerate(cells) if cell.cell_type == "code" and cell.source.strip()]
    place = f"[{numbers.index(index) + 1}/{len(numbers)}]"
    tags = cells[index].metadata.get("tags", [])
    if "parameters" in tags:
        return f"{place} parameters"
    if "injected-parameters" in tags:
        lines = [line for line in cells[index].source.splitlines() if line and not line.startswith("#")]
        return f"{place} given: {', '.join(lines)}"
    above = cells[index - 1] if index else None
    heading = (
        next((line for line in above.source.splitlines() if line.startswith("#")), "")
        if above is not None and above.cell_type == "markdown"
        else ""
    )
    first = heading.lstrip("# ") or next(line for line in cells[index].source.splitlines() if line.strip())
    return f"{place} {first if len(first) <= _LONGEST_TITLE else first[: _LONGEST_TITLE - 1] + '…'}"


def _wires(folder: Path) -> dict[str, str]:
    """Sockets that are files, which need no port and which nobody else can reach; TCP where their names would be too long."""
    file = str(folder / "kernel.json")
    return {"connection_file": file, **({"transport": "ipc"} if len(file) < _LONGEST_SOCKET else {})}


def _ending(code: int | None) -> str:
    if code is None:
        return ""
    return f"it was killed by {signal.Signals(-code).name}" if code < 0 else f"it exited with code {code}"
