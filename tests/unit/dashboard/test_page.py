import base64
import itertools
import json
import re
from dataclasses import replace

import numpy as np

from labkit.dashboard import ChartData, replay_page
from labkit.dashboard.pins_view import pins_table
from labkit.live import LiveEvent
from labkit.live.tails import Tail
from labkit.spec import Slo
from tests.support.live_feed import feed, pins


def history(ticks: int) -> ChartData:
    made = ChartData()
    for sample in itertools.islice(feed(2), ticks):
        made.append(sample)
    return made


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_the_history_as_it_was():
    kept = history(60)
    data = embedded(replay_page(kept, title="t"))
    values = np.frombuffer(base64.b64decode(data["values"]), np.float32).reshape(data["n"], data["width"])
    assert np.array_equal(values, kept.values, equal_nan=True)
    assert data["columns"] == kept.columns
    assert data["pins"] is None


def test_a_long_history_is_thinned_and_its_events_kept():
    data = embedded(replay_page(history(300), title="t", most_rows=50, pins=pins()))
    assert data["n"] == 50
    assert [kind for _, kind, *_ in data["events"]] == ["launch", "resplit", "load", "fault", "launch", "pin"]
    assert len(data["pins"]["roots"]) == 2, "against tokens/s per user, and against TTFT"
    spread = [replace(pin, tails={"ttft": Tail((0.1, 0.2), (1.0, 0.5), 2)}) for pin in pins()]
    assert len(embedded(replay_page(history(4), title="t", pins=spread))["pins"]["roots"]) == 3, "and how TTFT is spread"


def test_pins_under_several_slos_say_so():
    alike = [replace(pin, slo="TPOT ≤ 50 ms") for pin in pins()]
    assert "TPOT ≤ 50 ms" not in pins_table(alike, "GPU", Slo()), "nothing to tell apart"
    assert pins_table(alike, "GPU", Slo(tpot_s=0.02)).count("TPOT ≤ 50 ms") == len(alike), "the lab judges by another one now"
    table = pins_table([*alike[:2], replace(alike[2], slo="TTFT ≤ 200 ms"), replace(alike[0], slo="")], "GPU", Slo())
    rows = re.findall(r"<tr>.*?</tr>", table)
    heads, cells = re.findall(r"<th>(.*?)</th>", rows[0]), re.findall(r"<td.*?>(.*?)</td>", rows[3])
    assert len(heads) == len(cells) + 1
    assert [re.findall(r"<td.*?>(.*?)</td>", row)[heads.index("SLO") - 1] for row in rows[1:]] == [
        "TPOT ≤ 50 ms", "TPOT ≤ 50 ms", "TTFT ≤ 200 ms", "none",
    ]  # fmt: skip
    assert "TTFT ≤ 200 ms" in replay_page(history(4), title="t", pins=[alike[0], replace(alike[2], slo="TTFT ≤ 200 ms")])


def test_what_is_to_be_doubted_of_a_pin_is_in_the_table_and_below_it():
    first, second, third = pins()
    shown = [replace(first, settled=True, cut="none"), replace(second, settled=False, warnings=("<i>drifts", "late")), third]
    table = pins_table(shown, "GPU", Slo())
    rows = re.findall(r"<tr>.*?</tr>", table)
    at = re.findall(r"<th>(.*?)</th>", rows[0]).index("stationary") - 1
    assert [re.findall(r"<td.*?>(.*?)</td>", row)[at] for row in rows[1:]] == ["yes", "no", "too short to tell"]
    assert [re.findall("<th>(.*?)</th>", row) for row in rows[1:]] == [["A"], ["⚠ B"], ["C &lt;b&gt;"]]
    assert re.findall("<li>(.*?)</li>", table) == ["⚠ <b>B</b>: &lt;i&gt;drifts", "⚠ <b>B</b>: late"]
    page = replay_page(history(4), title="t", pins=shown)
    assert "&lt;i&gt;drifts" in page
    assert "A hollow point was not shown to be stationary" in page
    assert "lk-warned" not in pins_table(pins(), "GPU", Slo())


def test_no_text_gets_out_of_its_place():
    kept = history(4)
    hostile = "</script><script>alert(1)</script>"
    kept.note(LiveEvent(0.5, "note", hostile))
    page = replay_page(kept, title=hostile, subtitle=hostile)
    assert hostile not in page
    assert embedded(page)["events"][-1][2] == hostile
