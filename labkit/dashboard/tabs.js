// One page at a time, by a click or by the keys of the ARIA pattern for tabs.
// The pages are the later siblings of this element; the style sheet hides all but the chosen one.

const STEPS = { ArrowRight: 1, ArrowLeft: -1 }

function render({ model, el }) {
  el.classList.add("lk-tabs")
  el.setAttribute("role", "tablist")
  const tips = model.get("tooltips")
  const tabs = model.get("titles").map((title, i) => {
    const tab = document.createElement("button")
    tab.type = "button"
    tab.textContent = title
    tab.title = tips[i]
    tab.setAttribute("role", "tab")
    tab.addEventListener("click", () => choose(i))
    return tab
  })
  const choose = (i) => {
    model.set("chosen", i)
    model.save_changes()
  }
  const show = () => {
    const chosen = model.get("chosen")
    el.dataset.chosen = chosen
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", i === chosen)
      tab.tabIndex = i === chosen ? 0 : -1
    })
  }
  const onKey = (event) => {
    const ends = { Home: 0, End: tabs.length - 1 }
    const next = ends[event.key] ?? (tabs.indexOf(event.target) + STEPS[event.key] + tabs.length) % tabs.length
    if (Number.isNaN(next)) return
    event.preventDefault()
    event.stopPropagation() // JupyterLab moves between cells by these keys
    choose(next)
    tabs[next].focus()
  }
  el.replaceChildren(...tabs)
  el.addEventListener("keydown", onKey)
  model.on("change:chosen", show)
  show()
  return () => {
    model.off("change:chosen", show)
    el.removeEventListener("keydown", onKey)
  }
}

export default { render }
