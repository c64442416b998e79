// What the charts know, as columns of numbers, and how numbers are written.

const NATURAL = new Intl.Collator(undefined, { numeric: true })

/** Columns that grow by a row a tick; what is not known is NaN. Bounded: beyond `most` rows the older half gets coarser. */
class Columns {
  constructor(most = 20000) {
    this.most = most
    this.names = []
    this.data = new Map()
    this.since = [] // of each column the first row of which something is known
    this.until = [] // and the row behind the last one
    this.entities = new Map()
    this.n = 0
    this.room = 512
  }
  get(name) { return this.data.get(name) }
  widen(names) {
    for (const name of names.slice(this.names.length)) {
      this.data.set(name, new Float32Array(this.room).fill(NaN))
      this.since.push(Infinity)
      this.until.push(-1)
    }
    this.names = names
    this.entities.clear()
  }
  append(values, rows, width) {
    for (let row = 0; row < rows; row++) {
      if (this.n > 0 && values[row * width] <= this.get("t")[this.n - 1]) continue // had before
      if (this.n === this.most) this.thin()
      if (this.n === this.room) this.enlarge()
      for (let i = 0; i < width; i++) {
        const value = values[row * width + i]
        this.data.get(this.names[i])[this.n] = value
        if (!Number.isNaN(value)) this.seen(i, this.n)
      }
      this.n++
    }
  }
  seen(column, row) {
    if (row < this.since[column]) this.since[column] = row
    if (row >= this.until[column]) this.until[column] = row + 1
  }
  enlarge() {
    this.room *= 2
    for (const [name, old] of this.data) {
      const wide = new Float32Array(this.room).fill(NaN)
      wide.set(old)
      this.data.set(name, wide)
    }
  }
  thin() {
    const half = this.n >> 1
    let kept = 0
    for (let i = 0; i < this.n; i++) {
      if (i < half && i % 2) continue
      for (const column of this.data.values()) column[kept] = column[i]
      kept++
    }
    this.n = kept
    this.names.forEach((name, i) => {
      const column = this.data.get(name).fill(NaN, kept)
      this.since[i] = Infinity
      this.until[i] = -1
      for (let row = 0; row < kept; row++) if (!Number.isNaN(column[row])) this.seen(i, row)
    })
  }
  /** How many rows lie at or before an instant. */
  upTo(t) {
    const times = this.get("t")
    let low = 0, high = this.n
    while (low < high) {
      const middle = (low + high) >> 1
      if (times[middle] <= t) low = middle + 1
      else high = middle
    }
    return low
  }
  /** The workers or devices of whose metric something is known within these rows, in natural order. After an afternoon of
   *  re-splits hundreds have been, and few are. */
  of(metric, first = 0, last = this.n) {
    if (!this.entities.has(metric)) {
      const found = this.names.flatMap((name, i) => (name.startsWith(metric + ":") ? [[name.slice(metric.length + 1), i]] : []))
      this.entities.set(metric, found.sort(([a], [b]) => NATURAL.compare(a, b)))
    }
    return this.entities.get(metric).filter(([, i]) => this.since[i] < last && this.until[i] > first).map(([name]) => name)
  }
}

const floats = (buffer) => {
  const view = ArrayBuffer.isView(buffer) ? buffer : new Uint8Array(buffer)
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength))
}
const STEPS = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10]
function roundUp(value) {
  if (!(value > 0)) return 1
  const power = 10 ** Math.floor(Math.log10(value))
  return power * STEPS.find((step) => step * power >= value * 0.9999)
}
const number = (value, decimals = 0) =>
  Number.isFinite(value) ? value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }) : "–"
function clock(t, tenths = false) {
  const s = tenths ? Math.floor(t) : Math.round(t), two = (v) => String(v).padStart(2, "0")
  const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60
  return (h ? `${h}:${two(m)}` : m) + ":" + two(s % 60) + (tenths ? "." + Math.floor((t - s) * 10 + 1e-6) : "")
}
