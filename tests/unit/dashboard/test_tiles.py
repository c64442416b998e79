import re

from labkit.dashboard.tiles import Tile, tiles, tiles_html
from labkit.live import LiveStats
from labkit.spec.slo import Slo

STATS = LiveStats(
    10.0, failed=2, in_flight=7, output_tok_s=12345.6, ttft_p50_s=0.2, ttft_p99_s=0.7, itl_p99_s=0.05, goodput_hz=3.0
)


def shown(slo: Slo) -> dict[str, tuple[str, str, str]]:
    found = re.findall(
        r'data-metric="(\w+)".*?data-verdict="(\w*)".*?class="lk-value">([^<]*)<.*?class="lk-verdict"[^>]*>([^<]*)<',
        tiles_html(tiles(slo, "GPU"), STATS),
    )
    return {metric: (verdict, value, sign) for metric, verdict, value, sign in found}


def test_each_value_is_held_against_the_slo_by_a_sign_too():
    tile = shown(Slo(ttft_s=0.5))
    assert tile["output_tok_s"] == ("", "12,346", "")
    assert tile["ttft_p50_s"] == ("good", "200", "✓")
    assert tile["ttft_p99_s"] == ("bad", "700", "✗")
    assert tile["itl_p99_s"] == ("good", "50.0", "✓")
    assert tile["failed"] == ("bad", "2", "✗")
    assert len(tile) == 9


def test_what_is_not_known_is_a_dash_and_neither_good_nor_bad():
    assert shown(Slo())["itl_p50_s"] == ("", "–", "")
    assert shown(Slo())["output_tok_s_per_accelerator"][1] == "–"


def test_without_a_limit_nothing_is_judged():
    assert shown(Slo(tpot_s=None))["ttft_p99_s"] == ("", "700", "")
    assert "no limit" in tiles_html(tiles(Slo()))


def test_words_are_escaped():
    page = tiles_html((Tile("failed", "<b>&", '"><script>', note="<i>"),))
    assert "<b>&" not in page
    assert "<script>" not in page
    assert "&lt;b&gt;&amp;" in page


def test_a_p99_of_too_few_says_how_many_there_are():
    few = LiveStats(5.0, requests=7, gaps=84, ttft_p50_s=0.2, itl_p50_s=0.02)
    feet = re.findall(r"<footer[^>]*>([^<]*)</footer>", tiles_html(tiles(Slo(ttft_s=0.5)), few))
    assert feet[3] == "n = 7 of 100"
    assert feet[5] == "n = 84 of 100"
    assert feet[2] == "SLO ≤ 500 ms", "a median needs no hundred"
    none = re.findall(r"<footer[^>]*>([^<]*)</footer>", tiles_html(tiles(Slo(ttft_s=0.5)), LiveStats(5.0)))
    assert none[3] == "SLO ≤ 500 ms", "nothing was asked for: nothing is lacking"


def test_simulated_numbers_stand_below_a_line_that_says_so():
    chosen = tiles(Slo(), "simulated h100_sxm GPU")
    page = tiles_html(chosen, STATS, accelerator="simulated h100_sxm GPU")
    assert page.index("Simulated, not measured") < page.index("12,346")
    assert "lk-simulated" not in tiles_html(chosen, STATS, accelerator="GPU")
