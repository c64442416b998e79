"""A real JupyterLab on a free port, and a real Chromium that looks at it."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import nbformat

from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_IDLE = (
    "() => window.jupyterapp?.shell.currentWidget?.context?.isReady"
    " && window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
)
_HEARD = """() => { const shown = window.jupyterapp?.shell.currentWidget, kernel = shown?.sessionContext?.session?.kernel
  return [shown?.title.label, shown?.context?.isReady, kernel?.status, kernel?.connectionStatus,
    document.querySelector('.jp-Dialog')?.innerText] }"""


def no_browser() -> str | None:
    """Why no page can be looked at here, if so."""
    if CHROMIUM is None:
        return "needs a browser: apt-get install chromium"
    return None if importlib.util.find_spec("playwright") else "needs playwright: make setup"


@dataclass(frozen=True, slots=True)
class Server:
    """A running JupyterLab.

    Attributes:
        folder: what its file browser shows.
        pid: of the server; its kernels are its children.
    """

    url: str
    token: str = field(repr=False)
    folder: Path
    pid: int

    def notebook(self, name: str, *cells: str) -> str:
        """Write a notebook; the address that opens it alone."""
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, self.folder / name)
        return f"{self.url}/lab/workspaces/{Path(name).stem}/tree/{name}?token={self.token}"


@contextmanager
def jupyterlab(folder: Path) -> Iterator[Server]:
    """Start it, and end it with its kernels. Nothing of the person's own settings is read or written."""
    work, own = folder / "work", folder / "jupyter"
    work.mkdir(parents=True)
    (own / "overrides").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    environ = {
        **os.environ,
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "IPYTHONDIR": str(own / "ipython"),
        "PYTHONPATH": str(ROOT),
    }
    settings = own / "settings" / "@jupyterlab"
    (settings / "apputils-extension").mkdir(parents=True)
    (settings / "apputils-extension" / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    # A test run that is killed takes its server along, and a server that ends takes its kernels.
    follow = [setpriv, "--pdeathsig", "TERM"] if (setpriv := shutil.which("setpriv")) else []
    command = [
        *follow, sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0", f"--ServerApp.root_dir={work}", "--LabApp.expose_app_in_browser=True",
        "--ServerApp.log_level=WARN", *(["--allow-root"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    with (folder / "jupyterlab.log").open("w") as log:
        process = subprocess.Popen(command, env=environ, cwd=work, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _answers(url, token, process), "JupyterLab's answer", 60)
        yield Server(url, token, work, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)  # shuts its kernels down
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str, token: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, f"JupyterLab ended with {process.returncode}"
    try:
        return httpx.get(f"{url}/api/status", headers={"Authorization": f"token {token}"}, timeout=5).is_success
    except httpx.TransportError:
        return False


@contextmanager
def chromium(profile: Path, size: tuple[int, int] = (1680, 1050), extra: Sequence[str] = (), scale: float = 1.0) -> Iterator[Any]:
    """A page of a fresh profile, with so many device pixels to one of ``size``."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            str(profile),
            executable_path=CHROMIUM,
            args=[*FLAGS, *extra],
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=scale,
        )
        try:
            yield context.pages[0]
        finally:
            context.close()


def open_notebook(page: Any, address: str) -> None:
    """Open it and wait for its kernel.

    About once in a hundred openings JupyterLab never hears that a fresh kernel is idle, before any cell has run. A page that is
    loaded again connects to the same kernel and hears it.
    """
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    page.goto(address)
    try:
        page.wait_for_function(_IDLE, timeout=30_000)
    except PlaywrightTimeout:
        print(f"the kernel is not heard: {page.evaluate(_HEARD)}")
        page.reload()
        page.wait_for_function(_IDLE, timeout=60_000)


def run_all(page: Any) -> None:
    """Run every cell, as the menu does."""
    command(page, "notebook:run-all-cells")


def command(page: Any, name: str, **args: Any) -> None:
    """Run one of JupyterLab's commands."""
    page.evaluate("([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, args])


def theme(page: Any, name: str) -> None:
    """``JupyterLab Light`` or ``JupyterLab Dark``. While the style sheets load, JupyterLab hides the page behind a splash."""
    command(page, "apputils:change-theme", theme=name)
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)
    page.locator("#jupyterlab-splash").wait_for(state="detached")
