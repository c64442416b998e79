"""What a lab's load is told of whatever serves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from labkit.lab.endpoint import Endpoint
from labkit.serve.engines.attach import Attached


@pytest.mark.parametrize("verified", [True, False])
def test_the_labs_own_router_gets_no_key_whether_or_not_its_roles_are_proven_yet(monkeypatch: pytest.MonkeyPatch, verified: bool):
    """Right after a re-split they are not."""
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret-k3y")
    endpoint = Endpoint(run=cast("Any", None), workload=None, vocab=1000, tell=lambda _: None)
    own: Any = SimpleNamespace(url="http://127.0.0.1:1", model=SimpleNamespace(name="m"), verified=verified)
    assert endpoint.target(own).api_key is None
    attached = Attached.__new__(Attached)
    attached.url, attached.model = own.url, own.model
    assert endpoint.target(attached).api_key == "s3cret-k3y"
