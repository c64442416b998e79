"""A certificate for 127.0.0.1 that nobody trusts until ``SSL_CERT_FILE`` names it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path) -> Path:
    """Write ``key.pem`` and ``cert.pem`` with the openssl program; the test is skipped where there is none."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program to make a certificate")
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    return folder


def server_context(certificate: Path) -> ssl.SSLContext:
    """For a server that shows the certificate of this folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context
