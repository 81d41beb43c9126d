// Curves in Bokeh figures that are made once: each choice sends columns, which are cut into lines here. What is hidden,
// selected or pointed at never asks the server.

const FADED = 0.12
const [PARTIAL, NO_DATA, BEHIND] = [1, 2, 3] // styles of lines
const MOST_LINES = 8
const SETTLED = 700 // milliseconds without a change after which a zoom goes to the address
const NEAR = 42 // pixels around the pointer within which curves are described

export function render({model, el, view}) {
  const page = new Page(model, view)
  lay_out_once(view)
  el.classList.add("dde")
  model.on("payload", () => page.receive())
  model.on("zoomed", () => page.restore())
  for (const name of ["hidden", "selected", "baseline"]) model.on(name, () => page.mark())
  // Figures are rendered after this returns; patched before, they would lay out what is not there.
  const draw = () => setTimeout(() => page.receive())
  model.on("figures", () => { page.place(); draw() })
  page.place()
  draw()
  // A counter makes a second return to one address an event.
  let returns = 0
  const gone_to = () => {
    // The server answers with the address that the browser is at, which is no further step.
    for (const root of view.model.document.roots())
      if (root.type.endsWith("Location")) root.setv({search: location.search}, {silent: true})
    model.address = `${++returns}${location.search || "?"}`
  }
  window.addEventListener("popstate", gone_to)
  model.on("remove", () => window.removeEventListener("popstate", gone_to))
  return page.root
}

// Bokeh lays out the whole page for each change of each figure and of each widget, and paints all figures each time.
// Figures are laid out here alone, once for changes that come together, since no other size depends on theirs; and when
// their own size changes, which is observed.
function lay_out_once(view) {
  const names = ["update_layout", "update_bbox", "_compute_layout", "after_layout"]
  const inside = Object.fromEntries(names.map((name) => [name, view[name].bind(view)]))
  let waits = false, restyles = false
  const later = (also_styles) => {
    restyles ||= also_styles
    if (waits) return
    waits = true
    queueMicrotask(() => {
      waits = false
      if (restyles) inside.update_layout()
      restyles = false
      for (const figure of view.layoutable_views) {
        if (figure.layout == null) figure.update_layout()
        figure.measure_layout()
      }
      inside.update_bbox()
      inside._compute_layout()
      inside.after_layout()
    })
  }
  view.invalidate_layout = () => later(true)
  view.compute_layout = () => later(false)
  // What the layout of the page asks for.
  view.update_layout = () => {
    view.update_style()
    view._update_layout()
  }
  view.update_bbox = () => view._update_bbox()
  view.measure_layout = view._compute_layout = view.after_layout = () => {}
}

class Page {
  constructor(model, view) {
    this.model = model
    this.view = view
    this.panels = [] // what is drawn in each visible figure
    this.columns = new Map() // of each figure by its position, as they came last
    this.drawn = new Map() // what is drawn in each figure, visible or not
    this.looks = [] // by number
    this.zoomed = new Map(Object.entries(model.zoomed)) // ranges where a person has zoomed, by x or y and the axis
    this.listened = new WeakSet()
    this.root = make("div", "page")
    this.grid = make("div", "grid")
    this.caption = make("p", "caption")
    this.list = new RunList(this)
    this.tooltip = make("div", "tip")
    this.tooltip.setAttribute("role", "status")
    this.root.append(this.grid, this.list.root, this.tooltip)
    new ResizeObserver(() => this.wrap()).observe(this.grid)
  }

  figures() {
    return this.view.model.data.figures
  }

  place() {
    const elements = this.model.get_child("figures")
    this.slots = elements.map((element, k) => {
      const slot = this.slots?.[k] ?? make("div", "slot")
      if (element != null && element.parentNode !== slot) slot.replaceChildren(element, make("div", "cross"))
      return slot
    })
    this.grid.replaceChildren(...this.slots, this.caption)
  }

  // Panels without columns are those that their figures show already.
  receive() {
    const payload = this.model.payload
    if (payload?.panels == null) return
    for (const panel of payload.panels) if (panel.x_range != null) this.columns.set(panel.figure, panel)
    // A message that came before this page listened had them.
    if (payload.panels.some((panel) => !this.columns.has(panel.figure))) this.model.missing = payload.version
    else this.draw({...payload, panels: payload.panels.map((panel) => this.columns.get(panel.figure))})
  }

