// The table of runs: a Tabulator that is made once. Each choice replaces its rows; sorting, filters and marks are
// decided in the browser.

export function render({model}) {
  const root = make("div", "runs")
  if (window.Tabulator == null) {
    root.textContent = "The table needs Panel's extension: pn.extension('tabulator') before the page is made."
    return root
  }
  new RunTable(model, root)
  return root
}

const OPEN = '<path d="M6 3H3v10h10v-3M9 3h4v4M13 3 7 9"/>'
const EYE = '<path d="M1.5 8Q8 1 14.5 8 8 15 1.5 8Z"/><circle cx="8" cy="8" r="2"/>'
const CLOSED = '<path d="M1.5 7Q8 14 14.5 7M4 11l-1.5 2M8 12v2.5M12 11l1.5 2"/>'
const PIN = '<path d="M5 2h6l-1 5 2 2H4l2-2ZM8 9v5"/>'
const HIDDEN = 1, PINNED = 2
const SETTLED = 700 // milliseconds without a change after which choices go to the address

class RunTable {
  constructor(model, root) {
    this.model = model
    this.filters = new Map() // texts of header filters by column, for columns that come back
    this.wanted = model.view // search, filters and order that are still to be set
    this.rows = []
    this.quiet = true
    this.bar(root)
    this.box = make("div", "")
    root.append(this.box)
    this.place(root)
    model.on("payload", () => this.draw())
    for (const name of ["hidden", "baseline"]) model.on(name, () => this.mark())
    model.on("selected", () => this.select())
    model.on("view", () => {
      if (JSON.stringify(model.view) === JSON.stringify(this.view())) return
      this.wanted = model.view
      this.draw()
    })
  }

  // Tabulator measures its element, which has to be in the page.
  place(root) {
    if (!root.isConnected || !root.clientWidth) return setTimeout(() => this.place(root), 30)
    const table = new window.Tabulator(this.box, {
      index: "id",
      data: [],
      columns: [],
      layout: "fitDataFill",
      maxHeight: "56vh",
      placeholder: "no run matches",
      selectableRows: "highlight",
      headerSortClickElement: "header",
      columnHeaderSortMulti: true,
      movableColumns: true,
      rowFormatter: (row) => {
        const {marks} = row.getData()
        row.getElement().classList.toggle("hidden-run", (marks & HIDDEN) > 0)
        row.getElement().classList.toggle("pinned-run", (marks & PINNED) > 0)
      },
    })
    table.on("tableBuilt", () => { this.table = table; this.draw() })
    table.on("rowSelectionChanged", (data) => {
      if (this.quiet) return
      this.model.selected = [...new Set(data.map((row) => row.run_id))]
    })
    table.on("rowDblClick", (event, row) => {
      if (!event.target.closest("button, input")) this.open(row.getData().run_id)
    })
    table.on("dataFiltered", () => this.report())
    table.on("dataSorted", () => this.report())
    table.on("columnMoved", () => this.moved())
    this.box.addEventListener("copy", (event) => this.copied(event))
    new ResizeObserver(() => { if (this.table && this.box.clientWidth) this.table.redraw() }).observe(root)
  }

  // Search, columns and count above the table

