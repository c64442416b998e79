"""A pin says of its stretch what the measurement itself says, with an interval, and is read again from the store."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import pytest

from labkit.errors import LoadError
from labkit.experiments.choice import overlap
from labkit.experiments.compare import compare_runs
from labkit.experiments.conclude import slo_of
from labkit.experiments.pins import keep_pin, options_of, pins_of, read_pin, warnings_of
from labkit.measure.metrics import summarise
from labkit.measure.records import Window
from labkit.serve.engines.base import EngineOptions
from labkit.store import open_run
from tests.support.saved_runs import saved_run


def stretch(window: Window, start_ns: int, stop_ns: int, *, topology: str, epoch: int, accelerators: float) -> Window:
    """A stretch of a load's window, on the split that served then."""
    return replace(
        window, side=topology, topology=topology, epoch=epoch, accelerators=accelerators, repeat=0,
        start_ns=start_ns, measure_ns=start_ns, stop_ns=stop_ns, end_ns=stop_ns, first_index=0, cut="", settled=None, stopped="",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    return saved_run(tmp_path_factory.mktemp("results"), "afternoon")


def test_two_stretches_of_one_split_under_one_load_are_not_told_apart_by_what_arrived(run):
    window = run.windows[0]
    half_ns = (window.stop_ns - window.measure_ns) // 2
    cuts = (window.measure_ns, window.measure_ns + half_ns, window.stop_ns)
    pins = [
        keep_pin(run, stretch(window, start, stop, topology="2A", epoch=0, accelerators=window.accelerators), "half", name="half")
        for start, stop in itertools.pairwise(cuts)
    ]
    counts = [pin.requests for pin in pins]
    output = [pin.metrics["output_tok_s"] for pin in pins]
    assert overlap(*output)
    for one, count in zip(output, counts, strict=True):
        assert one.low is not None
        assert (one.value - one.low) / one.value > 1 / count**0.5, "a count of n has a spread of √n"
    found = compare_runs(*(open_run(run.path.parent / pin.run) for pin in pins))
    row = found.row("output_tok_s")
    assert (row.ratio, row.reason) == (None, "other requests arrived on either side")
    assert found.row("ttft_p50_s").ratio is not None
    assert any("stretches of a load without an end" in note for note in found.notes)


def test_a_pin_says_whether_it_was_stationary_and_how_it_is_marked_and_so_does_one_that_is_read_again(tmp_path):
    run = saved_run(tmp_path, "marked", ("2A",), duration_s=60.0, fail=0.1)
    (window,) = run.windows
    pin = keep_pin(run, window, "a minute")
    kept = open_run(tmp_path / pin.run)
    assert pin.settled is not None
    assert (pin.settled, pin.cut) == (kept.windows[0].settled, kept.windows[0].cut)
    assert any("requests failed" in warning for warning in pin.warnings)
    assert not any("p99 of a request's values needs" in warning for warning in pin.warnings), "that is a note"
    assert pins_of(run) == [read_pin(kept)] == [pin]
    assert warnings_of([pin]) == [f"a minute: {warning}" for warning in pin.warnings]
    short = keep_pin(run, replace(window, stop_ns=window.measure_ns + 8_000_000_000), "eight seconds", name="short")
    assert (short.settled, short.stationary) == (None, "too short to tell")
    assert "too few requests" in short.cut


def test_a_pin_that_is_not_stationary_is_marked_so(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "labkit.experiments.pins.cut_warmup", lambda _, window: replace(window, settled=False, cut="no stationary part was found")
    )
    pin = keep_pin(run, run.windows[0], "on its way", name="on-its-way")
    assert (pin.settled, pin.stationary, pin.cut) == (False, "no", "no stationary part was found")
    assert any("depend on when it was cut" in warning for warning in pin.warnings)


def test_a_percentile_of_too_few_values_is_absent_not_zero(run):
    window = run.windows[0]
    short = stretch(
        window, window.measure_ns, window.measure_ns + 3_000_000_000, topology="2A", epoch=0, accelerators=window.accelerators
    )
    pin = keep_pin(run, short, "three seconds", name="short")
    assert "output_tok_s" in pin.metrics
    assert "ttft_p99_s" not in pin.metrics
    assert pin.value("ttft_p99_s") is None


def test_a_pin_is_a_run_that_can_be_opened_again(run):
    window = run.windows[2]
    pin = keep_pin(run, window, "2A, as it was")
    kept = open_run(run.path.parent / pin.run)
    assert (pin.label, pin.topology, pin.run) == ("2A, as it was", "2A", "afternoon-pin1")
    assert kept.manifest["kind"] == "pin"
    assert read_pin(kept) == pin
    assert pin.slo == str(slo_of(run))
    run.update(slo={"tpot_s": 0.001})
    under = keep_pin(run, window, "under another SLO", name="other-slo")
    assert (under.slo, read_pin(kept).slo) == ("TPOT ≤ 1 ms", pin.slo), "each keeps its own"
    assert pin.t_s == pytest.approx((kept.windows[0].stop_ns - run.manifest["clock"]["monotonic_ns"]) / 1e9)
    assert kept.windows[0].cut, "the window says how its beginning was found"
    assert keep_pin(run, window, "again").run == "afternoon-pin1-2"


def test_a_pin_names_the_options_of_its_own_workers_not_those_of_the_launch(run):
    first, second = (
        {"epoch": number, "topology": "2A", "options": {"max_num_batched_tokens": tokens}}
        for number, tokens in ((0, None), (1, 256))
    )
    run.update(epochs=[first, second], options=first["options"])
    pin = keep_pin(run, replace(run.windows[2], epoch=1), "smaller chunks", name="smaller")
    kept = open_run(run.path.parent / "smaller")
    assert kept.manifest["options"] == {"max_num_batched_tokens": 256}
    assert kept.manifest["epochs"] == [second]
    assert "max_num_batched_tokens 256" in pin.settings
    assert pin.requests == summarise(kept.records(), kept.windows[0])["requests"]


def test_a_secret_that_no_run_keeps_is_that_of_what_serves_now(run):
    words = ("--swap-space", "4", "--api-key", "hunter2hunter2")
    options = EngineOptions(extra_env={"HF_TOKEN": "hf_secretsecret", "HF_HOME": "x"}, extra_args=words, max_num_seqs=8)
    run.update(epochs=[{"epoch": 0, "topology": "2A", "options": asdict(options)}])
    kept = open_run(run.path.parent / keep_pin(run, run.windows[0], "with a secret", name="secret").run)
    assert "secretsecret" not in str(kept.manifest)
    assert options_of(kept, options) == options, "so nothing is started again"
    assert options_of(kept, replace(options, max_num_seqs=4)) == options
    with pytest.raises(LoadError, match="HF_TOKEN"):
        options_of(kept, replace(options, extra_env={}))
    with pytest.raises(LoadError, match="redacted"):
        options_of(kept, replace(options, extra_args=()))


def test_a_pin_leaves_the_tails_that_its_percentiles_are_of(run):
    window = run.windows[0]
    pin = keep_pin(run, window, "spread", name="spread")
    kept = open_run(run.path.parent / "spread")
    records, (cut,) = kept.digest(), kept.windows
    summary = summarise(records, cut)
    ttft, itl = pin.tails["ttft"], pin.tails["itl"]
    assert ttft.n == summary["completed"]
    for tail, name in ((ttft, "ttft"), (itl, "itl")):
        median = summary[f"{name}_p50_s"]
        assert median is not None
        at = max(i for i, value in enumerate(tail.value_s) if value <= median)
        after = tail.share[min(at + 1, len(tail.share) - 1)]
        assert after - 1 / tail.n <= 0.5 <= tail.share[at] + 1 / tail.n