  draw(payload) {
    // New figures are built after this message; what it draws follows once they are in place and laid out.
    if (payload.panels.some((panel) => this.slots[panel.figure] == null)) return
    clearTimeout(this.waiting)
    if (payload.panels.some((panel) => Bokeh.index.find_one(this.figures()[panel.figure])?.layout == null)) {
      this.waiting = setTimeout(() => this.draw(payload), 15)
      return
    }
    // Both new figures and columns announce themselves.
    if (this.version === payload.version) return
    this.version = payload.version
    this.looks = []
    for (const look of payload.looks) this.looks[look.number] = look
    this.at = new Map(payload.looks.map((look) => [look.run_id, look.number]))
    this.look_key = JSON.stringify(this.looks)
    const used = new Set(payload.panels.map((panel) => panel.figure))
    const figures = this.figures()
    this.slots.forEach((slot, k) => { slot.style.display = used.has(k) ? "" : "none" })
    // Panels may use figures in any order; the page shows them in theirs.
    payload.panels.forEach((panel, k) => { this.slots[panel.figure].style.order = k })
    this.forget(payload.panels)
    this.panels = payload.panels.filter((panel) => figures[panel.figure] != null).map((panel) => {
      const drawn = this.drawn.get(panel.figure)
      return drawn?.columns === panel ? drawn : new DrawnPanel(this, figures[panel.figure], panel)
    })
    for (const panel of this.panels) this.drawn.set(panel.columns.figure, panel)
    for (const panel of this.panels) panel.frame()
    this.caption.textContent = payload.caption
    this.list.fill(payload)
    this.mark()
    this.wrap()
    this.listen()
    // Figures are painted once all of them show this drawing.
    for (const panel of this.panels) panel.figure.hold_render = false
    requestAnimationFrame(() => setTimeout(() => performance.mark(`dde drawn ${payload.version}`)))
  }

  // As many panels in a row as fit, but no row with more gaps than another number of columns would leave.
  wrap() {
    const count = this.panels.length
    const most = Math.max(Math.floor((this.grid.clientWidth + 14) / 354), 1)
    let best = Math.min(most, count)
    const gaps = (columns) => Math.ceil(count / columns) * columns - count
    for (let columns = best - 1; columns > 1 && count > most; columns--)
      if (gaps(columns) < gaps(best)) best = columns
    best = Math.max(best, 1)
    this.grid.style.gridTemplateColumns = `repeat(${best}, minmax(0, 1fr))`
    // Panels that are wide are higher, too, as far as the window has room for them.
    const width = (this.grid.clientWidth - 14 * (best - 1)) / best
    const room = (window.innerHeight - 150) / Math.min(Math.ceil(count / best), 2)
    const height = Math.round(Math.min(Math.max(0.66 * width, 300), Math.max(room, 320), 560) / 10) * 10
    if (width > 0)
      for (const {figure} of this.panels) if (figure.height !== height) figure.height = height
  }

  // Draw again what is hidden and what stands out, from the columns that are here.
  mark() {
    const hidden = new Set(this.model.hidden)
    const selected = new Set(this.pointed ? [this.pointed] : this.model.selected)
    const known = [...selected].some((id) => this.at?.has(id))
    this.hides = this.looks.map((look) => hidden.has(look.run_id))
    this.stands = this.looks.map((look) => known && selected.has(look.run_id))
    this.pinned = this.at?.get(this.model.baseline) ?? -1
    const key = JSON.stringify([this.look_key, this.hides, this.stands, this.pinned])
    for (const panel of this.panels) if (panel.filled !== key) {
      panel.fill(known)
      panel.filled = key
    }
    this.list.mark()
  }

  point(run_id) {
    if (this.pointed === run_id) return
    this.pointed = run_id
    clearTimeout(this.pointing)
    this.pointing = setTimeout(() => this.mark(), 40)
  }

