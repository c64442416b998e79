from __future__ import annotations

import asyncio
import math
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from labkit.errors import TelemetryError
from labkit.telemetry.prometheus import MetricsParser, Scraper


@pytest.fixture
def worker_page(fixtures: Path) -> str:
    return (fixtures / "vllm_0.31_decode_worker.prom").read_text()


def test_a_real_worker_page_folds_into_plain_names(worker_page: str) -> None:
    values = MetricsParser().parse(worker_page)
    assert values["vllm:generation_tokens_total"] == 40
    assert values['vllm:prompt_tokens_by_source_total{source="external_kv_transfer"}'] == 26
    assert values['vllm:prompt_tokens_by_source_total{source="local_compute"}'] == 13
    assert values["vllm:nixl_bytes_transferred_sum"] == 131072
    assert values["vllm:nixl_xfer_time_seconds_count"] == 4
    assert values['vllm:request_success_total{finished_reason="length"}'] == 6
    assert not any(name.partition("{")[0].endswith(("_bucket", "_created", "_info")) for name in values)
    assert all(name.startswith("vllm:") for name in values)


def test_a_real_router_page(fixtures: Path) -> None:
    values = MetricsParser().parse((fixtures / "vllm_router_0.1.17_disaggregated.prom").read_text())
    assert sum(v for name, v in values.items() if name.startswith("vllm_router_pd_decode_requests_total")) == 4
    assert values["vllm_router_pd_decode_pending_seconds_count"] == 4
    assert not any("quantile" in name for name in values)


def test_the_second_parse_and_the_slow_parser_agree(worker_page: str) -> None:
    parser = MetricsParser()
    first = parser.parse(worker_page)
    assert parser.parse(worker_page) == first
    assert parser.skipped == 0
    slow = {
        s.name: s.value
        for family in text_string_to_metric_families(worker_page)
        for s in family.samples
        if s.name.startswith("vllm:") and set(s.labels) == {"engine", "model_name"} and not s.name.endswith("_created")
    }
    assert len(slow) > 50
    assert {name: first[name] for name in slow} == slow


def test_what_dynamo_passes_through_keeps_vllms_names_and_the_frontends_workers_stay_apart() -> None:
    told = 'dynamo_component="backend",dynamo_endpoint="generate",dynamo_namespace="n",engine="0",model="demo",model_name="demo"'
    page = (
        f'vllm:prompt_tokens_by_source_total{{{told},source="local_compute",worker_id="84"}} 288.0\n'
        f'vllm:num_requests_running{{{told},worker_id="84"}} 1.0\n'
        'dynamo_frontend_worker_active_decode_blocks{worker_id="84",model="demo"} 3\n'
        'dynamo_frontend_worker_active_decode_blocks{worker_id="85",model="demo"} 4\n'
    )
    assert MetricsParser().parse(page) == {
        'vllm:prompt_tokens_by_source_total{source="local_compute"}': 288.0,
        "vllm:num_requests_running": 1.0,
        'dynamo_frontend_worker_active_decode_blocks{worker_id="84"}': 3.0,
        'dynamo_frontend_worker_active_decode_blocks{worker_id="85"}': 4.0,
    }


def test_engines_of_one_worker_fold_into_one_value() -> None:
    text = "".join(
        f'vllm:num_requests_running{{engine="{i}"}} {i + 1}\nvllm:kv_cache_usage_perc{{engine="{i}"}} {i * 0.5}\n' for i in (0, 1)
    )
    assert MetricsParser().parse(text) == {"vllm:num_requests_running": 3, "vllm:kv_cache_usage_perc": 0.25}


def test_odd_lines_are_counted_and_left_out() -> None:
    parser = MetricsParser()
    text = (
        'vllm:a{why="has } and \\" and , in it"} 1 1700000000000\n'
        "vllm:b NaN\nvllm:c +Inf\nvllm:d\nvllm:e{ 1\nvllm:f one\nvllm:g 2e3\n# HELP vllm:h x\nother 5\n\x00\n"
    )
    assert parser.parse(text) == {'vllm:a{why="has } and " and , in it"}': 1, "vllm:g": 2000}
    assert parser.skipped == 3


@given(st.text(max_size=200))
def test_garbage_never_raises(text: str) -> None:
    values = MetricsParser(prefixes=("",)).parse(text)
    assert all(math.isfinite(value) for value in values.values())


def test_prefixes_choose_the_families(worker_page: str) -> None:
    assert set(MetricsParser(prefixes=("process_",)).parse(worker_page)) >= {"process_cpu_seconds_total"}


def scrape(handler: httpx.MockTransport) -> dict[str, float]:
    async def once() -> dict[str, float]:
        scraper = Scraper("http://127.0.0.1:9/metrics", transport=handler)
        try:
            return await scraper.scrape()
        finally:
            await scraper.close()

    return asyncio.run(once())


def test_a_scrape_parses_what_it_gets() -> None:
    assert scrape(httpx.MockTransport(lambda _: httpx.Response(200, text="vllm:x 3\n"))) == {"vllm:x": 3}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (httpx.ConnectError("refused"), "refused"),
        (httpx.ReadTimeout("slow"), "no answer in time"),
        (httpx.RemoteProtocolError("garbage"), "garbage"),
    ],
)
def test_a_dead_worker_is_an_error_that_names_it(error: Exception, reason: str) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(TelemetryError, match=rf"127.0.0.1:9/metrics: {reason}"):
        scrape(httpx.MockTransport(fail))


def test_an_error_page_and_an_endless_page_are_refused() -> None:
    with pytest.raises(TelemetryError, match="HTTP 503"):
        scrape(httpx.MockTransport(lambda _: httpx.Response(503, text="vllm:x 3\n")))
    with pytest.raises(TelemetryError, match="more than 16 MiB"):
        scrape(httpx.MockTransport(lambda _: httpx.Response(200, content=b"vllm:x 3\n" * 2_000_000)))