  bar(root) {
    const bar = make("div", "bar")
    this.search = make("input", "search")
    Object.assign(this.search, {type: "search", placeholder: "search runs, or /pattern/"})
    this.search.setAttribute("aria-label", "search all columns shown, or a regular expression between slashes")
    this.search.addEventListener("input", () => {
      clearTimeout(this.searching)
      this.searching = setTimeout(() => this.find(), 120)
    })
    this.count = make("span", "count")
    this.count.setAttribute("role", "status")
    this.chooser = make("details", "chooser")
    this.chooser.append(Object.assign(make("summary", ""), {textContent: "Columns"}), this.choices())
    document.addEventListener("pointerdown", (event) => {
      if (!event.composedPath().includes(this.chooser)) this.chooser.open = false
    })
    this.chooser.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return
      this.chooser.open = false
      this.chooser.firstChild.focus()
    })
    const clear = button("Clear filters", () => this.clear())
    const copy = button("Copy rows", () => this.copy(copy))
    copy.title = "Copy the rows that match, or the selected ones of them, with exact values"
    bar.append(this.search, this.chooser, clear, copy, this.count)
    root.append(bar)
  }

  choices() {
    const panel = make("div", "choices")
    const search = Object.assign(make("input", "search"), {type: "search", placeholder: "search columns"})
    search.setAttribute("aria-label", "search columns")
    this.boxes = make("div", "boxes")
    search.addEventListener("input", () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean)
      for (const label of this.boxes.children)
        label.style.display = words.every((word) => label.dataset.text.includes(word)) ? "" : "none"
    })
    panel.append(search, this.boxes)
    return panel
  }

  fillChoices() {
    const columns = this.model.payload.choosable
    const text = JSON.stringify(columns)
    if (text === this.chosen_from) return
    this.chosen_from = text
    const focused = this.boxes.getRootNode().activeElement?.dataset?.name
    this.boxes.replaceChildren(...columns.map((column) => {
      const label = make("label", "")
      const box = Object.assign(make("input", ""), {type: "checkbox", checked: column.shown})
      box.dataset.name = column.name
      box.addEventListener("change", () => {
        this.model.chosen = {...this.model.chosen, [column.name]: box.checked}
      })
      label.dataset.text = `${column.title} ${column.name} ${column.hint}`.toLowerCase()
      label.title = column.hint
      label.append(box, Object.assign(make("span", ""), {textContent: column.title}))
      return label
    }))
    for (const box of this.boxes.querySelectorAll("input")) if (box.dataset.name === focused) box.focus()
    this.boxes.previousSibling.dispatchEvent(new Event("input"))
  }

  // Rows and columns

  draw() {
    const payload = this.model.payload
    if (this.table == null || payload.columns == null) return
    this.quiet = true
    this.fillChoices()
    this.rows = payload.run_ids.map((run_id, id) => {
      const row = {id, run_id, marks: this.marksOf(run_id)}
      for (const column of payload.columns) {
        const value = payload.data[column.field][id]
        row[column.field] = typeof value === "number" && Number.isNaN(value) ? null : value
      }
      return row
    })
    const columns = JSON.stringify(payload.columns)
    if (columns !== this.columns) {
      this.columns = columns
      const sorters = this.table.getSorters().map(({field, dir}) => ({column: field, dir}))
      this.table.setColumns([...this.fixed(), ...payload.columns.map((column) => this.column(column))])
      this.fillFilters()
      const kept = sorters.filter(({column}) => payload.columns.some(({field}) => field === column))
      if (kept.length) this.table.setSort(kept)
    }
    this.restore()
    this.table.replaceData(this.rows).then(() => {
      if (payload.version !== this.model.payload.version) return
      this.version = payload.version
      this.select()
      this.report()
      performance.mark(`dde table drawn ${payload.version}`)
    })
  }

  // What the address of the page holds; only what has settled, since each change of it is a step back.

  view() {
    const names = new Map(this.model.payload.columns?.map(({field, name}) => [field, name]))
    const sorters = this.table?.getSorters().filter(({field}) => names.has(field)) ?? []
    return {
      search: this.search.value.trim(),
      filters: Object.fromEntries([...this.filters].filter(([, text]) => text)),
      sort: sorters.map(({field, dir}) => [names.get(field), dir]),
      order: this.order,
    }
  }

  settle() {
    clearTimeout(this.settling)
    this.settling = setTimeout(() => {
      if (this.wanted != null) return
      const view = this.view()
      if (JSON.stringify(view) !== JSON.stringify(this.model.view)) this.model.view = view
    }, SETTLED)
  }

  restore() {
    const view = this.wanted
    if (view == null) return
    this.wanted = null
    this.order = view.order
    this.filters = new Map(Object.entries(view.filters))
    this.fillFilters()
    const fields = new Map(this.model.payload.columns.map(({field, name}) => [name, field]))
    const sort = view.sort.filter(([name]) => fields.has(name)).map(([name, dir]) => ({column: fields.get(name), dir}))
    if (sort.length) this.table.setSort(sort)
    else this.table.clearSort()
    this.search.value = view.search
    this.find()
  }

  fillFilters() {
    for (const {field, name, kind} of this.model.payload.columns) {
      const text = this.filters.get(name) ?? ""
      if (text || this.table.getHeaderFilterValue(field))
        this.table.setHeaderFilterValue(field, problem(text, kind === "number") ? "" : text)
    }
  }

  moved() {
    const {columns} = this.model.payload
    const place = new Map(this.table.getColumns().map((column, k) => [column.getField(), k]))
    const sorted = [...columns].sort((a, b) => place.get(a.field) - place.get(b.field))
    this.order = sorted.map(({name}) => name)
    // The server sends the columns in this order, which the table has already.
    this.columns = JSON.stringify(sorted)
    this.settle()
  }

  fixed() {
    return [
      {
        formatter: "rowSelection", titleFormatter: "rowSelection", titleFormatterParams: {rowRange: "active"},
        headerSort: false, frozen: true, width: 34, hozAlign: "center", resizable: false,
      },
      {
        field: "marks", title: "", headerSort: false, frozen: true, width: 76, resizable: false,
        formatter: (cell) => this.buttons(cell.getData()),
      },
    ]
  }

  buttons({run_id, marks}) {
    const box = make("div", "marks")
    const hidden = (marks & HIDDEN) > 0, pinned = (marks & PINNED) > 0
    box.append(
      icon(hidden ? CLOSED : EYE, `show the curve of ${run_id}`, !hidden, () => {
        const all = new Set(this.model.hidden)
        all.has(run_id) ? all.delete(run_id) : all.add(run_id)
        this.model.hidden = [...all]
      }),
      icon(PIN, `pin ${run_id} as baseline`, pinned, () => { this.model.baseline = pinned ? "" : run_id }),
      icon(OPEN, `open the page of ${run_id}`, null, () => this.open(run_id)),
    )
    return box
  }

  column({field, name, title, hint, kind, width}) {
    const number = kind === "number"
    return {
      field,
      title: escaped(title),
      // A button, so that the order can be changed from the keyboard; its click is that of the header.
      titleFormatter: () => Object.assign(make("button", "title"), {type: "button", textContent: title}),
      headerTooltip: (event, column) => Object.assign(make("span", ""), {textContent: hint}),
      width,
      hozAlign: number ? "right" : "left",
      headerHozAlign: number ? "right" : "left",
      formatter: (cell) => {
        const value = cell.getValue()
        const text = Object.assign(make("span", ""), {textContent: short(value)})
        if (value != null) text.title = String(value)
        return text
      },
      sorter: number ? "number" : byName,
      sorterParams: {alignEmptyValues: "bottom"},
      headerFilter: (cell, rendered, success) => this.filter(name, number, success),
      headerFilterFunc: (text, value) => condition(text, number)(value),
      headerFilterPlaceholder: number ? ">0, 2..4" : "text, /pattern/",
      headerFilterLiveFilter: false,
    }
  }

  filter(name, number, success) {
    const input = Object.assign(make("input", "filter"), {type: "search", value: this.filters.get(name) ?? ""})
    input.setAttribute("aria-label", number ? "filter: >, <, a..b, none or any" : "filter: text, =text or /pattern/")
    const check = () => {
      input.title = problem(input.value, number)
      input.classList.toggle("wrong", input.title !== "")
    }
    const apply = () => {
      this.filters.set(name, input.value)
      check()
      // A condition that is half written filters nothing.
      success(input.title ? "" : input.value)
      this.settle()
    }
    check()
    input.addEventListener("input", () => {
      clearTimeout(input.waiting)
      input.waiting = setTimeout(apply, 150)
    })
    input.addEventListener("click", (event) => event.stopPropagation())
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter") apply()
      event.stopPropagation()
    })
    return input
  }

  find() {
    this.settle()
    const text = this.search.value.trim()
    let test = () => true
    this.search.classList.remove("wrong")
    this.search.title = ""
    try {
      test = searcher(text)
    } catch (error) {
      this.search.classList.add("wrong")
      this.search.title = String(error.message)
      return
    }
    const fields = this.model.payload.columns.map((column) => column.field)
    if (text === "") this.table.clearFilter()
    else this.table.setFilter((row) => test([row.run_id, ...fields.map((field) => short(row[field]))].join("\n")))
  }

  clear() {
    this.search.value = ""
    this.search.classList.remove("wrong")
    this.filters.clear()
    this.table.clearHeaderFilter()
    this.table.clearFilter()
  }

  // Tell the server which rows match, in order; not while rows are replaced, when Tabulator reports the former ones.
  report() {
    this.settle()
    clearTimeout(this.reporting)
    this.reporting = setTimeout(() => {
      if (this.version !== this.model.payload.version) return
      const matches = this.table.getData("active").map((row) => row.id)
      const total = this.rows.length
      this.count.textContent =
        matches.length === total ? `${total} run${total === 1 ? "" : "s"}` : `${matches.length} of ${total} runs`
      this.model.matches = {version: this.version, rows: matches}
    })
  }

  // Marks

  marksOf(run_id) {
    this.hidden ??= new Set(this.model.hidden)
    return (this.hidden.has(run_id) ? HIDDEN : 0) | (this.model.baseline === run_id ? PINNED : 0)
  }

  mark() {
    this.hidden = new Set(this.model.hidden)
    const changed = this.rows.map((row) => ({id: row.id, marks: this.marksOf(row.run_id)}))
      .filter(({id, marks}) => this.rows[id].marks !== marks)
    for (const {id, marks} of changed) this.rows[id] = {...this.rows[id], marks}
    if (this.table && changed.length) this.table.updateData(changed)
  }

  select() {
    if (this.table == null) return
    this.quiet = true
    const selected = new Set(this.model.selected)
    const ids = this.rows.filter((row) => selected.has(row.run_id)).map((row) => row.id)
    const now = new Set(this.table.getSelectedData().map((row) => row.id))
    const wanted = new Set(ids)
    const off = [...now].filter((id) => !wanted.has(id)), on = ids.filter((id) => !now.has(id))
    if (off.length) this.table.deselectRow(off)
    if (on.length) this.table.selectRow(on)
    this.quiet = false
  }

  open(run_id) {
    // A run may be opened again.
    if (this.model.opened === run_id) this.model.opened = ""
    this.model.opened = run_id
  }

  // Copying gives exact values, as the downloads do.

  text() {
    const columns = this.model.payload.columns
    const selected = new Set(this.table.getSelectedData().map((row) => row.id))
    const matching = this.table.getData("active")
    const both = matching.filter((row) => selected.has(row.id))
    const rows = both.length ? both : matching
    const lines = [columns.map(({name}) => safe(name)), ...rows.map((row) => columns.map(({field}) => safe(row[field])))]
    return lines.map((line) => line.join("\t")).join("\n")
  }

  copied(event) {
    if (String(window.getSelection() ?? "") !== "" || event.target.tagName === "INPUT") return
    event.clipboardData.setData("text/plain", this.text())
    event.preventDefault()
  }

  copy(button) {
    const done = () => { button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy rows" }, 1500) }
    const text = this.text()
    if (navigator.clipboard) return navigator.clipboard.writeText(text).then(done)
    const area = Object.assign(document.createElement("textarea"), {value: text})
    document.body.appendChild(area)
    area.select()
    document.execCommand("copy")
    area.remove()
    done()
  }
}