  // Figures don't share ranges, because they are used for other axes later: zooming is copied to those of one axis.
  zoom(panel, which) {
    if (this.copies) return
    this.copies = true
    const range = panel.figure[which]
    const name = panel.columns[which[0] + "_name"]
    if (panel.is_zoomed(which)) this.zoomed.set(`${which[0]}.${name}`, [range.start, range.end])
    else this.zoomed.delete(`${which[0]}.${name}`)
    for (const other of this.panels)
      if (other !== panel && other.columns[which[0] + "_name"] === name && other.columns["log_" + which[0]] === panel.columns["log_" + which[0]])
        other.figure[which].setv({start: range.start, end: range.end})
    this.copies = false
    this.settle()
  }

  // Each range that the server knows is a step back in the browser, so it learns where zooming ends.
  settle() {
    clearTimeout(this.settling)
    this.settling = setTimeout(() => { this.model.zoomed = this.ranges() }, SETTLED)
  }

  ranges() {
    return Object.fromEntries([...this.zoomed].map(([name, [low, high]]) => [name, [rounded(low, high - low), rounded(high, high - low)]]))
  }

  // Zoom as the address of the page says.
  restore() {
    if (JSON.stringify(this.model.zoomed) === JSON.stringify(this.ranges())) return
    clearTimeout(this.settling)
    this.zoomed = new Map(Object.entries(this.model.zoomed))
    for (const panel of this.panels) panel.frame()
  }

  // A range of values suits one axis and one kind of values.
  forget(panels) {
    const kinds = (columns) => [columns.x_name, columns.log_y, columns.is_difference].join()
    const of = (all) => new Map([...all].reverse().map((columns) => [columns.y_name, kinds(columns)]))
    const before = of(this.panels.map((panel) => panel.columns))
    for (const [name, kind] of of(panels))
      if (before.has(name) && before.get(name) !== kind && this.zoomed.delete(`y.${name}`)) this.settle()
  }

  listen() {
    for (const panel of this.panels) {
      const figure = panel.figure
      if (this.listened.has(figure)) continue
      this.listened.add(figure)
      for (const which of ["x_range", "y_range"]) {
        const changed = () => {
          const now = this.panels.find((p) => p.figure === figure)
          if (now && !now.frames) this.zoom(now, which)
        }
        figure[which].properties.start.change.connect(changed)
        figure[which].properties.end.change.connect(changed)
      }
      const points = panel.renderer("points").data_source
      points.selected.properties.indices.change.connect(() => {
        if (!points.selected.indices.length) return
        const brushed = new Set(points.selected.indices.map((i) => points.data.run_id[i]))
        points.selected.indices = []
        this.model.selected = [...brushed]
      })
      const slot = this.slots[panel.columns.figure]
      slot.addEventListener("pointermove", (event) => this.hover(figure, event))
      slot.addEventListener("pointerleave", () => this.leave())
    }
  }

  hover(figure, event) {
    const panel = this.panels.find((p) => p.figure === figure)
    const place = panel?.locate(event.clientX, event.clientY)
    if (place == null) return this.leave()
    for (const other of this.panels)
      other.cross(other.columns.x_name === panel.columns.x_name ? place.x : null)
    const near = panel.near(place)
    if (!near.length) {
      this.tooltip.style.display = "none"
      return
    }
    const head = make("div", "head")
    head.textContent = `${panel.columns.x_label}: ${short(place.x)}`
    const room = near.length > MOST_LINES - 1 ? MOST_LINES - 2 : MOST_LINES - 1
    const lines = near.slice(0, room).map((curve, k) => {
      const look = this.looks[curve.run]
      const line = make("div", k === 0 ? "line first" : "line")
      const swatch = sample(look)
      const name = make("span", "name")
      name.textContent = this.list.name(look)
      const value = make("b", "")
      value.textContent = number(curve.y)
      const note = make("span", "note")
      note.textContent = curve.note
      line.append(swatch, value, name, note)
      return line
    })
    if (near.length > room) {
      const more = make("div", "more")
      more.textContent = `and ${near.length - room} more here`
      lines.push(more)
    }
    this.tooltip.replaceChildren(head, ...lines)
    this.tooltip.style.display = "block"
    const box = this.tooltip.getBoundingClientRect()
    const left = event.clientX + 18 + box.width > window.innerWidth ? event.clientX - 18 - box.width : event.clientX + 18
    const top = Math.min(Math.max(event.clientY - box.height / 2, 4), window.innerHeight - box.height - 4)
    // The page may be inside an element that moves fixed ones, such as a transformed one of a notebook.
    const base = this.root.getBoundingClientRect()
    this.tooltip.style.left = `${Math.max(left, 4) - base.x}px`
    this.tooltip.style.top = `${top - base.y}px`
  }

