// An exported page: the whole history on the board, and a clock that a person moves.

async function replay(Bokeh, data) {
  const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0))
  const board = new Board(document.getElementById("board"), Bokeh, data.board, (message) => picked(message.what))
  await board.show(data.document)
  board.fill(data, [decode(data.values)])
  board.window = Infinity
  const first = board.first(), last = board.last()
  const slider = document.getElementById("time"), play = document.getElementById("play"), speed = document.getElementById("speed")
  slider.min = first
  slider.max = last
  slider.step = Math.max((last - first) / 2000, 0.05)
  const at = (t) => {
    board.end = Math.min(t, last)
    slider.value = board.end
    slider.setAttribute("aria-valuetext", clock(board.end))
    board.mode = "live"
    board.draw(true)
  }
  let playing = 0, before = 0
  const stop = () => {
    cancelAnimationFrame(playing)
    playing = 0
    play.textContent = "▶ Play"
  }
  let drawn = 0
  const step = (time) => {
    if (time - drawn > 60) {
      const t = board.end + ((time - before) / 1000) * Number(speed.value)
      before = drawn = time
      at(t)
      if (t >= last) return stop()
    }
    playing = requestAnimationFrame(step)
  }
  play.addEventListener("click", () => {
    if (playing) return stop()
    if (board.end >= last) at(first)
    if (board.window === Infinity) board.window = 60
    before = drawn = performance.now()
    play.textContent = "❚❚ Stop"
    playing = requestAnimationFrame(step)
  })
  slider.addEventListener("input", () => {
    stop()
    at(Number(slider.value))
  })
  for (const button of document.querySelectorAll(".when")) {
    button.addEventListener("click", () => {
      stop()
      if (board.window === Infinity) board.window = 60
      at(Math.max(first, Math.min(Number(button.dataset.t) + board.window / 3, last)))
      document.getElementById("board").scrollIntoView({ block: "start" })
    })
  }
  function picked(what) {
    document.getElementById("picked").textContent = `request ${what.request} at ${clock(what.t_s)}: ${number(what.value_s * 1000, 1)} ms`
  }
  at(last)
  if (data.pins) {
    const pins = new Plain(document.getElementById("pins"), Bokeh, () => {})
    await pins.show(data.pins)
  }
  return board
}
