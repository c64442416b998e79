"""What the board's script decides, evaluated in a real browser on data made by hand: which dots stay, where outliers go, which
marks are named, how columns thin and numbers are written; the names that the captions give to controls; whether a list is in
somebody's hands; and the tabs."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.dashboard import captions, held, live_figure, tabs
from labkit.dashboard.pareto import pareto
from tests.support.jupyterlab import chromium
from tests.support.live_feed import pins

pytestmark = pytest.mark.browser

#: a board with no page around it: what it sets in a source is kept under the source's name
BARE = """(fields) => Object.assign(Object.create(Board.prototype), {
  spec: { events: { fault: "red", resplit: "blue", load: "green", note: "grey" }, unknown: "black" },
  from: 0, to: 60, labelled: 0, hidden: new Set(), kept: {},
  cards: [{ view: { frame: { bbox: { width: 600 } } } }],
  set(name, data) { this.kept[name] = data }, ...fields })"""
CARD = """{ panel: { name: 'ttft', dots: 'ttft', limit: null }, view: { frame: { bbox: { width: 600 } } },
  peak: document.createElement('b') }"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Any) -> Any:
    """A page of its own with the script."""
    browser.goto("about:blank")
    browser.add_script_tag(content=live_figure.BOARD)
    return browser


def test_of_many_dots_the_worst_of_every_five_pixels_stays(page: Any) -> None:
    kept = page.evaluate(
        f"""() => {{ const board = ({BARE})({{}}), card = {CARD}
          const dots = Array.from({{ length: 300 }}, (_, i) => [i * 0.2, i, i % 7])
          const few = dots.slice(0, 150)
          return [board.worst(few, card) === few, board.worst(dots, card)] }}"""
    )
    assert kept[0], "so many are drawn as they are"
    dots = [(i * 0.2, i, i % 7) for i in range(300)]  # of 60 s on 600 pixels: five are half a second
    worst: dict[int, tuple[float, int, int]] = {}
    for dot in dots:
        bucket = int(dot[0] // 0.5)
        if bucket not in worst or worst[bucket][2] < dot[2]:
            worst[bucket] = dot
    assert [request for _, request, _ in kept[1]] == [request for _, request, _ in worst.values()]
    assert len(kept[1]) == 120


def test_a_few_outliers_leave_the_chart_and_a_word_says_how_far(page: Any) -> None:
    found = page.evaluate(
        f"""() => {{ const board = ({BARE})({{}})
          const say = (ys, most, limit = null) => {{ const card = {CARD}
            card.panel.limit = limit
            return [board.usual(card, [{{ ys }}], most), card.peak.textContent] }}
          const usual = Array.from({{ length: 98 }}, () => 10)
          return [say([...usual, 1000, NaN, 1200], 1200), say([...usual, 18], 18), say([...usual, 1000], 1000, 600),
                  say([10, 10, 1000], 1000)] }}"""
    )
    assert found == [
        [15, "▲ to 1,200"],  # half above what it usually is
        [18, ""],  # not far above: the line is shown whole
        [1000, ""],  # below twice the limit, which is shown
        [1000, ""],  # three points are no habit
    ]


def test_dots_beyond_the_chart_are_triangles_at_its_edge_with_their_own_value(page: Any) -> None:
    most, kept, dots = page.evaluate(
        f"""() => {{ const ttft = [[-1, 1, 9], [5, 2, 0.05], [6, 3, 0.12], [7, 4, 9], [90, 5, 9]]
          const board = ({BARE})({{ labelled: 2, dots: {{ ttft }} }})
          const card = {CARD}
          const most = board.scatter(card, 100, 60)
          return [most, board.kept["ttft:dots"], card.dots] }}"""
    )
    assert most == 120, "one that is little above the lines lifts the top; one far above does not"
    edge = 200 * 0.75  # 120 · 1.39 is rounded up to 200; two rows of words stand above
    assert kept["request"] == [2, 3, 4], "those in sight"
    assert kept["y"] == pytest.approx([50, 120, edge])
    assert kept["marker"] == ["circle", "circle", "triangle"]
    assert dots[2]["value"] == 9000


def test_a_click_opens_what_the_words_at_the_pointer_tell_while_the_charts_move(page: Any) -> None:
    found = page.evaluate(
        f"""() => {{ const style = 'position:absolute;left:0;top:0;width:600px;height:200px'
          const plot = make('div', {{ class: 'lk-plot', style }})
          document.body.append(plot)
          const bbox = {{ left: 0, top: 0, width: 600, height: 200 }}, y = {{ start: 0, end: 200 }}, tapped = []
          const card = {{ ...{CARD}, plot, cross: make('i'), view: {{ frame: {{ bbox }} }}, dots: [] }}
          card.panel.series = [{{ metric: 'p50', label: 'p50', scale: 1, decimals: 0, unit: '' }}]
          const board = ({BARE})({{ cards: [card], root: make('div'), tip: make('div'), columns: new Columns(), events: [],
            end: null, seen: true, mode: 'paused', rows: null, emit: ({{ what }}) => tapped.push(what.request),
            numbers() {{}}, status() {{}},
            doc: {{ get_model_by_name: () => y }}, range: {{ setv() {{}} }}, marks() {{}}, panel() {{}} }})
          board.columns.widen(['t'])
          board.columns.append(new Float32Array([60]), 1, 1)
          const at = (x, target = plot) => ({{ target, clientX: x, clientY: 100 }})
          const words = () => board.tip.querySelector('footer')?.textContent ?? ''
          const dots = (...all) => {{ card.dots = all.map(([t, request]) => ({{ t, request, y: 100, value: 100 }})) }}
          globalThis.changeLines = (views, change) => change()
          const draw = () => board.draw(true)
          dots([30, 1], [32, 2])
          board.hover(at(300))
          const told = [words()]
          dots([28, 1], [30, 2]) // they have moved, and nobody has drawn or told
          board.click(at(300.4))
          draw()
          told.push(words())
          board.click(at(300))
          board.click(at(280)) // a finger, which comes from nowhere
          dots()
          draw()
          told.push(words())
          board.click(at(280))
          board.hover(at(280, document.body))
          board.click(at(280, document.body))
          plot.remove()
          return [told, tapped, board.pointer] }}"""
    )
    assert found == [["request 1: 100 ms · click to open", "request 2: 100 ms · click to open", ""], [1, 2, 1], None]


def marks(page: Any, events: list[list[Any]], **fields: Any) -> tuple[list[str], list[float], list[float]]:
    """Words, their instants and heights."""
    labels, lines = page.evaluate(
        f"""([events, fields]) => {{ const board = ({BARE})({{ ...fields, events }})
          board.marks(60)
          return [board.kept["event labels"], board.kept.events] }}""",
        [events, fields],
    )
    assert len(labels["text"]) == len(labels["color"]) == len(labels["y"])
    assert lines["x"] == [event[0] for event in events if event[0] <= 60], "each has its line, named or not"
    return labels["text"], labels["x"], labels["y"]


def test_where_there_is_no_room_for_all_words_what_changed_the_most_is_named(page: Any) -> None:
    events = [[10, "note", "a note", "a note"], [10.5, "load", "a load", "a load"], [11, "resplit", "2A → 1P1D", "2A → 1P1D"],
              [11.5, "fault", "w1 died", "w1 died"], [70, "fault", "later", "later"]]  # fmt: skip
    assert marks(page, events) == (["w1 died", "2A → 1P1D"], [11.5, 11], [1, 0.89])


def test_words_are_cut_kept_from_the_edge_and_left_out_where_the_next_comes_at_once(page: Any) -> None:
    long = "a name that is longer than the chart has room for"
    events = [[1, "note", long, long], [30, "load", "first", "first"], [30.5, "load", "second", "second"],
              [59, "fault", "at the edge", "at the edge"]]  # fmt: skip
    text, at, _ = marks(page, events)
    assert text == ["second", long[:25] + "…"]
    assert at == [30.5, 1]


def test_a_ghost_is_a_pair_of_lines_and_lifts_the_chart_only_where_it_is_near(page: Any) -> None:
    most, kept = page.evaluate(
        f"""() => {{ const ghost = (label, low, high) => ({{ label, color: label, metrics: {{ p50: low, p99: high }} }})
          const board = ({BARE})({{ hidden: new Set(["hidden"]), ghosts: [ghost("near", 0.1, 0.2), ghost("far", 0.1, 9),
            ghost("short", 0.05, null), ghost("hidden", 1, 2), ghost("none", null, null)] }})
          return [board.haunt({{ name: "ttft", ghosts: ["p50", "p99"] }}, 100), board.kept["ttft:ghosts"]] }}"""
    )
    assert most == 200
    assert (kept["color"], kept["y0"], kept["y1"]) == (["near", "far", "short"], [100, 100, 50], pytest.approx([200, 9000, 50]))


def test_columns_keep_their_order_thin_the_older_half_and_take_no_row_twice(page: Any) -> None:
    found = page.evaluate(
        """() => { const columns = new Columns(8)
          columns.widen(["t", "a:w10", "a:w9"])
          const rows = (...numbers) => columns.append(new Float32Array(numbers), numbers.length / 3, 3)
          rows(1, 10, 5, 2, 20, NaN, 2, 99, NaN, 1, 99, NaN)
          columns.widen(["t", "a:w10", "a:w9", "b"])
          const late = [columns.n, Number.isNaN(columns.get("b")[0]), columns.upTo(0.5), columns.upTo(2), columns.of("a")]
          for (let t = 3; t <= 9; t++) columns.append(new Float32Array([t, t * 10, 0, 0]), 1, 4)
          return [late, [...columns.get("t").slice(0, columns.n)], [...columns.get("a:w10").slice(0, columns.n)]] }"""
    )
    assert found[0] == [2, True, 0, 2, ["w9", "w10"]]
    assert found[1] == [1, 3, 5, 6, 7, 8, 9], "the older half lost every second row when the ninth came"
    assert found[2] == [10 * t for t in found[1]]


def test_workers_are_looked_for_where_they_were_and_not_among_all_that_ever_have_been(page: Any) -> None:
    found = page.evaluate(
        """() => { const columns = new Columns(8), nan = NaN
          columns.widen(["t", "role:w0", "role:w1"])
          columns.append(new Float32Array([0, 1, nan, 1, 1, nan]), 2, 3)
          columns.widen(["t", "role:w0", "role:w1", "role:w10", "role:w2"])
          const none = columns.of("role")
          columns.append(new Float32Array([2, nan, 2, 2, nan, 3, nan, 2, 2, nan]), 2, 5)
          const asked = () => [columns.of("role"), columns.of("role", 0, 2), columns.of("role", 1, 3), columns.of("role", 3, 4)]
          const before = asked()
          for (let t = 4; t < 9; t++) columns.append(new Float32Array([t, nan, nan, nan, 0]), 1, 5)
          const t = [...columns.get("t").slice(0, columns.n)]
          return [none, before, t, columns.of("role", 0, 1), columns.of("role", 1, 2), columns.of("role", 2, columns.n)] }"""
    )
    none, before, t, first, second, rest = found
    assert none == ["w0"], "of the others nothing is known yet"
    assert before == [["w0", "w1", "w10"], ["w0"], ["w0", "w1", "w10"], ["w1", "w10"]]
    assert t == [0, 2, 4, 5, 6, 7, 8], "every second one of the older half was left out"
    assert (first, second, rest) == (["w0"], ["w1", "w10"], ["w2"])


def test_a_peak_stays_where_points_are_thinned(page: Any) -> None:
    peaks = page.evaluate(
        f"""() => {{ const board = ({BARE})({{ columns: new Columns(5000) }})
          board.columns.widen(["t", "v"])
          for (let i = 0; i < 2000; i++) board.columns.append(new Float32Array([i, i === 777 ? 50 : i % 3]), 1, 2)
          const shown = (first, last) => {{ board.rows = board.pick(first, last)
            const ys = []
            board.walk(board.columns.get("v"), 10, "peaks", (x, y) => ys.push(y))
            return [board.rows.step, ys.length, Math.max(...ys)] }}
          return [shown(0, 200), shown(0, 2000), shown(3, 2000)] }}"""
    )
    assert peaks[0] == [1, 200, 20]
    assert peaks[1][0] == 5
    assert peaks[1][1:] == [400, 500], "two for each bucket of ten"
    assert peaks[2][2] == 500, "wherever the window begins"


def test_numbers_and_clocks_are_written_as_people_read_them(page: Any) -> None:
    found = page.evaluate(
        """() => [number(1234.5, 1), number(NaN), clock(59.6), clock(3725), clock(61.27, true),
          roundUp(0), roundUp(1.21), roundUp(101)]"""
    )
    assert found == ["1,234.5", "–", "1:00", "1:02:05", "1:01.2", 1, 1.5, 120]


#: a widget's script on an element; its model as the kernel sees it is ``synced``, what it has not been told is in ``model`` alone
DRAW = """async ([script, state]) => {
  const { default: widget } = await import(`data:text/javascript;base64,${script}`)
  const heard = {}
  window.synced = { ...state }
  window.model = { get: (name) => state[name], set: (name, value) => { state[name] = value; heard[`change:${name}`]?.() },
    save_changes: () => { window.synced = { ...state } }, on: (name, call) => { heard[name] = call },
    off: (name, call) => { if (heard[name] === call) delete heard[name] } }
  window.undo = widget.render({ model, el: document.getElementById("here") }) }"""


def draw(page: Any, script: Path, **state: Any) -> None:
    page.evaluate(DRAW, [base64.b64encode(script.read_bytes()).decode(), state])


CONTROLS = """<div class="lk-explorer"><div class="lk-field"><label class="lk-label" title="Tokens of a prompt">ISL</label>
  <input id="bare"><input id="own" title="its own" aria-label="mine"><label><input id="labelled">by a label</label></div>
  <div class="lk-field"><label class="lk-label" title="No words"></label><select id="wordless"></select></div>
  <i id="here"></i></div>"""


def test_a_figure_that_is_taken_off_leaves_nothing_in_the_page(page: Any) -> None:
    page.add_script_tag(path=str(live_figure._BOKEHJS))
    found = page.evaluate(
        """async (json) => {
          const heard = new Set(), viewport = window.visualViewport, { addEventListener, removeEventListener } = viewport
          viewport.addEventListener = (name, what) => { heard.add(what); addEventListener.call(viewport, name, what) }
          viewport.removeEventListener = (name, what) => { heard.delete(what); removeEventListener.call(viewport, name, what) }
          const kept = () => [heard.size, Bokeh.documents.length, Bokeh.index.roots.length]
          const shown = new Plain(document.body, Bokeh, () => {})
          await shown.show(json)
          const before = kept()
          shown.remove()
          return [before, kept(), document.querySelectorAll(".lk-plain").length] }""",
        live_figure.document_json([pareto(pins())]),
    )
    assert min(found[0]) > 0
    assert found[1:] == [[0, 0, 0], 0]


def test_controls_get_the_name_of_their_caption_those_that_come_later_too(page: Any) -> None:
    page.set_content(CONTROLS)
    draw(page, Path(captions.__file__).with_suffix(".js"))
    page.wait_for_function("() => document.getElementById('bare').title")
    controls = "['bare', 'own', 'labelled', 'wordless'].map((id) => document.getElementById(id))"
    assert page.evaluate(f"() => {controls}.map((one) => [one.title, one.ariaLabel])") == [
        ["Tokens of a prompt", "ISL"], ["its own", "mine"], ["Tokens of a prompt", None], ["No words", "No words"],
    ]  # fmt: skip
    page.evaluate("() => document.querySelector('.lk-field').insertAdjacentHTML('beforeend', '<input id=later>')")
    page.wait_for_function("() => document.getElementById('later').ariaLabel === 'ISL'")
    page.evaluate("() => { undo(); document.querySelector('.lk-field').insertAdjacentHTML('beforeend', '<input id=after>') }")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("() => document.getElementById('after').title") == "", "its watch has ended"


def test_a_list_is_held_while_it_has_the_focus_and_no_longer(page: Any) -> None:
    page.set_content('<div class="lk-field"><select id="list"></select></div><input id="elsewhere"><div id="here"></div>')
    draw(page, Path(held.__file__).with_suffix(".js"), held=True)
    assert page.evaluate("() => synced.held") is False, "a page that was left with the list in hand could not say so"
    take = "() => { const list = document.getElementById('list'); list.blur(); list.focus(); return synced.held }"
    assert not page.evaluate(take), "it is drawn before it stands beside its list"
    page.evaluate("() => document.querySelector('.lk-field').append(document.getElementById('here'))")
    page.wait_for_function(take)
    page.locator("#elsewhere").focus()
    assert page.evaluate("() => synced.held") is False
    assert page.evaluate(take)
    page.evaluate("() => undo()")
    assert page.evaluate("() => synced.held") is False, "it was taken off the page with the list in hand"
    assert not page.evaluate(take), "its watch has ended"


PAGES = """<style>{style}</style><div class="lk-pages"><div id="here"></div>
  <div class="lk-page lk-page-0">a</div><div class="lk-page lk-page-1">b</div><div class="lk-page lk-page-2">c</div></div>"""
STATE = """() => [[...document.querySelectorAll('[role=tab]')].map((tab) => tab.ariaSelected === 'true'),
  [...document.querySelectorAll('.lk-page')].map((page) => page.offsetHeight > 0), synced.chosen,
  document.activeElement.textContent]"""


def test_tabs_are_chosen_by_click_key_and_kernel_and_need_nothing_of_jupyterlab(page: Any) -> None:
    page.set_content(PAGES.format(style=Path(tabs.__file__).with_name("explorer.css").read_text("utf-8")))
    draw(page, Path(tabs.__file__).with_suffix(".js"), titles=["A", "B", "C"], tooltips=["first", "second", "third"], chosen=0)

    def state(number: int) -> list[Any]:
        one = [i == number for i in range(3)]
        return [one, one, number]

    assert page.evaluate(STATE)[:3] == state(0)
    assert [tab.get_attribute("title") for tab in page.get_by_role("tab").all()] == ["first", "second", "third"]
    page.get_by_role("tab", name="C").click()
    assert page.evaluate(STATE)[:3] == state(2)
    for key, number in (("ArrowRight", 0), ("ArrowLeft", 2), ("ArrowLeft", 1), ("Home", 0), ("End", 2)):
        page.keyboard.press(key)
        assert page.evaluate(STATE) == [*state(number), "ABC"[number]], key
    page.keyboard.press("x")
    assert page.evaluate(STATE) == [*state(2), "C"], "another key is not theirs"
    page.evaluate("() => model.set('chosen', 1)")
    assert page.evaluate(STATE)[:2] == state(1)[:2], "the kernel has chosen"
    stops = page.evaluate("() => [...document.querySelectorAll('[role=tab]')].map((tab) => tab.tabIndex)")
    assert stops == [-1, 0, -1], "one stop of the Tab key: the tab in force"
    page.evaluate("() => { undo(); model.set('chosen', 0) }")
    assert page.evaluate(STATE)[:2] == state(1)[:2], "it has ended"