  leave() {
    this.tooltip.style.display = "none"
    for (const panel of this.panels) panel.cross(null)
  }
}

class DrawnPanel {
  constructor(page, figure, columns) {
    this.page = page
    this.figure = figure
    this.columns = columns
  }

  renderer(name) {
    return this.figure.renderers.find((r) => r.name === name)
  }

  is_zoomed(which) {
    const range = this.figure[which]
    const [low, high] = this.columns[which]
    const near = (a, b) => Math.abs(a - b) <= 1e-9 * Math.max(Math.abs(high - low), Math.abs(a))
    return !(near(range.start, low) && near(range.end, high))
  }

  // Titles, labels and ranges. A range that a person has zoomed to stays while its axis does.
  frame() {
    const {figure, columns} = this
    this.frames = true
    figure.title.text = columns.title || "\u00a0"
    figure.below[0].axis_label = columns.x_label
    figure.left[0].axis_label = columns.y_label
    for (const which of ["x_range", "y_range"]) {
      const [low, high] = columns[which]
      const [start, end] = this.zoomed(which) ?? [low, high]
      figure[which].setv({start, end, reset_start: low, reset_end: high})
    }
    this.frames = false
  }

  zoomed(which) {
    const range = this.page.zoomed.get(`${which[0]}.${this.columns[which[0] + "_name"]}`)
    return range && (range[0] > 0 || !this.columns["log_" + which[0]]) ? range : null
  }

  fill(any_stands) {
    const {columns, page} = this
    const {looks, hides, stands, pinned} = page
    const starts = plain(columns.line_start), runs = plain(columns.line_run), styles = plain(columns.line_style)
    const xs = cut(columns.line_x, starts), ys = cut(columns.line_y, starts)
    const count = runs.length
    const crowd = Math.max(count, 1)
    const usual = crowd > 200 ? 0.45 : crowd > 60 ? 0.65 : 0.9
    const wide = crowd > 200 ? 1 : 1.5
    const order = [...Array(count).keys()].filter((k) => !hides[runs[k]])
    const rank = (k) => (runs[k] === pinned ? 2 : stands[runs[k]] ? 1 : 0)
    if (any_stands || pinned >= 0) order.sort((a, b) => rank(a) - rank(b))
    const dash = (k) => (styles[k] === PARTIAL ? [6, 2, 2, 2] : styles[k] === NO_DATA ? [6, 4] : looks[runs[k]].dash.map((part) => Math.max(1.4 * part, 2)))
    this.renderer("lines").data_source.data = {
      xs: order.map((k) => xs[k]),
      ys: order.map((k) => ys[k]),
      color: order.map((k) => (runs[k] === pinned ? "#000000" : looks[runs[k]].colour)),
      width: order.map((k) => (rank(k) === 2 ? 2.5 : rank(k) ? 3 : wide)),
      alpha: order.map((k) => (styles[k] === BEHIND ? 0.5 * FADED + 0.12 : rank(k) ? 1 : any_stands ? FADED : usual)),
      dash: order.map(dash),
    }
    const point_runs = plain(columns.point_run), kinds = plain(columns.point_kind), small = plain(columns.point_small)
    const shown = [...point_runs.keys()].filter((i) => !hides[point_runs[i]])
    const px = plain(columns.point_x), py = plain(columns.point_y)
    this.renderer("points").data_source.data = {
      x: Float64Array.from(shown, (i) => px[i]),
      y: Float64Array.from(shown, (i) => py[i]),
      color: shown.map((i) => (point_runs[i] === pinned ? "#000000" : looks[point_runs[i]].colour)),
      marker: shown.map((i) => columns.kinds[kinds[i]]),
      size: shown.map((i) => (small[i] ? 3 : crowd > 20 ? 5 : 7) + (stands[point_runs[i]] ? 2 : 0)),
      alpha: shown.map((i) => (stands[point_runs[i]] || point_runs[i] === pinned ? 1 : any_stands ? FADED : usual)),
      edge: shown.map((i) => (small[i] ? null : "white")),
      run_id: shown.map((i) => looks[point_runs[i]].run_id),
    }
    const band_starts = plain(columns.band_start), band_runs = plain(columns.band_run)
    const bx = cut(columns.band_x, band_starts), low = cut(columns.band_low, band_starts), high = cut(columns.band_high, band_starts)
    const bands = [...band_runs.keys()].filter((k) => !hides[band_runs[k]])
    this.renderer("bands").data_source.data = {
      // A bound at a single point is a bar of no width.
      xs: bands.map((k) => [...bx[k], ...[...bx[k]].reverse()]),
      ys: bands.map((k) => [...low[k], ...[...high[k]].reverse()]),
      color: bands.map((k) => looks[band_runs[k]].colour),
      alpha: bands.map((k) => (any_stands && !stands[band_runs[k]] ? 0.04 : 0.2)),
    }
    this.renderer("branches").data_source.data = {x: plain(columns.branches).length > 24 ? [] : [...plain(columns.branches)]}
    this.renderer("zero").data_source.data = {y: columns.is_difference ? [0] : []}
    const w = columns.window
    this.renderer("window").data_source.data = w == null
      ? {left: [], bottom: [], right: [], top: []}
      : {left: [w[0]], bottom: [w[1]], right: [w[2]], top: [w[3]]}
    this.drawn = {order, xs, ys, runs, styles, shown, px, py, point_runs}
  }

