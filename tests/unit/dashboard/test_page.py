import base64
import itertools
import json
import re

import numpy as np

from labkit.dashboard import ChartData, replay_page
from labkit.live import LiveEvent
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
    assert len(data["pins"]["roots"]) == 1


def test_no_text_gets_out_of_its_place():
    kept = history(4)
    hostile = "</script><script>alert(1)</script>"
    kept.note(LiveEvent(0.5, "note", hostile))
    page = replay_page(kept, title=hostile, subtitle=hostile)
    assert hostile not in page
    assert embedded(page)["events"][-1][2] == hostile
