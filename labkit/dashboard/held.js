// Whether somebody has the list beside this element in hand: an open list has the focus, and so has one that was just used.

function render({ model, el }) {
  let frame = 0, around = null
  const tell = (held) => {
    if (model.get("held") === held) return
    model.set("held", held)
    model.save_changes()
  }
  const taken = () => tell(true), left = () => tell(false)
  const look = () => {
    frame = 0
    around = el.closest(".lk-field")
    if (!around) return void (frame = requestAnimationFrame(look)) // not on the page yet
    around.addEventListener("focusin", taken)
    around.addEventListener("focusout", left)
  }
  left() // a page that was left with the list in hand could not say so
  look()
  return () => {
    cancelAnimationFrame(frame)
    around?.removeEventListener("focusin", taken)
    around?.removeEventListener("focusout", left)
    left()
  }
}

export default { render }
