// What Bokeh's pages lack: names of controls for who does not see them, ink that can be read on a dark page, and figures
// that fit on a phone.
// Done again and again, for a page may change.
(() => {
  const INK = {light: "#4d4d4d", dark: "#c4c4c4"}
  const scheme = matchMedia("(prefers-color-scheme: dark)")
  const inked = new WeakMap()

  function ink(model, colour) {
    if (inked.get(model) === colour) return
    inked.set(model, colour)
    for (const property of model)
      if (property.attr.endsWith("_color") && Object.values(INK).includes(model[property.attr]))
        model[property.attr] = colour
  }

  const drawn = new WeakMap()

  // Figures and sliders are as wide as they were made, or as the window.
  function fit(model) {
    const key = typeof model.frame_width === "number" ? "frame_width" : "width"
    if (typeof model[key] !== "number" || (key === "width" && model.type !== "RangeSlider")) return
    if (!drawn.has(model)) drawn.set(model, {width: model[key], height: model.frame_height})
    const made = drawn.get(model), beside = key === "width" ? 20 : model.right.length ? 120 : 70
    const width = Math.max(Math.min(made.width, document.documentElement.clientWidth - 30 - beside), 100)
    if (width === model[key]) return
    const change = {[key]: width}
    if (made.height != null) change.frame_height = Math.round(made.height * width / made.width)
    model.setv(change)
  }

  function* elements(root) {
    for (const element of root.querySelectorAll("*")) {
      yield element
      if (element.shadowRoot != null) yield* elements(element.shadowRoot)
    }
  }

  function name(element, label, role) {
    if (label && element.getAttribute("aria-label") !== label) element.setAttribute("aria-label", label)
    if (role && element.getAttribute("role") !== role) element.setAttribute("role", role)
  }

  function dress() {
    if (typeof Bokeh === "undefined") return
    for (const shown of Bokeh.documents)
      for (const model of shown.all_models) {
        ink(model, scheme.matches ? INK.dark : INK.light)
        fit(model)
      }
    for (const element of elements(document.body)) {
      const kind = element.classList, within = element.getRootNode()
      if (kind.contains("noUi-handle")) {
        const title = within.querySelector(".bk-slider-title").firstChild.textContent.replace(/: $/, "")
        name(element, `${title}, ${kind.contains("noUi-handle-lower") ? "lower" : "upper"} end`)
      } else if (kind.contains("bk-spin-btn")) {
        const label = within.querySelector("label").textContent.trim()
        name(element, `${label} ${kind.contains("bk-spin-btn-up") ? "up" : "down"}`)
      } else if (kind.contains("bk-tool-overflow")) name(element, "more tools", "button")
      else if (kind.contains("bk-OnOffButton") || kind.contains("bk-ClickButton")) {
        name(element, element.title, "button")
        if (kind.contains("bk-OnOffButton")) element.setAttribute("aria-pressed", kind.contains("bk-active"))
      } else if (kind.contains("bk-events")) {
        const figure = within.host.getRootNode().host
        name(element, `${figure.getAttribute("aria-label")}: drag to pan, turn the wheel to zoom`, "group")
      }
    }
  }

  scheme.addEventListener("change", dress)
  addEventListener("load", () => { dress(); setInterval(dress, 500) })
})()
