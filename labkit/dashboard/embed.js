// Bokeh models on a page: put in their places, in the page's theme, and taken off again.

/** An element with attributes and children; text is text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") element.style.cssText = value
    else element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}
/** New words in an element that has one text. Its text node stays: JupyterLab's style sheets have rules on children (`:has`), and
 *  with every child replaced the browser holds the whole page against them. */
function put(element, text) {
  if (!element.firstChild) element.append("")
  if (element.firstChild.data !== text) element.firstChild.data = text
}
/** Bokeh itself lets go of the views of a document's roots alone: one more, for its notes, kept everything of each that was shown. */
function forget(Bokeh, doc) {
  if (!doc) return
  doc.views_manager?.clear()
  doc.clear()
  const at = Bokeh.documents.indexOf(doc)
  if (at >= 0) Bokeh.documents.splice(at, 1)
}
/** Bokeh's own tooltips are white whatever the page is. */
function dressTooltips(views) {
  for (const view of views.all_views()) {
    for (const tip of view.ttmodels?.values() ?? []) {
      tip.stylesheets = [...tip.stylesheets, `:host { --tooltip-color: var(--jp-layout-color1); --tooltip-text: var(--jp-ui-font-color1);
        --tooltip-border: var(--jp-border-color1); --tooltip-arrow-color: var(--jp-border-color1); border-radius: 6px;
        font-variant-numeric: tabular-nums; box-shadow: 0 4px 14px #0004; }
        .bk-tooltip-row-label { color: var(--jp-ui-font-color2) !important; }`]
    }
  }
}
/** Half of what a tick would cost: at each paint Bokeh rewrites a style sheet for every axis, then asks the page for fonts and
 *  colours, and so has the browser work out the style of everything, dozens of times. Here a sheet is rewritten when it differs,
 *  and the answers are kept until the function returned is called. A later Bokeh without these methods does as it pleases. */
function calmStyle(views) {
  const known = new Map()
  const keep = (key, ask) => {
    if (!known.has(key)) known.set(key, ask())
    return known.get(key)
  }
  for (const view of views.all_views()) {
    for (const visual of view.visuals?.[Symbol.iterator] ? view.visuals : []) {
      const ask = visual._get_css_value
      if (typeof ask === "function") visual._get_css_value = (name) => keep(visual.css_prefix + name, () => ask.call(visual, name))
    }
    if (typeof view.base_font_size === "number") {
      const size = view.base_font_size
      Object.defineProperty(view, "base_font_size", { get: () => size })
    }
    const sheet = view.position, rewrite = sheet?.replace
    if (typeof rewrite === "function") {
      let last = null
      sheet.replace = (...rules) => {
        const text = JSON.stringify(rules)
        if (text !== last) rewrite.apply(sheet, rules)
        last = text
      }
    }
  }
  return () => known.clear()
}
/** Changes of lines and axes. Bokeh would paint with each plot the layer above it too, on which nothing has changed. */
function changeLines(plots, change) {
  const known = plots.filter((plot) => typeof plot._invalidate_all === "boolean" && plot.computed_renderer_views)
  const all = known.map((plot) => plot._invalidate_all)
  change()
  known.forEach((plot, i) => {
    plot._invalidate_all = all[i]
    plot.invalidate_painters(plot.computed_renderer_views.find((one) => one.model.level !== "overlay"))
  })
}
/** Canvases are painted with the colours of the theme of that moment: paint them again when it changes. */
function onTheme(views, before = () => {}) {
  const repaint = () => {
    before()
    for (const view of views.all_views()) view.request_repaint?.()
  }
  const themes = new MutationObserver(repaint), dark = matchMedia("(prefers-color-scheme: dark)")
  themes.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "data-jp-theme-light"] })
  dark.addEventListener("change", repaint)
  return () => {
    themes.disconnect()
    dark.removeEventListener("change", repaint)
  }
}
/** Every plot is a stop of the Tab key, deep in its shadow, at which no key does anything: they are passed over. */
function passOver(root) {
  for (const element of root.querySelectorAll("*")) {
    if (element.getAttribute("tabindex") === "0") element.tabIndex = -1
    if (element.shadowRoot) passOver(element.shadowRoot)
  }
}
/** A plot of Bokeh's listens for the zoom of the window for as long as the page is there, and so every one that was ever shown would
 *  stay, with its document. Here it listens until it is removed. */
function listenUntilRemoved(Bokeh) {
  const plot = Bokeh.require("models/plots/plot_canvas").PlotView.prototype, viewport = window.visualViewport
  if (!viewport || plot.lkListening) return
  const { connect_signals, remove } = plot, heard = new WeakMap()
  plot.lkListening = true
  plot.connect_signals = function () {
    const listen = viewport.addEventListener, added = []
    viewport.addEventListener = (...what) => {
      added.push(what)
      listen.apply(viewport, what)
    }
    try {
      connect_signals.call(this)
    } finally {
      viewport.addEventListener = listen
    }
    heard.set(this, added)
  }
  plot.remove = function () {
    for (const what of heard.get(this) ?? []) viewport.removeEventListener(...what)
    heard.delete(this)
    remove.call(this)
  }
}
async function embed(Bokeh, json, places) {
  listenUntilRemoved(Bokeh)
  const { Document } = Bokeh.require("document")
  const doc = Document.from_json(json)
  const views = await Bokeh.embed.add_document_standalone(doc, places[0], places)
  dressTooltips(views)
  places.forEach(passOver)
  return [doc, views]
}

/** Models that hold their own data, some of which may be filled anew. A source tagged "tap" tells which of its rows was clicked. */
class Plain {
  constructor(el, Bokeh, emit) {
    Object.assign(this, { el, Bokeh, emit })
    this.root = make("div", { class: "lk-plain" })
    el.append(this.root)
  }
  async show(json) {
    const places = json.roots.map(() => make("div"))
    this.root.replaceChildren(...places)
    const [doc, views] = await embed(this.Bokeh, json, places)
    this.doc = doc
    this.stopThemes = onTheme(views)
    for (const source of doc._all_models?.values() ?? []) {
      if (!source.tags?.includes("tap") || !source.selected) continue
      source.selected.properties.indices.change.connect(() => {
        const [index] = source.selected.indices
        if (index === undefined) return
        const what = {}
        for (const name of source.columns()) what[name] = source.get_array(name)[index]
        this.emit({ type: "tap", what })
        source.selected.indices = []
      })
    }
  }
  /** New columns for data sources and new ends for ranges, each by its name. */
  fill({ sources = {}, ranges = {} }) {
    for (const [name, data] of Object.entries(sources)) this.doc.get_model_by_name(name).data = data
    for (const [name, [start, end]] of Object.entries(ranges)) this.doc.get_model_by_name(name).setv({ start, end })
  }
  append(message) { this.fill(message) }
  last() { return 0 }
  view() { return null }
  remove() {
    this.stopThemes?.()
    forget(this.Bokeh, this.doc)
    this.root.remove()
  }
}
