// The lab's live board, in a notebook and in an exported page: charts that are fed by columns of numbers.

const WINDOWS = [[60, "1 min"], [300, "5 min"], [1800, "30 min"], [Infinity, "all"]]
const MOST_POINTS = 240, MOST_DOTS = 150
const FIRST = ["pin", "note", "launch", "load", "resplit", "fault"] // the later, the sooner it is named

/** The eight charts, the tiles above them, and what a person does to them. */
class Board {
  constructor(el, Bokeh, spec, emit) {
    Object.assign(this, { el, Bokeh, spec, emit })
    this.columns = new Columns()
    this.events = []
    this.dots = { ttft: [], itl: [] }
    this.splits = []
    this.ghosts = []
    this.due = null // the frame that will draw
    this.pointer = null // where it was seen last over a chart, and what it points at
    this.hidden = new Set() // ghosts that are switched off
    this.mode = "live" // live, paused or history
    this.window = 60
    this.from = 0
    this.to = 60
    this.end = null // a replay's clock
    this.seen = true
    this.cleanups = []
    this.build()
  }

  // ---- the page ---------------------------------------------------------------------------------------------------

  build() {
    const { spec } = this
    this.root = make("div", { class: "lk-board" })
    this.tiles = make("div", { class: "lk-tiles-place" })
    this.tiles.innerHTML = spec.tiles // made and escaped by the lab
    this.topology = make("b", { class: "lk-topology", title: "the split that serves" })
    this.roles = make("span", { class: "lk-roles" })
    this.chips = make("span", { class: "lk-chips", role: "group", "aria-label": "pins behind the charts" })
    this.state = make("span", { class: "lk-state", role: "status" })
    this.pauseButton = this.button("Pause", "stop drawing; recording goes on (space)", () => this.togglePause())
    this.liveButton = this.button(spec.replay ? "Follow" : "Live", spec.replay ? "follow the clock again (End)" : "follow the newest again (End)", () => this.goLive())
    this.pauseButton.hidden = Boolean(spec.replay)
    this.windows = WINDOWS.map(([seconds, label]) =>
      this.button(label, `show ${label === "all" ? "everything" : "the last " + label}`, () => this.follow(seconds)))
    const bar = make("div", { class: "lk-bar" }, this.topology, this.roles, this.chips,
      this.state, make("span", { class: "lk-group", role: "group", "aria-label": "window" }, ...this.windows),
      make("span", { class: "lk-group" }, this.pauseButton, this.liveButton))
    this.cards = spec.panels.map((panel) => this.card(panel))
    this.grid = make("div", { class: "lk-grid", tabindex: "0", role: "group",
      "aria-label": "charts; arrow keys move in time, plus and minus zoom, space pauses, End is live" }, ...this.cards.map((card) => card.box))
    this.tip = make("div", { class: "lk-tip", role: "tooltip" })
    this.root.append(this.tiles, bar, this.grid, this.tip)
    this.el.append(this.root)
    this.listen(this.grid, "pointermove", (event) => this.hover(event))
    this.listen(this.grid, "pointerleave", () => this.unhover())
    this.listen(this.grid, "click", (event) => this.click(event))
    this.listen(this.grid, "dblclick", () => this.goLive())
    this.listen(this.grid, "keydown", (event) => this.key(event))
    const watcher = new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting
      if (this.seen) this.draw()
    })
    watcher.observe(this.root)
    this.cleanups.push(() => watcher.disconnect())
    this.listen(document, "visibilitychange", () => this.draw())
  }
  listen(target, name, handler) {
    target.addEventListener(name, handler)
    this.cleanups.push(() => target.removeEventListener(name, handler))
  }
  button(label, title, action) {
    const made = make("button", { type: "button", title }, label)
    made.addEventListener("click", action)
    return made
  }
  card(panel) {
    const legend = make("span", { class: "lk-legend" })
    const values = panel.series.map((series) => {
      const value = make("b")
      const swatch = make("i", { class: `lk-swatch${series.dash === "solid" ? "" : " lk-dashed"}`, style: series.color ? `--c:${series.color}` : "" })
      legend.append(make("span", {}, ...(series.color ? [swatch] : []), series.label + " ", value))
      return value
    })
    if (panel.limit !== null) legend.append(make("span", {}, make("i", { class: "lk-swatch lk-dashed", style: `--c:${this.spec.alarm}` }), panel.limit_label))
    const cross = make("i", { class: "lk-cross" }), none = make("span", { class: "lk-none" }, this.spec.absent[panel.name] ?? "not known here")
    const peak = make("span", { class: "lk-peak", title: "the highest of these minutes, beyond the chart" })
    const plot = make("div", { class: "lk-plot", "data-panel": panel.name }, cross, none)
    const head = make("header", {}, make("h4", {}, panel.title), make("small", {}, panel.unit), peak, legend)
    return { panel, plot, cross, none, peak, values, box: make("section", { class: "lk-card" }, head, plot) }
  }

  async show(json) {
    const [doc, views] = await embed(this.Bokeh, json, this.cards.map((card) => card.plot))
    this.doc = doc
    for (const card of this.cards) card.view = views.get(doc.get_model_by_name(card.panel.name))
    this.range = doc.get_model_by_name("x")
    this.range.change.connect(() => this.moved())
    this.cleanups.push(onTheme(views, calmStyle(views)))
  }
  remove() {
    cancelAnimationFrame(this.due)
    this.cleanups.forEach((cleanup) => cleanup())
    forget(this.Bokeh, this.doc)
    this.root.remove()
    this.columns = new Columns()
  }

  // ---- what arrives -------------------------------------------------------------------------------------------------

  fill(message, buffers, keep) {
    if (keep) Object.assign(this, keep)
    this.ghosts = message.ghosts ?? []
    this.drawChips()
    this.take(message, buffers)
    this.draw(true)
  }
  append(message, buffers) {
    this.take(message, buffers)
    if (this.mode !== "paused") this.drawSoon()
  }
  take(message, buffers) {
    if (message.columns) this.columns.widen(message.columns)
    if (message.n) this.columns.append(floats(buffers[0]), message.n, message.width)
    const later = (list, more) => {
      const last = list.length ? list.at(-1)[0] : -Infinity
      for (const item of more ?? []) if (item[0] > last || !list.some((had) => String(had) === String(item))) list.push(item)
    }
    later(this.events, message.events)
    later(this.splits, message.splits)
    for (const kind of ["ttft", "itl"]) {
      later(this.dots[kind], message[kind])
      if (this.dots[kind].length > 4000) this.dots[kind].splice(0, 1000)
    }
  }
  setGhosts(ghosts) {
    this.ghosts = ghosts
    this.drawChips()
    this.draw(true)
  }
  last() { return this.columns.n ? this.columns.get("t")[this.columns.n - 1] : -1 }
  first() { return this.columns.n ? this.columns.get("t")[0] : 0 }
  now() { return this.end ?? this.last() }
  view() {
    const { mode, window, from, to, hidden } = this
    return { mode, window, from, to, hidden }
  }

  // ---- what a person does -------------------------------------------------------------------------------------------

  command(view) {
    if (view === "pause" && this.mode !== "paused") this.togglePause()
    if (view === "live") this.goLive()
  }
  togglePause() {
    if (this.mode === "paused") return this.goLive()
    this.mode = "paused"
    this.status()
  }
  goLive() {
    this.mode = "live"
    this.draw(true)
  }
  follow(seconds) {
    this.window = seconds
    this.goLive()
  }
  look(from, to) {
    if (this.mode === "live") this.mode = "history"
    this.from = from
    this.to = to
    this.draw(true)
  }
  /** The x-range changed: by us, or because somebody dragged or zoomed. */
  moved() {
    if (this.setting || this.pending) return
    this.pending = requestAnimationFrame(() => {
      this.pending = 0
      this.look(this.range.start, this.range.end)
    })
  }
  key(event) {
    const wide = this.to - this.from, middle = (this.from + this.to) / 2
    const act = {
      ArrowLeft: () => this.look(this.from - wide / 4, this.to - wide / 4),
      ArrowRight: () => this.look(this.from + wide / 4, this.to + wide / 4),
      "+": () => this.look(middle - wide / 4, middle + wide / 4),
      "-": () => this.look(middle - wide, middle + wide),
      Home: () => this.look(this.first(), this.now()),
      End: () => this.goLive(),
      " ": () => this.togglePause(),
    }[event.key]
    if (!act || event.target !== this.grid) return
    event.preventDefault()
    event.stopPropagation()
    act()
  }
  drawChips() {
    this.chips.replaceChildren(...this.ghosts.map((ghost) => {
      const chip = make("button", { type: "button", title: `${ghost.label}: its p50 (line) and p99 (dashed) behind the charts`, style: `--c:${ghost.color}`,
        "aria-pressed": String(!this.hidden.has(ghost.label)) }, make("i", { class: "lk-swatch" }), ghost.label)
      chip.addEventListener("click", () => {
        this.hidden.has(ghost.label) ? this.hidden.delete(ghost.label) : this.hidden.add(ghost.label)
        chip.setAttribute("aria-pressed", String(!this.hidden.has(ghost.label)))
        this.draw(true)
      })
      return chip
    }))
  }

  // ---- drawing ------------------------------------------------------------------------------------------------------

  set(name, data) { this.doc.get_model_by_name(name).data = data }
  /** At once, so that Bokeh's paint, which waits for a frame, has the same one as the words around it; then not before the next: a
   *  browser that is slower than the ticks draws the newest one, and no queue of those before it grows. */
  drawSoon() {
    if (this.due) {
      this.again = true
      return
    }
    this.due = requestAnimationFrame(() => {
      this.due = null
      if (this.again) this.drawSoon()
    })
    this.again = false
    this.draw()
  }
  draw(force = false) {
    if (!this.doc || !this.columns.n) return this.status()
    if (!force && (!this.seen || document.hidden)) return
    const now = this.now()
    if (this.mode === "live") {
      const wide = this.window === Infinity ? Math.max(now - this.first(), 60) : this.window
      this.from = Math.max(now - wide, this.first())
      this.to = this.from + wide
    }
    this.numbers(now)
    this.status()
    if (!force && this.mode !== "live" && !(this.mode === "history" && this.to > now)) return
    const last = this.columns.upTo(Math.min(now, this.to)), first = Math.max(this.columns.upTo(this.from) - 1, 0)
    this.rows = this.pick(first, Math.min(last + 1, this.columns.upTo(now)))
    changeLines(this.cards.map((card) => card.view), () => {
      this.setting = true
      this.range.setv({ start: this.from, end: this.to })
      this.setting = false
      this.marks(now)
      for (const card of this.cards) this.panel(card, now)
    })
    if (this.pointer) this.hover(this.pointer)
    this.root.dataset.draws = Number(this.root.dataset.draws ?? 0) + 1
  }
  /** Rows to draw; where there are more than the charts are wide, the ends of buckets whose least and most are drawn. */
  pick(first, last) {
    const step = Math.max(1, Math.ceil((last - first) / MOST_POINTS / 2))
    return { first, last, step: step === 1 && last - first > MOST_POINTS * 1.5 ? 2 : step }
  }
  walk(column, scale, thin, visit) {
    const { first, last, step } = this.rows, t = this.columns.get("t")
    if (step === 1) {
      for (let i = first; i < last; i++) visit(t[i], column[i] * scale, i)
      return
    }
    // Buckets are aligned to the history, not to the window, so that a peak does not flicker as the window moves.
    for (let from = first - (first % (2 * step)); from < last; from += 2 * step) {
      if (thin === "mean") {
        this.mean(column, Math.max(from, first), Math.min(from + 2 * step, last), scale, visit)
        continue
      }
      let low = -1, high = -1
      for (let i = Math.max(from, first); i < Math.min(from + 2 * step, last); i++) {
        if (Number.isNaN(column[i])) continue
        if (low < 0 || column[i] < column[low]) low = i
        if (high < 0 || column[i] > column[high]) high = i
      }
      if (low < 0) visit(t[Math.max(from, first)], NaN, Math.max(from, first))
      else for (const i of low < high ? [low, high] : low > high ? [high, low] : [low]) visit(t[i], column[i] * scale, i)
    }
  }
  mean(column, from, to, scale, visit) {
    const t = this.columns.get("t")
    let sum = 0, known = 0
    for (let i = from; i < to; i++) if (!Number.isNaN(column[i])) { sum += column[i]; known++ }
    visit((t[from] + t[to - 1]) / 2, known ? (sum / known) * scale : NaN, to - 1)
  }
  /** A series' lines: one, or one for each stretch that an entity spent in one role. */
  lines(series) {
    if (!series.by || series.total) {
      const xs = [], ys = []
      this.walk(series.total ? this.sum(series.metric) : this.columns.get(series.metric) ?? [], series.scale, series.thin, (x, y) => { xs.push(x); ys.push(y) })
      return [{ xs, ys, color: series.color }]
    }
    const made = []
    const kind = series.by === "worker" ? "role" : "device_role"
    for (const name of this.columns.of(kind, this.rows.first, this.rows.last)) {
      const role = this.columns.get(`${kind}:${name}`)
      let line = null, at = NaN
      this.walk(this.columns.get(`${series.metric}:${name}`), series.scale, series.thin, (x, y, i) => {
        const code = role[i]
        if (line && code !== at && !Number.isNaN(code) && !Number.isNaN(at)) { line.xs.push(x); line.ys.push(y); line = null }
        if (!line) made.push((line = { xs: [], ys: [], color: this.spec.roles[code]?.color ?? this.spec.unknown, name }))
        if (!Number.isNaN(code)) { at = code; line.color = this.spec.roles[code].color }
        line.xs.push(x)
        line.ys.push(y)
      })
    }
    return made
  }
  /** The sum over all entities; not known where none is. */
  sum(metric) {
    const parts = this.columns.of(metric, this.rows.first, this.rows.last).map((name) => this.columns.get(`${metric}:${name}`))
    const total = new Float32Array(this.rows.last).fill(NaN)
    for (let i = this.rows.first; i < this.rows.last; i++) {
      for (const part of parts) if (!Number.isNaN(part[i])) total[i] = (Number.isNaN(total[i]) ? 0 : total[i]) + part[i]
    }
    return total
  }
  panel(card, now) {
    const { panel } = card
    const all = panel.series.map((series) => this.lines(series))
    card.none.hidden = all.some((lines) => lines.some((line) => line.ys.some(Number.isFinite)))
    card.plot.classList.toggle("lk-empty", !card.none.hidden)
    for (const axis of ["left", "right"]) {
      if (axis === "right" && !panel.series.some((series) => series.axis === "right")) continue
      const out = { xs: [], ys: [], color: [], width: [], dash: [] }
      const areas = { xs: [], ys: [], color: [], alpha: [] }
      let least = 0, most = 0
      panel.series.forEach((series, index) => {
        if (series.axis !== axis) return
        for (const line of all[index]) {
          for (const y of line.ys) { if (y > most) most = y; if (y < least) least = y }
          out.xs.push(line.xs)
          out.ys.push(line.ys)
          out.color.push(line.color)
          out.width.push(all[index].length > 8 ? 1 : series.width) // a browser fills the outline of wider ones, at thrice the cost
          out.dash.push(series.dash)
          if (series.fill) this.area(areas, line.xs, line.ys.map((y) => (Number.isNaN(y) ? NaN : 0)), line.ys, line.color, series.fill)
        }
      })
      if (axis === "left") {
        if (panel.band) {
          const [low, high] = panel.band.map((index) => all[index][0])
          if (this.rows.step === 1) this.area(areas, low.xs, low.ys, high.ys, high.color, 0.13)
        }
        if (panel.dots) most = this.usual(card, all.flat(), most)
        if (panel.limit !== null && most > panel.limit * 0.25) most = Math.max(most, panel.limit * 1.1)
        if (panel.dots) most = this.scatter(card, most, now)
        if (panel.ghosts) most = this.haunt(panel, most)
      }
      if (panel.top && axis === "left") { this.set(`${panel.name}:left`, out); this.set(`${panel.name}:left:area`, areas); continue }
      // On the right the line lies lower, so that two that say nearly the same do not cover each other.
      const room = axis === "right" ? 1.6 : panel.dots ? 1.15 + 0.12 * this.labelled : 1.06 // the words of the marks stand above the first two
      this.scale(this.doc.get_model_by_name(`${panel.name}:${axis === "left" ? "y" : "y2"}`), least, most * room)
      this.set(`${panel.name}:${axis}`, out)
      this.set(`${panel.name}:${axis}:area`, areas)
    }
  }
  /** Round ends that move seldom: up at once, down when much room is left. */
  scale(range, least, most) {
    const top = roundUp(most), bottom = least < 0 ? -roundUp(-least * 1.06) : 0
    const fits = top <= range.end && top > range.end * 0.65 && bottom >= range.start && (bottom < range.start * 0.65 || range.start === 0)
    if (!fits && (range.end !== top || range.start !== bottom)) range.setv({ start: bottom, end: top })
  }
  /** A filled area for each stretch without a gap. */
  area(into, xs, low, high, color, alpha) {
    for (let i = 0; i < xs.length; i++) {
      if (Number.isNaN(low[i]) || Number.isNaN(high[i])) continue
      const start = i
      while (i < xs.length && !Number.isNaN(low[i]) && !Number.isNaN(high[i])) i++
      if (i - start < 2) continue
      into.xs.push([...xs.slice(start, i), ...xs.slice(start, i).reverse()])
      into.ys.push([...high.slice(start, i), ...low.slice(start, i).reverse()])
      into.color.push(color)
      into.alpha.push(alpha)
    }
  }
  /** The top that shows how it usually is: where a few moments lie far above the rest, the lines leave the chart there, and a word
   *  at its edge tells how far they go. */
  usual(card, lines, most) {
    const values = lines.flatMap((line) => line.ys.filter(Number.isFinite)).sort((a, b) => a - b)
    const often = values[Math.floor(values.length * 0.97)] ?? most
    const top = Math.max(often * 1.5, card.panel.limit ?? 0), beyond = values.length > 40 && most > top * 2
    put(card.peak, beyond ? `▲ to ${number(most)}` : "")
    return beyond ? top : most
  }
  /** Slow ones as dots; those far beyond the lines are triangles at the upper edge. */
  scatter(card, most, now) {
    const { panel } = card
    const near = this.worst(this.dots[panel.dots].filter(([t]) => t >= this.from && t <= Math.min(this.to, now)), card)
    const ceiling = Math.max(most * 1.3, 1e-9), values = near.map(([, , value]) => value * 1000)
    most = Math.max(most, ...values.filter((value) => value <= ceiling))
    const edge = roundUp(most * (1.15 + 0.12 * this.labelled)) * (0.95 - 0.1 * this.labelled) // below the words of the marks
    card.dots = near.map(([t, request], i) => ({ t, request, y: Math.min(values[i], edge), value: values[i] }))
    this.set(`${panel.name}:dots`, {
      x: card.dots.map((dot) => dot.t), y: card.dots.map((dot) => dot.y), request: card.dots.map((dot) => dot.request),
      marker: card.dots.map((dot) => (dot.value > edge ? "triangle" : "circle")),
    })
    return most
  }
  /** Many dots run into each other: the worst of every few pixels stays, which is the one that a click is for. */
  worst(dots, card) {
    if (dots.length <= MOST_DOTS) return dots
    const wide = ((this.to - this.from) / Math.max(card.view.frame.bbox.width, 1)) * 5, found = new Map()
    for (const dot of dots) {
      const bucket = Math.floor(dot[0] / wide)
      if (!(found.get(bucket)?.[2] >= dot[2])) found.set(bucket, dot)
    }
    return [...found.values()]
  }
  haunt(panel, most) {
    const out = { y0: [], y1: [], color: [] }
    for (const ghost of this.ghosts) {
      const [low, high] = panel.ghosts.map((metric) => (ghost.metrics[metric] ?? NaN) * 1000)
      if (this.hidden.has(ghost.label) || !Number.isFinite(low)) continue
      const top = Number.isFinite(high) ? high : low // of a short pin the p99 is not known
      out.y0.push(low)
      out.y1.push(top)
      out.color.push(ghost.color)
      if (top < most * 2.5) most = Math.max(most, top)
    }
    this.set(`${panel.name}:ghosts`, out)
    return most
  }
  /** Lines across all charts; their words above the first two, as far as there is room. */
  marks(now) {
    const near = this.events.filter(([t]) => t >= this.from && t <= Math.min(this.to, now))
    const color = (kind) => this.spec.events[kind] ?? this.spec.unknown
    this.set("events", { x: near.map(([t]) => t), color: near.map(([, kind]) => color(kind)) })
    const perPixel = (this.to - this.from) / Math.max(this.cards[0].view.frame.bbox.width, 1)
    const labels = { x: [], y: [], text: [], color: [] }, taken = [[], []]
    const words = near.map(([t, kind, , label], index) => ({ t, kind, label, next: near[index + 1] }))
    words.sort((a, b) => FIRST.indexOf(b.kind) - FIRST.indexOf(a.kind)) // where there is no room for all, what changed the most is named
    for (const { t, kind, label, next } of words) {
      if (next?.[1] === kind && next[0] - t < 8 * perPixel) continue // replaced at once, as a load by another one: needs no words
      const text = label.length > 26 ? label.slice(0, 25) + "…" : label, end = t + (text.length * 6 + 10) * perPixel
      const row = taken.findIndex((spans) => spans.every(([from, to]) => end <= from || t >= to))
      if (row < 0 || (this.to - t) / perPixel < 24) continue
      taken[row].push([t, end])
      labels.x.push(t)
      labels.y.push(1 - row * 0.11)
      labels.text.push(text)
      labels.color.push(color(kind))
    }
    const rows = taken.filter((spans) => spans.length).length
    this.labelled = rows
    this.set("event labels", labels)
  }

  // ---- numbers ------------------------------------------------------------------------------------------------------

  /** Tiles and legends: what was known at an instant. */
  numbers(now) {
    const row = this.columns.upTo(Math.min(now, this.mode === "history" ? this.to : now)) - 1
    if (row < 0) return
    const at = (name) => this.columns.get(name)?.[row] ?? NaN
    for (const tile of this.tiles.querySelectorAll("[data-metric]")) {
      const { metric, scale, decimals, limit, better, of, least } = tile.dataset
      const value = at(metric) * Number(scale)
      const text = number(value, Number(decimals))
      put(tile.querySelector(".lk-value"), text)
      tile.toggleAttribute("data-long", text.length > 6)
      const verdict = limit === undefined || !Number.isFinite(value) ? "" : better === "low" ? (value <= Number(limit) ? "good" : "bad") : ""
      if (tile.dataset.verdict !== verdict) tile.dataset.verdict = verdict
      const foot = tile.querySelector("footer")
      put(foot, of && !Number.isFinite(value) && at(of) > 0 ? `n = ${at(of)} of ${least}` : foot.dataset.note)
      put(tile.querySelector(".lk-verdict"), verdict === "good" ? "✓" : verdict === "bad" ? "✗" : "")
    }
    for (const card of this.cards) {
      card.panel.series.forEach((series, index) => {
        let value = at(series.metric)
        if (series.by) {
          const known = this.columns.of(series.metric, row, row + 1).map((name) => at(`${series.metric}:${name}`)).filter(Number.isFinite)
          value = known.reduce((a, b) => a + b, 0) / (series.legend === "mean" ? known.length : known.length && 1)
        }
        put(card.values[index], number(value * Math.abs(series.scale), series.decimals) + (Number.isFinite(value) ? series.unit : ""))
      })
    }
    put(this.topology, this.splits.filter(([t]) => t <= this.columns.get("t")[row]).at(-1)?.[1] ?? "")
    const counts = [0, 0, 0]
    let dead = 0
    for (const name of this.columns.of("role", row, row + 1)) {
      const code = at(`role:${name}`)
      if (Number.isNaN(code)) continue
      counts[code]++
      if (at(`alive:${name}`) === 0) dead++
    }
    const key = counts.join() + dead
    if (this.counted === key) return
    this.counted = key
    this.roles.replaceChildren(
      ...this.spec.roles.flatMap(({ noun, color }, code) =>
        counts[code] ? [make("span", {}, make("i", { class: "lk-swatch", style: `--c:${color}` }), `${counts[code]} ${noun}`)] : []),
      ...(dead ? [make("span", { class: "lk-dead" }, `✗ ${dead} dead`)] : []))
  }
  status() {
    const words = { live: "● live", paused: "❚❚ paused, recording", history: `${clock(Math.max(this.from, 0))} – ${clock(Math.max(this.to, 0))}` }[this.mode]
    const text = this.end === null ? words : clock(this.end)
    put(this.state, text)
    this.root.dataset.mode = this.mode
    put(this.pauseButton, this.mode === "paused" ? "Resume" : "Pause")
    this.liveButton.disabled = this.mode === "live"
    this.windows.forEach((made, i) => made.setAttribute("aria-pressed", String(WINDOWS[i][0] === this.window && this.mode === "live")))
  }

  // ---- the crosshair ------------------------------------------------------------------------------------------------

  /** Where the pointer is: the card, the instant, the pixel. */
  locate(event) {
    const place = event.target.closest?.(".lk-plot"), card = this.cards.find((one) => one.plot === place)
    if (!card || !this.columns.n) return null
    const box = place.getBoundingClientRect(), frame = card.view.frame.bbox
    const px = event.clientX - box.left - frame.left, py = event.clientY - box.top - frame.top
    if (px < 0 || px > frame.width || py < 0 || py > frame.height) return null
    return { card, frame, px, py, t: this.from + (px / frame.width) * (this.to - this.from) }
  }
  dotAt({ card, frame, px, py }) {
    const y = this.doc.get_model_by_name(`${card.panel.name}:y`)
    let found = null, nearest = 9
    for (const dot of card.dots ?? []) {
      const dx = ((dot.t - this.from) / (this.to - this.from)) * frame.width - px
      const dy = (1 - (dot.y - y.start) / (y.end - y.start)) * frame.height - py
      const distance = Math.hypot(dx, dy)
      if (distance < nearest) [found, nearest] = [dot, distance]
    }
    return found
  }
  /** The pointer is there. Where it rests while the charts move beneath it, each drawing tells anew what it points at. */
  hover({ target, clientX, clientY }) {
    const event = { target, clientX, clientY }, at = this.locate(event)
    if (!at) return this.unhover()
    for (const card of this.cards) {
      const frame = card.view.frame.bbox
      card.cross.style.cssText = `display:block;top:${frame.top}px;height:${frame.height}px;left:${frame.left + (at.px / at.frame.width) * frame.width}px`
    }
    const dot = this.dotAt(at)
    this.pointer = { ...event, dot, card: at.card }
    at.card.plot.classList.toggle("lk-clickable", Boolean(dot))
    this.tell(at, dot)
    const box = this.root.getBoundingClientRect(), wide = this.tip.offsetWidth, high = this.tip.offsetHeight
    const x = event.clientX - box.left, y = event.clientY - box.top
    this.tip.style.left = `${x + 18 + wide > box.width ? x - wide - 14 : x + 18}px`
    this.tip.style.top = `${Math.max(0, Math.min(y - high / 2, box.height - high))}px`
  }
  unhover() {
    this.pointer = null
    this.tip.style.display = "none"
    for (const card of this.cards) card.cross.style.display = "none"
  }
  tell(at, dot) {
    const { panel } = at.card, perPixel = (this.to - this.from) / at.frame.width
    const times = this.columns.get("t"), after = this.columns.upTo(Math.min(at.t, this.now()))
    let row = Math.max(after - 1, 0)
    if (after < this.columns.n && times[after] <= this.now() && times[after] - at.t < at.t - times[row]) row = after
    const lines = [make("header", {}, clock(times[row], true))]
    for (const [t, kind, words] of this.events) {
      if (Math.abs(t - at.t) < 7 * perPixel && t <= this.now()) lines.push(make("div", { class: "lk-event", style: `--c:${this.spec.events[kind] ?? this.spec.unknown}` }, words))
    }
    const value = (name, series) => {
      const raw = this.columns.get(name)?.[row] ?? NaN
      return make("td", {}, Number.isFinite(raw) ? number(raw * Math.abs(series.scale), Number.isInteger(raw) ? 0 : Math.max(series.decimals, series.by && !series.unit ? 1 : 0)) + series.unit : "–")
    }
    const table = make("table")
    const entities = panel.series.filter((series) => series.by)
    for (const series of panel.series) {
      if (!series.by) table.append(make("tr", {}, make("th", {}, make("i", { class: "lk-swatch", style: `--c:${series.color}` }), series.label), value(series.metric, series)))
    }
    if (entities.length) {
      if (entities.length > 1) table.append(make("tr", { class: "lk-heads" }, make("th"), ...entities.map((series) => make("td", {}, series.label))))
      const prefix = entities[0].by === "worker" ? "role" : "device_role"
      for (const name of this.columns.of(prefix, row, row + 1)) {
        const role = this.spec.roles[this.columns.get(`${prefix}:${name}`)[row]]
        const dead = this.columns.get(`alive:${name}`)?.[row] === 0
        table.append(make("tr", {}, make("th", {}, make("i", { class: "lk-swatch", style: `--c:${role?.color ?? this.spec.unknown}` }), name + (dead ? " ✗ dead" : "")),
          ...entities.map((series) => value(`${series.metric}:${name}`, series))))
      }
    }
    lines.push(table)
    if (dot) lines.push(make("footer", {}, `request ${dot.request}: ${number(dot.value, panel.series[0].decimals)} ms · click to open`))
    this.tip.replaceChildren(...lines)
    this.tip.style.display = "block"
  }
  /** Opens what the words at the pointer tell; a finger has none. */
  click(event) {
    const { pointer } = this
    if (!pointer || Math.hypot(pointer.clientX - event.clientX, pointer.clientY - event.clientY) > 1.5) this.hover(event)
    const { dot, card } = this.pointer ?? {}
    if (dot) this.emit({ type: "tap", what: { kind: card.panel.dots, request: dot.request, t_s: dot.t, value_s: dot.value / 1000 } })
  }
}