// Conditions of header filters

function condition(text, number) {
  text = text.trim()
  if (text === "") return () => true
  return number ? numeric(text) : textual(text)
}

// What is wrong with a condition; "" for nothing.
function problem(text, number) {
  try {
    condition(text, number)
    return ""
  } catch (error) {
    return String(error.message)
  }
}

function textual(text) {
  const test = text.startsWith("=") ? null : searcher(text)
  if (test == null) return (value) => String(value ?? "") === text.slice(1).trim()
  return (value) => test(String(value ?? ""))
}

// Conditions such as ">1e-5", ">=2 <=4", "1M..2B", "none" and "any"; all of them have to hold.
function numeric(text) {
  const tests = text.replace(/([<>=])\s+/g, "$1").split(/[\s,]+/).filter(Boolean).map((part) => {
    if (part === "none") return (value) => value == null
    if (part === "any") return (value) => value != null
    const range = /^(.+?)\.\.(.+)$/.exec(part)
    if (range) {
      const [low, high] = [parse(range[1]), parse(range[2])]
      return (value) => value != null && value >= low && value <= high
    }
    const [, sign, rest] = /^(>=|<=|>|<|=)?(.*)$/.exec(part)
    const bound = parse(rest)
    const compare = {
      ">": (value) => value > bound, ">=": (value) => value >= bound,
      "<": (value) => value < bound, "<=": (value) => value <= bound,
      // A number is given as it is shown, which is rounded.
    }[sign] ?? ((value) => value === bound || short(value) === short(bound))
    return (value) => value != null && compare(value)
  })
  return (value) => tests.every((test) => test(value))
}