  figure_view() {
    return Bokeh.index.find_one(this.figure)
  }

  locate(left, top) {
    const view = this.figure_view()
    if (view?.frame == null) return null
    const box = view.canvas_view.el.getBoundingClientRect()
    const [sx, sy] = [left - box.x, top - box.y]
    const frame = view.frame.bbox
    if (sx < frame.left || sx > frame.right || sy < frame.top || sy > frame.bottom) return null
    return {sx, sy, x: view.frame.x_scale.invert(sx), view, box}
  }

  // The curves near the pointer, nearest first: at most one value of each run.
  near({sx, sy, x, view}) {
    const {order, xs, ys, runs, styles, shown, px, py, point_runs} = this.drawn
    const found = new Map()
    const scale = view.frame.y_scale, across = view.frame.x_scale
    for (const k of order) {
      if (styles[k] === BEHIND) continue
      const value = at(xs[k], ys[k], x)
      if (value == null) continue
      const distance = Math.abs(scale.compute(value) - sy)
      const known = found.get(runs[k])
      if (distance <= NEAR && (known == null || distance < known.distance))
        found.set(runs[k], {run: runs[k], y: value, distance, note: styles[k] === NO_DATA ? "no data" : ""})
    }
    for (const i of shown) {
      const [dx, dy] = [across.compute(px[i]) - sx, scale.compute(py[i]) - sy]
      if (Math.abs(dx) > 6 || Math.abs(dy) > NEAR) continue
      const known = found.get(point_runs[i])
      const distance = Math.hypot(dx / 4, dy)
      if (known?.is_point && known.distance <= distance) continue
      const text = this.columns.point_text[i]
      found.set(point_runs[i], {run: point_runs[i], y: py[i], distance, is_point: true, note: text ? `observed, ${text}` : "observed"})
    }
    return [...found.values()].sort((a, b) => a.distance - b.distance)
  }

  cross(x) {
    const cross = this.page.slots[this.columns.figure].querySelector(".cross")
    const view = x == null ? null : this.figure_view()
    const frame = view?.frame?.bbox
    const sx = frame == null ? NaN : view.frame.x_scale.compute(x)
    if (!(sx >= frame?.left && sx <= frame?.right)) {
      cross.style.display = "none"
      return
    }
    Object.assign(cross.style, {display: "block", left: `${sx}px`, top: `${frame.top}px`, height: `${frame.height}px`})
  }
}

