// What the list of runs beside the curves and the table of runs share. Python puts this text before their scripts, since
// modules of Panel's components have no address from which they could import each other.

// A test of texts: for all words, or for a regular expression between slashes. Throws where that can't be read.
function searcher(text) {
  const between = /^\/(.*)\/$/.exec(text.trim())
  if (between) {
    const pattern = new RegExp(between[1], "im")
    return (value) => pattern.test(value)
  }
  const words = text.toLowerCase().split(/\s+/).filter(Boolean)
  return (value) => words.every((word) => value.toLowerCase().includes(word))
}

// A number in a few characters, as in the pictures; "" for no value, and a text as it is.
function short(value) {
  if (value == null) return ""
  if (typeof value !== "number") return String(value)
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf"
  const size = Math.abs(value)
  if (size >= 1e15 || (size > 0 && size < 1e-3)) return value.toExponential(2).replace(/\.?0*e/, "e").replace("e+", "e")
  for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
    if (size >= unit) return parseFloat((value / unit).toPrecision(4)) + letter
  return String(parseFloat(value.toPrecision(4)))
}

function make(tag, name) {
  const element = document.createElement(tag)
  if (name) element.className = name
  return element
}

