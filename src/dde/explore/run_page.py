"""The page of a run as a component that is drawn in the browser."""

from __future__ import annotations

from typing import ClassVar

import param
from panel.custom import JSComponent

__all__ = ["RunPage"]


# Bokeh does not send the definition of a component whose name starts with an underscore.
class RunPage(JSComponent):
    """The page of a run, drawn in the browser; all text is inserted as text, never as markup.

    Attributes
    ----------
    page : dict
        What is shown, see `_page_of`.
    chosen : str
        Id of the run whose button was pressed; set back to "" once it was opened.
    """

    page = param.Dict(default={})
    chosen = param.String(default="")

    _esm = """
const make = (tag, text = "", kind = "") => {
  const made = document.createElement(tag)
  if (text !== "") made.textContent = text
  if (kind) made.className = kind
  return made
}
const value_of = (text) => {
  let url = null
  try { url = new URL(text) } catch { return make("span", text) }
  if (url.protocol !== "https:" && url.protocol !== "http:") return make("span", text)
  const link = make("a", text)
  link.href = url.href
  link.target = "_blank"
  link.rel = "noopener noreferrer"
  return link
}
const long_value = (text) => {
  if (text.length < 400) return value_of(text)
  const box = make("div", text, "long")
  box.tabIndex = 0
  return box
}
const copy = async (text, button) => {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    // Without a secure origin there is no clipboard.
    const area = document.createElement("textarea")
    area.value = text
    document.body.appendChild(area)
    area.select()
    document.execCommand("copy")
    area.remove()
    button.focus()
  }
  const before = button.textContent
  button.textContent = "copied"
  setTimeout(() => { button.textContent = before }, 1200)
}
const copy_button = (text, name) => {
  const button = make("button", "copy", "copy")
  button.type = "button"
  button.dataset.key = "copy " + name
  button.setAttribute("aria-label", "Copy " + name)
  button.addEventListener("click", () => copy(text, button))
  return button
}
const section = (title, ...children) => {
  const made = make("section")
  made.append(make("h2", title), ...children)
  return made
}
const row = (cells, head = false) => {
  const made = make("tr")
  for (const cell of cells) {
    const td = make(head ? "th" : "td")
    td.append(...[cell].flat())
    made.append(td)
  }
  return made
}
const facts = (pairs) => {
  const table = make("table", "", "facts")
  for (const [name, text, kind] of pairs) {
    const cell = make("span", "", kind ?? "")
    text.split("\\n").forEach((line, k) => cell.append(...(k ? [make("br")] : []), value_of(line)))
    table.append(row([make("span", name, "name"), kind == "unknown" ? cell : [cell, copy_button(text, name)]]))
  }
  return table
}
const tree = (relatives, open) => {
  const list = make("ul", "", "tree")
  for (const run of relatives) {
    const item = make("li", "", run.role)
    item.style.paddingLeft = (run.depth * 18) + "px"
    const name = run.role == "self" || !run.known ? make("strong", run.label) : make("button", run.label)
    if (name.tagName == "BUTTON") {
      name.type = "button"
      name.dataset.key = "run " + run.id
      name.title = run.shown_id
      name.addEventListener("click", () => open(run.id))
    } else if (run.role == "self") name.setAttribute("aria-current", "page")
    const parts = [run.type, run.detail].filter((part) => part !== "").join(", ")
    item.append(name, make("span", parts, "detail"))
    list.append(item)
  }
  return list
}
const values = (rows) => {
  const table = make("table", "", "values")
  const head = make("thead")
  head.append(row(["metric", "last value", "at tokens", "support", "base at the branch", "difference", ""], true))
  const body = make("tbody")
  for (const cells of rows) body.append(row(cells))
  table.append(head, body)
  const scrolled = make("div", "", "scrolled")
  scrolled.append(table)
  return scrolled
}

export function render({model}) {
  const root = make("div", "", "run-page")
  let sought = ""
  const config = (rows, remark) => {
    const box = make("div")
    const search = make("input")
    search.type = "search"
    search.placeholder = "search keys and values"
    search.setAttribute("aria-label", "Search the config")
    search.dataset.key = "search"
    search.value = sought
    const count = make("span", "", "detail")
    const table = make("table", "", "config")
    const made = rows.map(([part, key, text]) => {
      const tr = row([make("span", part, "name"), make("code", key), [long_value(text), copy_button(text, key)]])
      table.append(tr)
      return [tr, (part + "." + key + " " + text).toLowerCase()]
    })
    const filter = () => {
      sought = search.value
      const words = sought.toLowerCase().split(/\\s+/).filter((word) => word)
      let n = 0
      for (const [tr, text] of made) {
        tr.hidden = !words.every((word) => text.includes(word))
        if (!tr.hidden) n += 1
      }
      count.textContent = n == made.length ? `${made.length} keys` : `${n} of ${made.length} keys`
    }
    search.addEventListener("input", filter)
    filter()
    if (rows.length) {
      const scrolled = make("div", "", "scrolled tall")
      scrolled.append(table)
      box.append(search, count, scrolled)
    }
    if (remark) box.append(make("p", remark, "unknown"))
    return box
  }
  let drawn = null
  const draw = () => {
    const page = model.page
    const active = root.getRootNode().activeElement
    const key = active && root.contains(active) ? active.dataset.key : null
    const is_other = drawn !== page.run_id
    if (is_other) sought = ""
    drawn = page.run_id
    const parts = []
    if (page.message) parts.push(make("p", page.message, "unknown"))
    if (page.title) {
      const title = make("h1", page.title)
      title.tabIndex = -1
      parts.push(title)
    }
    for (const problem of page.problems ?? []) {
      const alert = make("p", problem, "warning")
      alert.setAttribute("role", "alert")
      parts.push(alert)
    }
    const status = make("p", page.busy ?? "", "busy")
    status.setAttribute("role", "status")
    parts.push(status)
    const columns = make("div", "", "columns")
    if (page.facts) columns.append(section("Facts", facts(page.facts)))
    if (page.relatives) {
      const right = make("div")
      right.append(section("Place in the tree", tree(page.relatives, (id) => { model.chosen = id })))
      if (page.hyperparameters?.length)
        right.append(section("Hyperparameters and factors", facts(page.hyperparameters)))
      columns.append(right)
    }
    parts.push(columns)
    if (page.values) {
      const absent = "The run is not in the Dataset that is explored, so its values are unknown here."
      const shown = page.values.length ? values(page.values) : make("p", absent, "unknown")
      parts.push(section("Last own values of the shown metrics", shown))
    }
    if (page.command) {
      const command = make("div", "", "command")
      command.append(make("code", page.command), copy_button(page.command, "command line"))
      parts.push(section("Command line", command))
    }
    if (page.config) parts.push(section("Config", config(page.config, page.remark)))
    root.replaceChildren(...parts)
    if (key) {
      // A button that is gone, such as the one of the run that was opened, gives its focus to the title.
      const same = [...root.querySelectorAll("[data-key]")].find((element) => element.dataset.key === key)
      ;(same ?? root.querySelector("h1"))?.focus()
    }
  }
  draw()
  model.on("page", draw)
  return root
}
"""
    _stylesheets: ClassVar[list[str]] = [
        """
:host { font-family: system-ui, "Helvetica Neue", Arial, sans-serif; color: #3b4252; font-size: 13px; }
.run-page { max-width: 100%; }
h1 { font-size: 18px; font-weight: 600; margin: 6px 0 2px; overflow-wrap: anywhere; }
h1:focus { outline: none; }
h2 { font-size: 13px; font-weight: 600; margin: 14px 0 4px; border-bottom: 1px solid #e3e6ec; padding-bottom: 2px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); column-gap: 28px; }
.columns > * { min-width: 0; }
table { border-collapse: collapse; font-size: 12.5px; }
td, th { text-align: left; vertical-align: top; padding: 2px 14px 2px 0; }
.facts, .config { width: 100%; }
.facts td:first-child, .config td:first-child { white-space: nowrap; width: 1%; }
.facts td:last-child, .config td { overflow-wrap: anywhere; }
.config td:nth-child(2) { width: 34%; min-width: 110px; }
.config tr + tr td { border-top: 1px solid #eef1f6; }
.values :is(td, th):nth-child(n + 2):nth-child(-n + 6):not(:nth-child(4)) { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.values th { font-weight: 600; border-bottom: 1px solid #9aa1ae; }
.scrolled { overflow-x: auto; }
.tall { max-height: 460px; overflow-y: auto; margin-top: 4px; }
.long { max-height: 7em; overflow-y: auto; background: #f7f8fa; padding: 2px 6px; white-space: pre-wrap; }
.name, .detail, .unknown, .busy { color: #5b6474; }
.busy { min-height: 1.3em; margin: 0; }
.warning { color: #8a4b00; }
p.warning { background: #fff6e5; border-radius: 4px; padding: 6px 10px; }
ul.tree { list-style: none; margin: 0; padding: 0; max-height: 360px; overflow-y: auto; }
.tree li { padding: 2px 0; overflow-wrap: anywhere; }
.tree .self strong { background: #eef1f6; border-radius: 3px; padding: 1px 4px; }
.tree .detail { margin-left: 8px; font-size: 12px; }
.tree button { all: unset; cursor: pointer; color: #0060a0; text-decoration: underline; overflow-wrap: anywhere; }
button:focus-visible, .tree button:focus-visible, input:focus-visible { outline: 2px solid #0072B2;
  outline-offset: 1px; }
.copy { font-size: 11px; color: #5b6474; background: none; border: 1px solid #d5d9e0; border-radius: 3px;
  padding: 0 5px; margin-left: 8px; cursor: pointer; opacity: 0.25; }
tr:hover .copy, .copy:focus-visible, .command .copy { opacity: 1; }
input[type=search] { font: inherit; padding: 4px 8px; border: 1px solid #9aa1ae; border-radius: 4px;
  width: min(340px, 100%); box-sizing: border-box; margin-right: 10px; }
code { font-size: 12px; }
.command { background: #f7f8fa; border-radius: 6px; padding: 8px 10px; overflow-wrap: anywhere; }
"""
    ]