// The runs beside the panels: what each colour means, and what is shown.
class RunList {
  constructor(page) {
    this.page = page
    this.rows = new Map()
    this.root = make("div", "runs")
    this.search = make("input", "search")
    Object.assign(this.search, {type: "search", placeholder: "search runs, or /pattern/"})
    this.search.setAttribute("aria-label", "search runs, or a regular expression between slashes")
    this.search.addEventListener("input", () => this.filter())
    this.search.addEventListener("keydown", (event) => { if (event.key === "Enter") this.only() })
    this.count = make("span", "count")
    const bar = make("div", "bar")
    bar.append(
      this.count,
      button("only these", "hide all other runs (Enter)", () => this.only()),
      button("all", "show all runs", () => { page.model.hidden = [] }),
      button("none", "hide all runs", () => { page.model.hidden = page.looks.map((look) => look.run_id) }),
    )
    this.clear = button("clear selection", "no run stands out", () => { page.model.selected = [] })
    this.clear.classList.add("clear")
    this.items = make("div", "items")
    this.root.append(this.search, bar, this.clear, this.items)
  }

  // The name of a run among those shown: its lineage only where there are several.
  name(look) {
    if (look.is_base && look.lineage) return look.lineage
    return this.several && look.lineage && look.run !== look.lineage ? `${look.run}, ${look.lineage}` : look.run
  }

  fill(payload) {
    const looks = payload.looks
    this.several = new Set(looks.map((look) => look.lineage)).size > 1
    const groups = new Map()
    looks.forEach((look) => {
      if (!groups.has(look.group)) groups.set(look.group, [])
      groups.get(look.group).push(look)
    })
    this.rows = new Map()
    const parts = []
    if (payload.hue_label) {
      const title = make("div", "hue")
      title.textContent = payload.hue_label
      parts.push(title)
    }
    for (const [group, members] of groups) {
      const head = make("div", "group")
      const eye = button("", "", () => this.toggle(members.map((look) => look.run_id)))
      eye.className = "eye"
      const swatch = sample(members[0])
      const label = make("span", "name")
      label.textContent = group || (groups.size > 1 ? members.every((m) => m.is_base) ? "bases" : "other" : "runs")
      const many = make("span", "many")
      many.textContent = members.length
      head.append(eye, swatch, label, many)
      const body = make("div", "members")
      const shared = shared_start(members.map((look) => this.name(look)))
      for (const look of members) {
        const row = make("div", "run")
        const show = button("", "", (event) => (event.altKey ? this.solo(look.run_id) : this.toggle([look.run_id])))
        show.className = "eye"
        const mark = sample(look)
        const full = this.name(look)
        const name = button(shared ? `\u2026${full.slice(shared)}` : full, `${full} (${look.run_id}): open its page`, () => { this.page.model.opened = look.run_id })
        name.className = "name"
        name.setAttribute("aria-label", full)
        const pick = button("\u2605", "select: the curve stands out", () => this.select(look.run_id))
        pick.className = "pick"
        const pin = button("\u25ce", "pin as baseline", () => {
          this.page.model.baseline = this.page.model.baseline === look.run_id ? "" : look.run_id
        })
        pin.className = "pin"
        row.append(show, mark, name, pick, pin)
        row.addEventListener("pointerenter", () => this.page.point(look.run_id))
        row.addEventListener("pointerleave", () => this.page.point(null))
        body.append(row)
        this.rows.set(look.run_id, {row, show, pick, pin, full, text: `${look.run} ${look.lineage} ${look.run_id} ${look.group}`})
      }
      parts.push(head, body)
      head.members = members
      head.eye = eye
    }
    this.heads = parts.filter((part) => part.members)
    this.items.replaceChildren(...parts)
    this.filter()
  }

  filter() {
    let test, problem = ""
    try {
      test = searcher(this.search.value)
    } catch (error) {
      problem = String(error.message)
    }
    this.search.classList.toggle("wrong", problem !== "")
    this.search.title = problem
    this.search.setCustomValidity(problem)
    if (problem) return
    this.matching = []
    for (const [run_id, {row, text}] of this.rows) {
      const matches = test(text)
      row.style.display = matches ? "" : "none"
      if (matches) this.matching.push(run_id)
    }
    for (const head of this.heads)
      head.style.display = head.members.some((look) => this.rows.get(look.run_id).row.style.display === "") ? "" : "none"
    const total = this.rows.size
    this.count.textContent = this.matching.length === total ? `${total} run${total === 1 ? "" : "s"}` : `${this.matching.length} of ${total} runs`
  }

  only() {
    if (!this.matching?.length) return
    const keep = new Set(this.matching)
    this.page.model.hidden = this.page.looks.map((look) => look.run_id).filter((id) => !keep.has(id))
  }