function parse(text) {
  const parts = /^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?inf)([kmbt]?)$/i.exec(text)
  if (parts == null) throw new Error(`"${text}" is not a number; write >0.5, 1e-6..1e-4, none or any`)
  const number = /inf/i.test(parts[1]) ? (parts[1].startsWith("-") ? -Infinity : Infinity) : Number(parts[1])
  return number * ({k: 1e3, m: 1e6, b: 1e9, t: 1e12}[parts[2].toLowerCase()] ?? 1)
}

// Texts in order: model sizes by size, numbers in texts by value, nothing last.
function byName(a, b, rowA, rowB, column, dir) {
  if (!a || !b) return a === b ? 0 : (a ? -1 : 1) * (dir === "asc" ? 1 : -1)
  const sizes = [a, b].map((text) => {
    const parts = /^(\d+(?:\.\d+)?)([kmbt])$/i.exec(text)
    return parts && Number(parts[1]) * {k: 1e3, m: 1e6, b: 1e9, t: 1e12}[parts[2].toLowerCase()]
  })
  if (sizes[0] && sizes[1]) return sizes[0] - sizes[1]
  return a.localeCompare(b, "en", {numeric: true})
}

// A text that a spreadsheet would compute is copied as text.
function safe(value) {
  if (value == null) return ""
  if (typeof value === "number") return String(value)
  const text = String(value).replace(/[\t\r\n]+/g, " ")
  return /^[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text
}

function escaped(text) {
  return Object.assign(make("span", ""), {textContent: text}).innerHTML
}

function icon(path, label, pressed, act) {
  const element = make("button", "icon")
  element.type = "button"
  element.title = label
  element.setAttribute("aria-label", label)
  if (pressed != null) element.setAttribute("aria-pressed", String(pressed))
  element.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true">${path}</svg>`
  element.addEventListener("click", (event) => { event.stopPropagation(); act() })
  return element
}

function button(text, act) {
  const element = Object.assign(make("button", "action"), {type: "button", textContent: text})
  element.addEventListener("click", act)
  return element
}
