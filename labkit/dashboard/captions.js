// ipywidgets gives a number's field, a slider and a tick box neither name nor tooltip: they get those of their caption.

const CONTROLS = "input, select, textarea, .noUi-handle"

function name(root) {
  for (const field of root.querySelectorAll(".lk-field")) {
    const caption = field.querySelector(".lk-label")
    if (!caption) continue
    for (const control of field.querySelectorAll(CONTROLS)) {
      if (!control.title) control.title = caption.title
      const labelled = [...(control.labels ?? [])].some((label) => label.textContent.trim())
      if (!labelled && !control.ariaLabel) control.ariaLabel = caption.textContent || caption.title
    }
  }
}

function render({ el }) {
  let frame = 0, observer = null
  const soon = () => { frame ||= requestAnimationFrame(look) }
  const look = () => {
    frame = 0
    const root = el.closest(".lk-explorer")
    if (!root) return soon() // not on the page yet
    name(root)
    if (observer) return
    observer = new MutationObserver(soon)
    observer.observe(root, { childList: true, subtree: true })
  }
  soon()
  return () => {
    cancelAnimationFrame(frame)
    observer?.disconnect()
  }
}

export default { render }