  solo(run_id) {
    this.page.model.hidden = this.page.looks.map((look) => look.run_id).filter((id) => id !== run_id)
  }

  toggle(run_ids) {
    const hidden = new Set(this.page.model.hidden)
    const all = run_ids.every((id) => hidden.has(id))
    for (const id of run_ids) all ? hidden.delete(id) : hidden.add(id)
    this.page.model.hidden = [...hidden]
  }

  select(run_id) {
    const selected = new Set(this.page.model.selected)
    selected.has(run_id) ? selected.delete(run_id) : selected.add(run_id)
    this.page.model.selected = [...selected]
  }

  mark() {
    const hidden = new Set(this.page.model.hidden), selected = new Set(this.page.model.selected)
    for (const [run_id, {row, show, pick, pin, full}] of this.rows) {
      const is_hidden = hidden.has(run_id)
      row.classList.toggle("hidden", is_hidden)
      row.classList.toggle("selected", selected.has(run_id))
      row.classList.toggle("pinned", this.page.model.baseline === run_id)
      press(show, !is_hidden, `show ${full}`)
      press(pick, selected.has(run_id), `select ${full}`)
      press(pin, this.page.model.baseline === run_id, `pin ${full} as baseline`)
    }
    for (const head of this.heads ?? []) {
      const all = head.members.every((look) => hidden.has(look.run_id))
      head.classList.toggle("hidden", all)
      press(head.eye, !all, "show this group")
    }
    this.clear.style.display = selected.size ? "" : "none"
    this.clear.textContent = `clear selection (${selected.size})`
  }
}

// The length of what all names of a group begin with, up to the end of a word; 0 where it is short.
function shared_start(names) {
  let length = names.length > 1 ? names[0].length : 0
  for (const name of names)
    while (length && !name.startsWith(names[0].slice(0, length))) length--
  while (length && !/[\s_,/]/.test(names[0][length - 1])) length--
  return length < 8 || names.some((name) => name.length === length) ? 0 : length
}

// A piece of the line of a run.
function sample(look) {
  const swatch = make("i", "swatch")
  const stops = []
  let at = 0
  look.dash.forEach((part, k) => {
    stops.push(`${k % 2 ? "transparent" : look.colour} ${at}px ${at + Math.max(1.4 * part, 2)}px`)
    at += Math.max(1.4 * part, 2)
  })
  swatch.style.background = stops.length ? `repeating-linear-gradient(90deg, ${stops.join(", ")})` : look.colour
  return swatch
}

function press(button, on, label) {
  button.setAttribute("aria-pressed", String(on))
  button.setAttribute("aria-label", label)
}

function button(text, title, act) {
  const element = make("button", "")
  Object.assign(element, {type: "button", textContent: text, title})
  element.addEventListener("click", act)
  return element
}

// A typed array over the same memory: Bokeh's own arrays would copy themselves whole into each part.
function plain(array) {
  if (array?.buffer == null) return array ?? []
  const kind = {float64: Float64Array, int32: Int32Array}[array.dtype]
  return kind == null ? array : new kind(array.buffer, array.byteOffset, array.length)
}

function cut(column, starts) {
  const whole = plain(column)
  const parts = []
  for (let k = 0; k + 1 < starts.length; k++) parts.push(whole.slice(starts[k], starts[k + 1]))
  return parts
}

// The value of a line at x, linear between its vertices; null outside of them.
function at(xs, ys, x) {
  const last = xs.length - 1
  if (last < 0 || x < xs[0] || x > xs[last]) return null
  let [low, high] = [0, last]
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if (xs[middle] <= x) low = middle
    else high = middle
  }
  if (xs[high] === xs[low]) return ys[high]
  return ys[low] + ((ys[high] - ys[low]) * (x - xs[low])) / (xs[high] - xs[low])
}

// A number with as many digits as a range of this width shows.
function rounded(value, width) {
  const digits = Math.ceil(Math.log10(Math.max(Math.abs(value / width), 1))) + 5
  return Number.isFinite(digits) ? Number(value.toPrecision(Math.min(digits, 17))) : value
}

function number(value) {
  const size = Math.abs(value)
  return size > 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(3) : value.toFixed(4)
}
