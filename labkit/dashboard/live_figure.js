// The widget: BokehJS from the kernel, what the kernel sends to the board, what people click to the kernel.

function bokehjs(model) {
  const version = model.get("bokeh_version")
  if (window.Bokeh?.version === version && window.Bokeh.embed) return Promise.resolve(window.Bokeh)
  const loading = (window.__labkit_bokeh ??= {})
  loading[version] ??= new Promise((done) => {
    const receive = (message, buffers) => {
      if (message.type !== "bokehjs") return
      model.off("msg:custom", receive)
      for (const buffer of buffers) {
        const script = document.createElement("script")
        script.textContent = new TextDecoder().decode(buffer)
        document.head.appendChild(script)
      }
      done(window.Bokeh)
    }
    model.on("msg:custom", receive)
    model.send({ type: "bokehjs?" })
  })
  return loading[version]
}

async function render({ model, el }) {
  const Bokeh = await bokehjs(model)
  const emit = (message) => model.send(message)
  let shown = null, gone = false, unsaid = 0
  const handle = async (message, buffers) => {
    if (gone) return
    if (message.type === "figure") {
      const keep = shown?.view()
      shown?.remove()
      shown = message.board ? new Board(el, Bokeh, message.board, emit) : new Plain(el, Bokeh, emit)
      await shown.show(message.document)
      if (gone) return shown.remove() // it had nothing to let go of when it was taken off
      shown.fill?.(message, buffers, keep)
    } else if (shown?.fill) {
      if (message.type === "rows") shown.append(message, buffers)
      else if (message.type === "ghosts") shown.setGhosts(message.ghosts)
      else if (message.type === "view") shown.command(message.view)
      if (++unsaid >= 20) {
        unsaid = 0
        emit({ type: "here", last: shown.last() })
      }
    }
  }
  // One after the other: ticks that arrive while the first picture is made wait for it.
  let chain = Promise.resolve()
  const receive = (message, buffers) => {
    chain = chain.then(() => handle(message, buffers)).catch((error) => console.error("labkit:", error))
  }
  model.on("msg:custom", receive)
  emit({ type: "sync?" })
  return () => {
    gone = true
    model.off("msg:custom", receive)
    shown?.remove()
  }
}

export default { render }
