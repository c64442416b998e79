"""An IPython extension that every kernel of this environment loads (``etc/ipython/ipython_kernel_config.py``).

ipykernel 7.0 to 7.3 sends replies on the shell channel past the stream that reads requests from the same socket. A request
that comes in that instant is then not noticed, nor is any later one on that connection (ipykernel's issue 1554): a cell seems
to run for ever, a page that was loaded again never hears that the kernel is idle. The replies are sent through the stream
instead, as ipykernel 7.4 does. That version itself loses messages to widgets whose page was loaded again.
"""

from __future__ import annotations

from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Mend the kernel of this shell, where it needs that; called again, or outside of a kernel, it does nothing."""
    kernel: Any = getattr(shell, "kernel", None)
    thread: Any = getattr(kernel, "shell_channel_thread", None)
    manager: Any = getattr(thread, "manager", None)
    if hasattr(manager, "_shell_socket"):
        manager._shell_socket = kernel.shell_stream  # asked for nothing but send_multipart, on the thread of the stream's loop
