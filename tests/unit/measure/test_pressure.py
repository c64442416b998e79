from __future__ import annotations

import pytest

from labkit.measure.digest import digest
from labkit.measure.pressure import pressures, roles_of
from labkit.spec import Role
from tests.support.handmade import window
from tests.support.staged import CALM, SPLIT, SideOf, staged


def of(side: SideOf, **changes: object):
    made, manifest = staged(side, requests=20, spread=0)
    manifest["epochs"][0] |= changes
    return pressures([(digest(made), made.windows[0])], manifest)


def test_each_role_has_the_means_of_its_workers():
    gauges = [
        *(("w0", f"vllm:num_requests_{name}", value) for name, value in (("running", 1.0), ("waiting", 3.0))),
        *(("w1", f"vllm:num_requests_{name}", value) for name, value in (("running", 6.0), ("waiting", 0.0))),
        *(("w2", f"vllm:num_requests_{name}", value) for name, value in (("running", 2.0), ("waiting", 1.0))),
        ("w0", "cpu_cores", 0.9), ("w1", "cpu_cores", 0.4), ("w2", "cpu_cores", 0.6), ("router", "cpu_cores", 0.1),
        ("w1", "vllm:kv_cache_usage_perc", 0.5), ("w2", "vllm:kv_cache_usage_perc", 0.9),
    ]  # fmt: skip
    found = of(SideOf("1P2D", SPLIT, gauges, [("w1", "vllm:num_preemptions_total", 3.0)]))
    prefill, decode = found[Role.PREFILL], found[Role.DECODE]
    assert (prefill.workers, prefill.used, prefill.running, prefill.waiting) == (1, 0.9, 1.0, 3.0)
    assert (prefill.kv_used, prefill.preemptions) == (None, None)
    assert (decode.workers, decode.used, decode.running, decode.waiting) == (2, 0.5, 4.0, 0.5)
    assert (decode.kv_used, decode.preemptions) == (0.9, 3.0)


def test_prefilling_is_the_share_of_time_with_a_prompt_in_work():
    assert of(SideOf("1P1D", {**SPLIT, "prefill": 0.25}))[Role.PREFILL].prefilling == pytest.approx(0.25, rel=1e-6)
    overlapping = of(SideOf("1A", {**CALM, "prefill": 2.5}))[Role.AGGREGATED]
    assert overlapping.prefilling == pytest.approx(1.0, abs=0.01)
    assert of(SideOf("1P1D", SPLIT))[Role.DECODE].prefilling == 0.0


def test_a_worker_on_gpus_is_used_as_much_as_their_sms():
    gauges = [("gpu2", "sm_active_fraction", 0.6), ("gpu3", "sm_active_fraction", 0.8), ("gpu2", "gpu_busy_fraction", 1.0)]
    found = of(SideOf("1A@tp2", CALM, gauges), gpus={"w0": [2, 3]}, devices={})
    assert found[Role.AGGREGATED].used == pytest.approx(0.7)


def test_what_nobody_told_is_none():
    found = of(SideOf("2A", CALM), devices={})[Role.AGGREGATED]
    assert (found.workers, found.used, found.running, found.waiting, found.kv_used, found.preemptions) == (2, *[None] * 5)


@pytest.mark.parametrize(
    ("topology", "manifest", "roles"),
    [
        ("1P1D", {}, {"w0": Role.PREFILL, "w1": Role.DECODE}),
        ("1P1D", {"epochs": [{"epoch": 0, "roles": {"w5": "D", "w2": "P"}}]}, {"w5": Role.DECODE, "w2": Role.PREFILL}),
        ("1P1D", {"epochs": [{"epoch": 7, "roles": {"w5": "A"}}]}, {"w0": Role.PREFILL, "w1": Role.DECODE}),
        ("attached", {"epochs": [{"epoch": 0, "roles": {}}]}, {}),
    ],
)
def test_roles_are_the_manifests_or_the_topologys(topology: str, manifest: dict, roles: dict):
    assert roles_of(window(topology=topology), manifest) == roles
