"""A server of metrics pages as vLLM, Dynamo's vLLM workers and Dynamo's frontend write them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VLLM = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="theirs"} 3.0
vllm:num_requests_waiting{engine="0",model_name="theirs"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="theirs"} 0.25
"""
_DYNAMO = 'dynamo_component="prefill",dynamo_endpoint="generate",dynamo_namespace="dynamo"'
DYNAMO_WORKER = f"""\
vllm:num_requests_running{{{_DYNAMO},engine="0",model="theirs",model_name="theirs",worker_id="7f3a"}} 5.0
vllm:num_requests_waiting{{{_DYNAMO},engine="0",model="theirs",model_name="theirs",worker_id="7f3a"}} 2.0
dynamo_component_inflight_requests{{{_DYNAMO},worker_id="7f3a"}} 5
"""
FRONTEND = """\
dynamo_frontend_inflight_requests{model="theirs"} 9
dynamo_frontend_queued_requests{model="theirs"} 4
"""


@contextmanager
def pages(texts: Mapping[str, str | int]) -> Iterator[str]:
    """Serves each path with its text, or with its status; gives the base URL."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = texts.get(self.path, 404)
            self.send_response(found if isinstance(found, int) else 200)
            self.end_headers()
            self.wfile.write(b"" if isinstance(found, int) else found.encode())

        def log_message(self, *_: object) -> None: ...

    with served(Pages) as url:
        yield url


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of these answers, in a thread; gives the base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
