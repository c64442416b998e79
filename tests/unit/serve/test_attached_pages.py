"""The metrics pages of an endpoint of somebody else: named, looked at once, with roles by name or by the declared split."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from labkit.errors import SpecError
from labkit.serve.engines.attach import Attached
from labkit.spec import Role, Topology
from tests.support.pages import DYNAMO_WORKER, FRONTEND, VLLM, pages

P, D, A = Role.PREFILL, Role.DECODE, Role.AGGREGATED
MODELS = '{"data": [{"id": "theirs"}]}'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pages({"/v1/models": MODELS, "/metrics": VLLM, "/dynamo": DYNAMO_WORKER, "/front": FRONTEND, "/broken": 500}) as base:
        yield base


def attach(url: str, metrics: dict[str, str], topology: str | None = None) -> Attached:
    return Attached(url, "theirs", metrics, topology, 0.0, "GPU")


@pytest.mark.parametrize(
    ("names", "topology", "roles"),
    [
        (("prefill-0", "decode-0", "Decode1"), None, {"prefill-0": P, "decode-0": D, "Decode1": D}),
        (("decode-0", "prefill-0"), "1P1D", {"prefill-0": P, "decode-0": D}),
        (("w0", "w1", "w2"), "1P2D", {"w0": P, "w1": D, "w2": D}),
        (("w0", "decode-0", "w1"), "2P1D", {"w0": P, "w1": P, "decode-0": D}),
        (("worker-0", "worker-1"), "2A", {"worker-0": A, "worker-1": A}),
        (("agg-0", "aggregated_1"), None, {"agg-0": A, "aggregated_1": A}),
        (("w0", "w1"), None, {}),
        (("w0",), "1P1D", {}),
        (("prefill-0", "w0"), "1P2D", {"prefill-0": P}),
        (("prefiller", "decoding"), None, {}),
    ],
)
def test_roles_come_from_names_and_else_from_the_declared_split(
    url: str, names: tuple[str, ...], topology: str | None, roles: dict[str, Role]
):
    there = attach(url, dict.fromkeys(names, url), topology)
    assert there.roles == roles
    assert {name for name, _, _ in there.watched} == set(names)
    if topology and len(names) == len(Topology(topology).workers):  # charts pair them in this order
        assert [there.roles[name] for name, _, _ in there.watched] == [role for role, _ in Topology(topology).workers]


def test_names_that_contradict_the_declared_split_are_refused(url: str):
    with pytest.raises(SpecError, match="2 prefill workers are named, and 1P1D is declared") as raised:
        attach(url, {"prefill-0": url, "prefill-1": url}, "1P1D")
    assert "topology=" in raised.value.remedy


@pytest.mark.parametrize("name", ["router", "frontend", "Frontend"])
def test_the_front_is_no_worker(url: str, name: str):
    there = attach(url, {name: f"{url}/front", "decode-0": f"{url}/dynamo"})
    assert there.router_metrics == f"{url}/front"
    assert there.watched == (("decode-0", None, f"{url}/dynamo"),)
    assert there.doubts == ()
    with pytest.raises(SpecError, match="both a page of the front"):
        attach(url, {"router": url, "frontend": url})


def test_a_bare_address_gets_its_page(url: str):
    assert attach(url, {"w0": url, "w1": f"{url}/"}).watched == (("w0", None, f"{url}/metrics"), ("w1", None, f"{url}/metrics"))


def test_a_page_that_does_not_answer_is_told_with_its_url_and_the_others_go_on(url: str):
    there = attach(url, {"w0": "http://127.0.0.1:9/metrics", "w1": f"{url}/broken", "w2": url})
    assert len(there.watched) == 3
    refused, broken = there.doubts
    assert refused.startswith("metrics page of w0 at http://127.0.0.1:9/metrics: ")
    assert broken == f"metrics page of w1 at {url}/broken: HTTP 500"


@pytest.mark.parametrize("page", ["", "10.0.0.1:8000", "ftp://n1/metrics", "http://", "http://n1:99999999/"])
def test_what_is_no_url_is_refused_with_the_name_of_the_worker(url: str, page: str):
    with pytest.raises(SpecError, match="metrics page of w0"):
        attach(url, {"w0": page})


@pytest.mark.parametrize("name", ["host", "gpu0", "telemetry", "client0", "", "a b", "-x", "<b>"])
def test_names_of_the_labs_own_sources_and_no_names_are_refused(url: str, name: str):
    with pytest.raises(SpecError, match="cannot be called"):
        attach(url, {name: url})
