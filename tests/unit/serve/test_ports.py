"""Ports stay ours from choosing to listening, and between labs."""

import errno
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from labkit.errors import HardwareError, LaunchError
from labkit.serve.ports import claim_port, free_ports

ROOT = Path(__file__).parents[3]


def listener(port: int, *, reuse: bool = True) -> socket.socket:
    server = socket.socket()
    if reuse:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", port))
        server.listen()
    except OSError:
        server.close()
        raise
    return server


def test_ports_differ_and_are_not_handed_out_twice():
    with free_ports(20) as one, free_ports(20) as other:
        assert len({*one.ports, *other.ports}) == 40


def test_consecutive_ports_are_next_to_each_other():
    with free_ports(4, consecutive=True) as lease:
        assert lease.ports == tuple(range(lease.ports[0], lease.ports[0] + 4))


def test_ports_can_be_asked_for_below_a_number():
    with free_ports(8, highest=32_767) as lease, free_ports(8, highest=32_767) as other:
        assert max(lease.ports + other.ports) <= 32_767
        assert len(set(lease.ports + other.ports)) == 16


def test_a_server_listens_on_a_port_that_is_still_kept():
    with free_ports(1) as lease, listener(lease.ports[0]) as server, socket.create_connection(server.getsockname(), timeout=5):
        accepted, _ = server.accept()
        accepted.close()
        with pytest.raises(HardwareError, match="is busy"):
            claim_port(lease.ports[0])


def test_a_server_without_reuse_needs_the_release():
    with free_ports(1) as lease:
        with pytest.raises(OSError, match="in use"):
            listener(lease.ports[0], reuse=False)
        lease.release()
        listener(lease.ports[0], reuse=False).close()


def test_a_busy_port_is_refused_by_number_and_holder():
    with listener(0) as server:
        port = server.getsockname()[1]
        with pytest.raises(HardwareError, match=f"port {port} is busy: process {os.getpid()}") as caught:
            claim_port(port)
    assert "leave the port out" in caught.value.remedy
    with claim_port(port) as lease:
        assert lease.ports == (port,)


def test_another_lab_keeps_away_until_this_one_ends():
    code = (
        "import sys; from labkit.serve.ports import free_ports; lease = free_ports(1); lease.release();"
        "print(lease.ports[0], flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    with other, other.stdout:
        port = int(other.stdout.readline())
        with pytest.raises(HardwareError, match="another lab"):
            claim_port(port)
        other.kill()
    with claim_port(port) as lease:  # the name vanished with the process
        assert lease.ports == (port,)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_no_port_number(port: int):
    with pytest.raises(HardwareError, match=f"{port} is not a port number"):
        claim_port(port)


def test_a_lease_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A lab that is killed could not remove one (found by the fault campaign)."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with free_ports(2) as lease:
        assert list(tmp_path.iterdir()) == []
    lease.close()


def test_no_more_descriptors_are_not_called_a_lack_of_ports(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(LaunchError, match="no port can be opened: Too many open files") as raised:
        free_ports(1)
    assert "ulimit -n" in raised.value.remedy
