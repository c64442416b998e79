"""The choice between splits, in words that hold: what was told apart, what was not, and whether the SLO is met at all."""

from __future__ import annotations

import pytest

from labkit.errors import SpecError
from labkit.experiments.choice import Choice, choose
from labkit.live.pin import Estimate, Pin
from labkit.spec import Slo

SLO = Slo(tpot_s=0.05)


def pin(topology: str, **metrics: tuple[float, float, float]) -> Pin:
    """Each metric as value, low, high."""
    given = {name: Estimate(*values) for name, values in metrics.items()}
    return Pin(topology, topology, "1.5 req/s Poisson, ISL 512, OSL 32", "run", "0", 20.0, 20.0, given, requests=30)


def judged(*pins: Pin, open_loop: bool = True) -> Choice:
    return choose(pins, open_loop=open_loop, slo=SLO)


GOOD = {"slo_attainment": (0.97, 0.91, 0.99), "itl_p99_s": (0.04, 0.03, 0.045)}
POOR = {"slo_attainment": (0.5, 0.3, 0.7), "itl_p99_s": (0.3, 0.2, 0.4)}


def test_a_split_whose_interval_stands_apart_is_best_and_meets_the_slo():
    choice = judged(pin("2A", **POOR), pin("1P1D", **GOOD))
    assert (choice.best.topology, choice.equal, choice.met) == ("1P1D", (), True)
    text = str(choice)
    assert text.startswith("1P1D is the best of 2 splits by share of requests that meet the SLO")
    assert "meets the SLO (TPOT ≤ 50 ms) for 90% of the requests or more: 97 [91, 99] %" in text
    assert "2A (30 requests in 20 s): share of requests that meet the SLO 50 [30, 70] %" in text
    assert "measured once" in text
    simulated = choose([pin("2A", **GOOD)], open_loop=True, accelerator="simulated h100_sxm GPU")
    assert str(simulated).startswith("Simulated, not measured: 2A is the only split")


def test_splits_that_are_not_told_apart_are_decided_by_a_tail_that_is():
    near = {"slo_attainment": (0.93, 0.85, 0.97), "itl_p99_s": (0.2, 0.15, 0.3)}
    choice = judged(pin("1P1D", **GOOD), pin("2A", **near), pin("1P2D", **POOR))
    assert choice.best.topology == "1P1D"
    assert [one.topology for one in choice.equal] == ["2A"]
    assert "1P1D and 2A of 3 splits are not told apart" in str(choice)
    assert "taken for its ITL p99: 40 [30, 45] ms against 200 [150, 300] ms on 2A." in str(choice)


def test_a_tie_in_everything_is_called_a_guess():
    choice = judged(pin("2A", **GOOD), pin("1P1D", **{**GOOD, "itl_p99_s": (0.039, 0.03, 0.044)}))
    assert choice.best.topology == "1P1D"
    assert "does not tell them apart either: take it as a guess" in str(choice)


def test_where_one_lacks_a_p99_medians_are_compared_with_medians():
    few = {"slo_attainment": (0.95, 0.8, 1.0), "itl_p50_s": (0.03, 0.02, 0.04)}
    many = {"slo_attainment": (0.95, 0.8, 1.0), "itl_p50_s": (0.02, 0.01, 0.025), "itl_p99_s": (0.2, 0.1, 0.3)}
    choice = judged(pin("2A", **few), pin("1P1D", **many))
    assert choice.best.topology == "1P1D", "its p99 of 200 ms is not held against the other's median of 30 ms"


def test_no_split_meets_the_slo_is_said_and_the_nearest_is_taken():
    hopeless = {"slo_attainment": (0.05, 0.01, 0.2), "itl_p99_s": (0.5, 0.4, 0.6)}
    choice = judged(pin("2A", **hopeless), pin("1P1D", **POOR))
    assert (choice.best.topology, choice.met) == ("1P1D", False)
    assert "NO SPLIT meets the SLO (TPOT ≤ 50 ms) for 90% of the requests: 1P1D has 50 [30, 70] %" in str(choice)


def test_an_interval_around_the_limit_leaves_it_open():
    choice = judged(pin("2A", **POOR), pin("1P1D", slo_attainment=(0.93, 0.8, 0.98)))
    assert choice.met is None
    assert "Whether 1P1D meets the SLO (TPOT ≤ 50 ms) for 90% of the requests is open: 93 [80, 98] %" in str(choice)


def test_a_split_without_the_figure_is_neither_best_nor_hidden():
    choice = judged(pin("2A"), pin("1P1D", **GOOD))
    assert choice.best.topology == "1P1D"
    assert "2A (30 requests in 20 s): no figure is known" in str(choice)
    with pytest.raises(SpecError, match="no split has a figure"):
        judged(pin("2A"), pin("1P1D"))


def test_a_closed_loop_goes_by_goodput_and_without_an_slo_by_output():
    fast = {"goodput_hz": (2.0, 1.9, 2.1), "slo_attainment": (0.6, 0.5, 0.7), "output_tok_s_per_accelerator": (9.0, 8.0, 10.0)}
    slow = {"goodput_hz": (1.0, 0.9, 1.1), "slo_attainment": (1.0, 0.9, 1.0), "output_tok_s_per_accelerator": (11.0, 10.5, 12.0)}
    assert judged(pin("2A", **fast), pin("1P1D", **slow), open_loop=False).best.topology == "2A"
    unjudged = [
        pin(one, output_tok_s_per_accelerator=two["output_tok_s_per_accelerator"]) for one, two in (("2A", fast), ("1P1D", slow))
    ]
    choice = judged(*unjudged)
    assert (choice.best.topology, choice.metric) == ("1P1D", "output_tok_s_per_accelerator")
    assert "No request could be held against the SLO" in str(choice)
