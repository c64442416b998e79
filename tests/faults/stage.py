"""A scene as the campaign holds it: started under one of four faces, watched by what it says, hurt, waited for, cleared away."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from tests.faults import victims
from tests.faults.notebook import sources
from tests.faults.proxy import Proxy
from tests.faults.setting import Setting
from tests.support.waiting import MARK, marked, until

Moment = Literal["launching", "loading", "resplitting", "draining", "closing", "saving"]
ROOT = Path(__file__).parents[2]
_NOTEBOOK_CELL = "from tests.faults.scene import play\nplay({setting!r})"
T = TypeVar("T")


class NotPossible(Exception):
    """This machine does not allow the blow, and why. Raised before it is dealt: the case neither fails nor passes."""


class SceneEnded(Exception):
    """The scene was over before the moment of the injection came."""


class Stage:
    """One scene.

    Attributes:
        setting: what it is made of; an injection's ``prepare`` may change it (``alter``).
        proxy: between client and router where the setting has one; ``None`` otherwise.
        struck_ns: ``time.monotonic_ns()`` right before the blow; ``None`` before.
        victim: the process that was hit, where it was one.
        at: the moment at which it was, as it was found; may differ from the one wished where the scene was faster.
        notes: what the injection wants told in the report.
        found: what the injection itself saw that should not be.
    """

    def __init__(self, **wanted: Any) -> None:
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.setting = Setting(folder=folder, mark=f"faults-{uuid.uuid4().hex}", **wanted)
        for path in (self.setting.tmp, self.setting.results, self.setting.truth):
            path.mkdir()
        self.proxy: Proxy | None = None
        self.struck_ns: int | None = None
        self.victim: victims.Process | None = None
        self.at: str = ""
        self.notes: list[str] = []
        self.found: list[str] = []
        self._mends: list[Callable[[], object]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._kernel: Any = None
        self._terminal: int | None = None
        self._terminal_lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._read_bytes = 0
        self._states: list[dict[str, Any]] = []

    # --- before ---

    def alter(self, **changes: Any) -> None:
        """Other values of the setting, before the start."""
        assert self._process is None
        self.setting = replace(self.setting, **changes)

    def start(self) -> None:
        """Start the proxy where one is needed (the engine keeps no log of its own), and the scene."""
        if self.setting.engine != "stand-ins" or self.setting.proxy:
            self.proxy = Proxy(self.setting.truth)
            self.setting = replace(self.setting, proxy=self.proxy.url)
        file = self.setting.save()
        match self.setting.face:
            case "script":
                self._begin([sys.executable, "-m", "tests.faults.scene", str(file)])
            case "batch":
                notebook = self.setting.folder / "scene.ipynb"
                notebook.write_text(json.dumps(_notebook(str(file))))
                command = [sys.executable, "-m", "labkit.cli.main", "run", str(notebook), "--results", str(self.setting.results)]
                self._begin(command)
            case "terminal":
                self._begin_on_terminal([sys.executable, "-m", "tests.faults.scene", str(file)])
            case "kernel":
                self._begin_kernel(str(file))

    # --- what it says ---

    @property
    def states(self) -> list[dict[str, Any]]:
        """Everything that the scene has said so far."""
        with contextlib.suppress(FileNotFoundError), self.setting.states.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
            whole = data.rfind(b"\n") + 1
            self._read_bytes += whole
            self._states += [json.loads(line) for line in data[:whole].splitlines()]
        return self._states

    def last(self, state: str) -> dict[str, Any] | None:
        """The last that it said of this state."""
        return next((one for one in reversed(self.states) if one["state"] == state), None)

    @property
    def said(self) -> str:
        """What a person has seen: output, and the lines that the lab told."""
        with contextlib.suppress(FileNotFoundError):
            return self.setting.out.read_text(errors="replace")
        return ""

    @property
    def run(self) -> Path | None:
        """The folder of its run; ``None`` where it has made none."""
        if serving := self.last("serving"):
            return Path(serving["run"])
        found = sorted(
            path.parent for path in self.setting.results.glob("*/manifest.json") if not path.parent.name.startswith("older")
        )
        return found[-1] if found else None

    @property
    def kernel_pid(self) -> int | None:
        """The process that holds the lab."""
        launching = self.last("launching")
        return launching["pid"] if launching else None

    @property
    def front_pid(self) -> int | None:
        """The process that a person started: the script itself, or papermill's."""
        return self._process.pid if self._process is not None else self.kernel_pid

    @property
    def alive(self) -> bool:
        """Whether what a person started still runs."""
        if self._kernel is not None:
            pid = self.kernel_pid
            return self.last("ended") is None and (pid is None or _runs(pid))
        return self._process is not None and self._process.poll() is None

    @property
    def exit(self) -> int | None:
        """Its exit code; ``None`` while it runs, or where it is a kernel."""
        return self._process.poll() if self._process is not None else None

    # --- waiting ---

    def wait(self, condition: Callable[[], T], what: str, timeout_s: float = 240.0) -> T:
        """The first true value; SceneEnded where the scene ends first."""

        def look() -> tuple[T] | None:
            if value := condition():
                return (value,)
            if not self.alive:
                raise SceneEnded(what)
            return None

        return until(look, what, timeout_s)[0]  # type: ignore[index]

    def wait_moment(self, moment: Moment, nth: int = 1) -> None:
        """Until the scene is there: a state that it says, and for ``loading`` so many ended requests."""
        if moment == "launching":
            self.wait(lambda: victims.find(self.setting.mark, "worker"), "a first worker")
        elif moment == "loading":
            self.wait(lambda: (self.last("answers") or {"count": 0})["count"] >= nth, f"{nth} answers")
        else:
            self.wait(lambda: self.last(moment), f"the state {moment}")
        self.at = f"{moment} {nth}" if moment == "loading" else moment

    def wait_end(self, timeout_s: float = 120.0) -> bool:
        """Whether the scene has ended in time; if not, all of it is killed (by its mark) and that is a finding."""
        try:
            until(lambda: not self.alive, "the end of the scene", timeout_s)
        except AssertionError:
            self.kill_all()
            return False
        return True

    # --- the blow ---

    def find(self, role: victims.Role) -> list[victims.Process]:
        """Living processes of the scene by their part; see ``victims``. ``kernel`` and ``papermill`` are known here."""
        if role == "kernel":
            pid = self.kernel_pid
            return [victims.Process(pid, "kernel")] if pid is not None and _runs(pid) else []
        if role == "papermill":
            return [victims.Process(self._process.pid, "papermill")] if self._process is not None and self.alive else []
        return victims.find(self.setting.mark, role)

    def strike(self, victim: victims.Process | None = None) -> None:
        """Note the instant of the blow, and who gets it. Call it right before."""
        self.struck_ns, self.victim = time.monotonic_ns(), victim

    def afterwards(self, mend: Callable[[], object]) -> None:
        """Call this when the scene is over, whatever became of it: SIGCONT, unmount, give back."""
        self._mends.append(mend)

    def type_interrupt(self) -> None:
        """Ctrl-C on the terminal."""
        assert self._terminal is not None
        os.write(self._terminal, b"\x03")

    def close_terminal(self) -> None:
        """Its window is closed: everything in its foreground gets SIGHUP."""
        assert self._terminal is not None
        with self._terminal_lock:
            terminal, self._terminal = self._terminal, None
            os.close(terminal)

    # --- after ---

    def mend(self) -> None:
        """Take back what outlasts the scene."""
        while self._mends:
            with contextlib.suppress(OSError):
                self._mends.pop()()

    def kill_all(self) -> list[int]:
        """Kill everything with the scene's mark; returns what there was."""
        left = sorted(marked(self.setting.mark))
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        return left

    def clear(self, *, keep: bool = False) -> None:
        """Nothing of the scene is left afterwards; ``keep`` leaves its folder for who wants to look."""
        self.mend()
        if self._kernel is not None:
            with contextlib.suppress(Exception):
                self._kernel.shutdown_kernel(now=True)
            self._kernel = None
        self.kill_all()
        if self._process is not None:
            self._process.wait(10)
        if self._terminal is not None:
            self.close_terminal()
        if self._reader is not None:
            self._reader.join(5)
        if self.proxy is not None:
            self.proxy.close()
        if not keep:
            shutil.rmtree(self.setting.folder, ignore_errors=True)

    def hang_up_kernel(self) -> None:
        """Let the kernel end as a notebook server does when its notebook is closed."""
        if self._kernel is not None:
            self._kernel.shutdown_kernel(now=False)

    # --- faces ---

    def _env(self) -> dict[str, str]:
        own: Mapping[str, str] = {
            MARK: self.setting.mark,
            "TMPDIR": str(self.setting.tmp),
            "LABKIT_RESULTS": str(self.setting.results),
            "PYTHONPATH": str(ROOT),
            "JUPYTER_RUNTIME_DIR": str(self.setting.folder / "jupyter"),
            "IPYTHONDIR": str(self.setting.folder / "ipython"),
            "PYTHONUNBUFFERED": "1",
        }
        hooks: Mapping[str, str] = {}
        if self.setting.hooks:
            hooks = {"FAULT_HOOKS": self.setting.hooks, "PYTHONPATH": f"{ROOT / 'tests' / 'faults' / 'hooks'}{os.pathsep}{ROOT}"}
        return {**os.environ, **own, **hooks, **self.setting.env}

    def _begin(self, command: list[str], **options: Any) -> None:
        with self.setting.out.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=self._env(), cwd=self.setting.folder,
                start_new_session=True, preexec_fn=_heed_signals,
            )  # fmt: skip

    def _begin_on_terminal(self, command: list[str]) -> None:
        self._terminal, inner = pty.openpty()

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            _heed_signals()

        self._process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=self._env(), cwd=self.setting.folder, preexec_fn=take_terminal
        )
        os.close(inner)
        self._reader = threading.Thread(target=self._read_terminal, args=(self._terminal,), daemon=True)
        self._reader.start()

    def _read_terminal(self, terminal: int) -> None:
        """Never inside a read while it is closed: the terminal would stay open until that returned."""
        with self.setting.out.open("ab", buffering=0) as out, contextlib.suppress(OSError):
            while True:
                select.select([terminal], [], [], 0.05)
                with self._terminal_lock:
                    if self._terminal is None:
                        return
                    if select.select([terminal], [], [], 0)[0]:
                        out.write(os.read(terminal, 65536))

    def _cells(self, file: str) -> list[str]:
        if not self.setting.cells:
            return [_NOTEBOOK_CELL.format(setting=file)]
        return list(sources(file, list(self.setting.cells)))

    def _begin_kernel(self, file: str) -> None:
        from jupyter_client.manager import KernelManager

        manager = KernelManager(kernel_name="python3")
        with self.setting.out.open("wb") as out:
            manager.start_kernel(env=self._env(), cwd=str(self.setting.folder), stdout=out, stderr=out)
        self._kernel = manager
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        for source in self._cells(file):
            client.execute(source, stop_on_error=False)
        client.stop_channels()


def _heed_signals() -> None:
    """What was started in the background of a shell has them ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _notebook(setting: str) -> dict[str, Any]:
    cells = [
        {"cell_type": "code", "id": "parameters", "metadata": {"tags": ["parameters"]}, "outputs": [], "execution_count": None,
         "source": f"setting = {setting!r}"},
        {"cell_type": "code", "id": "play", "metadata": {}, "outputs": [], "execution_count": None,
         "source": "from tests.faults.scene import play\nplay(setting)"},
    ]  # fmt: skip
    return {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
            "nbformat": 4, "nbformat_minor": 5}  # fmt: skip
