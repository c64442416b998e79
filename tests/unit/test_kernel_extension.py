"""Every request to a notebook's kernel is answered, those that come in the instant of another's reply among them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from labkit.kernel_extension import load_ipython_extension

#: Without the extension a kernel was deaf after 11 and 350 of these.
ROUNDS = 1500
MENDED = "(lambda kernel: kernel.shell_channel_thread.manager._shell_socket is kernel.shell_stream)(get_ipython().kernel)"


@pytest.fixture
def client() -> Iterator[Any]:
    """Of a kernel that was started as JupyterLab starts one."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_no_request_is_left_unanswered(client: Any):
    asked = client.execute("", user_expressions={"it": MENDED}, silent=True)
    told = client.get_shell_msg(timeout=30)
    assert told["parent_header"]["msg_id"] == asked
    assert told["content"]["user_expressions"]["it"]["data"]["text/plain"] == "True", "the environment's kernels load it"
    pace = random.Random(0)
    for _ in range(ROUNDS):
        open_requests = {client.kernel_info()}
        time.sleep(pace.random() * 0.003)  # until about the instant of the reply
        open_requests.add(client.comm_info())
        while open_requests:
            open_requests.discard(client.get_shell_msg(timeout=30)["parent_header"]["msg_id"])


def test_it_does_nothing_where_there_is_nothing_to_mend():
    load_ipython_extension(SimpleNamespace())  # a terminal's shell
    newer = SimpleNamespace(_shell_stream=object())
    load_ipython_extension(SimpleNamespace(kernel=SimpleNamespace(shell_channel_thread=SimpleNamespace(manager=newer))))
    assert vars(newer).keys() == {"_shell_stream"}
