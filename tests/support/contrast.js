// The contrast of every visible text in an element with what lies behind it, worst first: [ratio, element, words].
(where) => {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  const rgba = (css) => { // whatever notation: drawn, and looked at
    pixel.clearRect(0, 0, 1, 1)
    pixel.fillStyle = css
    pixel.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = pixel.getImageData(0, 0, 1, 1).data
    return [r, g, b, a / 255]
  }
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1)
  const luminance = (color) => color.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
  const behind = (element) => {
    const layers = []
    for (let e = element; e && layers.at(-1)?.[3] !== 1; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor))
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1])
  }
  const found = []
  for (const element of document.querySelectorAll(`${where} *`)) {
    const words = ["INPUT", "SELECT"].includes(element.tagName) ? element.value
      : [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data.trim()).join("")
    const { width, height } = element.getBoundingClientRect(), style = getComputedStyle(element)
    if (!words || !width || !height || style.visibility === "hidden" || element.closest(":disabled, style, option")) continue
    const back = behind(element), [high, low] = [luminance(over(rgba(style.color), back)), luminance(back)].sort((a, b) => b - a)
    found.push([(high + 0.05) / (low + 0.05), `${element.tagName}.${element.className}`, words.slice(0, 60)])
  }
  return found.sort((a, b) => a[0] - b[0])
}
