"""An endpoint of somebody else: checked once, never changed."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from labkit.errors import LaunchError, SpecError
from labkit.serve.engines.attach import Attached
from labkit.spec import Topology
from tests.support.certificate import make_certificate, server_context

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server whose /v1/models answers as told; gives its URL."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def begin(body: bytes, status: int = 200, tls: ssl.SSLContext | None = None) -> str:
        class Models(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/v1/models"
                self.send_response(status if known else 404)
                self.end_headers()
                self.wfile.write(body if known else b"")

            def log_message(self, *_: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return f"http{'s' * (tls is not None)}://127.0.0.1:{server.server_port}"

    yield begin
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def attach(url: str, model: str = "m", topology: str | None = None, accelerators: float = 0.0, noun: str = "GPU") -> Attached:
    return Attached(url, model, {"w0": "http://127.0.0.1:9/metrics"}, topology, accelerators, noun)


def test_certificates_are_trusted_as_by_the_load(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = make_certificate(tmp_path)
    url = serve(b'{"data": [{"id": "m"}]}', tls=server_context(folder))
    with pytest.raises(LaunchError, match="CERTIFICATE_VERIFY_FAILED"):
        attach(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
    assert attach(url).url == url


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_an_endpoint_is_taken_as_it_is(serve: Serve, end: str):
    url = serve(b'{"object": "list", "data": [{"id": "other"}, {"id": "m"}]}')
    attached = attach(url + end)
    assert attached.url == url
    assert (attached.verified, attached.epoch, attached.failures) == (False, 0, ())
    assert attached.watched == (("w0", None, "http://127.0.0.1:9/metrics"),)
    assert (attached.topology, attached.accelerators, attached.roles) == ("attached", 0.0, {})
    assert "declared, not verified" in repr(attached)
    attached.close()


def test_a_declared_split_counts_its_accelerators_unless_told_otherwise(serve: Serve):
    url = serve(b'{"data": [{"id": "m"}]}')
    declared = attach(url, topology="1P@tp2+1D@tp4")
    assert (declared.topology, declared.accelerators) == (Topology("1P@tp2+1D@tp4"), 6.0)
    assert attach(url, topology="1P1D", accelerators=0.5, noun="core").accelerators == 0.5


def test_a_model_that_it_does_not_serve_is_refused_with_those_it_does(serve: Serve):
    with pytest.raises(SpecError, match="does not serve 'm'") as raised:
        attach(serve(b'{"data": [{"id": "llama"}, {"id": "qwen"}]}'))
    assert "llama, qwen" in raised.value.remedy


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"{}", b'{"data": null}', b'{"data": [1, "m"]}', b'{"data": 3}'])
def test_one_that_does_not_list_its_models_is_believed(serve: Serve, body: bytes):
    assert attach(serve(body)).model.name == "m"


def test_one_without_that_page_is_believed(serve: Serve):
    assert attach(serve(b"", status=404)).model.name == "m"


def test_one_that_does_not_answer_is_named():
    with pytest.raises(LaunchError, match=r"http://127\.0\.0\.1:1 does not answer"):
        attach("http://127.0.0.1:1")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999999", "http://[::1", "http://h:port"]
)
def test_what_is_no_url_is_refused(url: str):
    with pytest.raises((LaunchError, SpecError)):
        attach(url)


def test_it_is_asked_without_a_proxy(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    """As the load's requests are sent."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert attach(serve(b'{"data": [{"id": "m"}]}')).model.name == "m"


def test_only_gpus_and_cores_are_counted():
    with pytest.raises(SpecError, match="unknown accelerator 'TPU'"):
        attach("http://127.0.0.1:1", noun="TPU")


def test_it_cannot_be_resplit(serve: Serve):
    refusal = attach(serve(b"{}")).refusal()
    assert "attached, not launched" in refusal.what
    assert "Lab(model, topology)" in refusal.remedy
