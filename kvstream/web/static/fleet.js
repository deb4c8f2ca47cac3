"use strict";

/* The fleet: a map of all caches, tiles of them together beside the worst one, and a table of each. */
const kvFleet = (() => {
  const { unknown, count, compact, ratio, percent, gib, age, element, say, svg, icon } = kvFormat;
  const { model, keyOf, ageOf, isSilent } = kvStream;
  const { WORDS, title, isNormal, choice } = kvIncidents;
  const get = (id) => document.getElementById(id);
  const ORDER = ["critical", "warning", "info", "silent", "steady"];
  const FIRST = 20, BEYOND = 8;
  let sort = "severity", reversed = false, filter = "", only = "all", limit = FIRST, changed = () => {};
  let listed = [];

  /* What a cache is in one word: the severity of what fires, silent, or steady; the same as long as its state is. */
  const severity = (cache) => (cache.kind ??= judged(cache));

  function judged(cache) {
    if (cache.level && !isNormal(cache.rule)) return cache.level;
    if (isSilent(cache)) return "silent";
    return cache.concern ? "info" : "steady";
  }

  const occupancy = (cache) => (cache.capacity && cache.blocks <= cache.capacity ? cache.blocks / cache.capacity : null);

  const bad = (cache) => ["critical", "warning"].includes(severity(cache));

  function what(cache) {
    if (cache.rule && !isNormal(cache.rule)) return title(cache.rule);
    if (isSilent(cache)) return "No events";
    return cache.concern ? kvFormat.sentence(cache.concern) : "–";
  }

  // Columns: name, title, class, [what it sorts by, whether the largest stands first]

  const COLUMNS = {
    severity: ["Severity", "w-severity c-severity", (cache) => RANK[severity(cache)], false],
    name: ["Cache", "c-name", (cache) => keyOf(cache), false],
    spark: ["Hit ratio over time", "w-spark c-spark"],
    hit: ["Hit ratio", "w-num num", (cache) => cache.hit_ratio ?? 2, false],
    occupancy: ["Occupancy", "w-meter num", (cache) => occupancy(cache) ?? -1, true],
    memory: ["Memory", "w-memory num m w", (cache) => cache.blocks, true],
    premature: ["Premature evictions", "w-num num", (cache) => cache.premature_ratio ?? -1, true],
    evictions: ["Evictions per second", "w-num num m w", (cache) => cache.eviction_rate ?? 0, true],
    what: ["Incident", "c-what", what, false],
    age: ["Last event", "w-age num", (cache) => cache.age_seconds ?? -1, true],
  };
  const LABELS = { hit: "Hit ratio", occupancy: "Occupancy", premature: "Premature", age: "Last event" };

  const RANK = Object.fromEntries(ORDER.map((kind, i) => [kind, i]));
  const byWorst = (a, b) => RANK[severity(a)] - RANK[severity(b)] || (a.hit_ratio ?? 2) - (b.hit_ratio ?? 2) || (keyOf(a) < keyOf(b) ? -1 : 1);

  function sorted(caches) {
    const [, , by, largestFirst] = COLUMNS[sort];
    const turn = (largestFirst ? -1 : 1) * (reversed ? -1 : 1);
    if (sort === "severity") return [...caches].sort((a, b) => (reversed ? -1 : 1) * byWorst(a, b));
    const values = new Map(caches.map((cache) => [cache, by(cache)]));
    return [...caches].sort((a, b) => {
      const [left, right] = [values.get(a), values.get(b)];
      return left === right ? byWorst(a, b) : turn * (left < right ? -1 : 1);
    });
  }

  // Filter: words that a name, tier or incident holds; comparisons such as hit<0.5, premature>30%, age>10s

  const FIELDS = { hit: (c) => c.hit_ratio, premature: (c) => c.premature_ratio, occupancy, evictions: (c) => c.eviction_rate, age: ageOf, blocks: (c) => c.blocks };

  function matcher(text) {
    const tests = text.trim().toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
      const compared = /^(\w+)(<=|>=|<|>|=)([\d.]+)(%|s|m|min|h)?$/.exec(word);
      if (compared && FIELDS[compared[1]]) {
        const bound = Number(compared[3]) * ({ "%": 0.01, m: 60, min: 60, h: 3600 }[compared[4]] ?? 1);
        const compare = { "<": (v) => v < bound, ">": (v) => v > bound, "<=": (v) => v <= bound, ">=": (v) => v >= bound, "=": (v) => v === bound }[compared[2]];
        return (cache) => { const value = FIELDS[compared[1]](cache); return !unknown(value) && compare(value); };
      }
      if (word.startsWith("severity:")) return (cache) => severity(cache) === word.slice(9);
      return (cache) => keyOf(cache).toLowerCase().includes(word) || what(cache).toLowerCase().includes(word) || cache.rule?.includes(word);
    });
    return (cache) => tests.every((test) => test(cache));
  }

  let from = null; // what the list was made of

  /* The caches that match, in order; made anew only if something has changed. */
  function chosen(caches) {
    const made = [caches, sort, reversed, filter, only];
    if (from?.every((each, i) => each === made[i])) return listed;
    from = made;
    return sorted(caches.filter(matcher(filter)).filter(only === "all" ? () => true : bad));
  }

  // Rows of the table: only those in view are there

  function header() {
    const row = element("tr", null, { role: "row" });
    for (const [name, [text, kind, by]] of Object.entries(COLUMNS)) {
      const cell = element("th", by ? null : text, { scope: "col", role: "columnheader", class: kind, "data-column": name });
      if (by) {
        const button = element("button", text, { type: "button" });
        button.onclick = () => {
          reversed = sort === name && !reversed;
          sort = name;
          changed();
        };
        cell.append(button);
      }
      row.append(cell);
    }
    return row;
  }

  const rows = new Map(); // key: row in the table
  const table = get("caches");
  const head = header();
  const body = element("tbody", null, { role: "rowgroup" });
  const spaces = [0, 1].map(() => element("tr", null, { class: "space", "aria-hidden": "true" }, element("td", null, { colspan: String(head.cells.length) })));
  table.setAttribute("role", "table");
  table.setAttribute("aria-labelledby", "caches-title");
  table.append(element("thead", null, { role: "rowgroup" }, head), body);
  body.append(...spaces);

  function meter() {
    const used = svg("rect", { class: "used", height: 8, rx: 2 });
    return svg("svg", { class: "meter", viewBox: "0 0 56 8", preserveAspectRatio: "xMinYMid", "aria-hidden": "true" }, svg("rect", { class: "room", width: 56, height: 8, rx: 2 }), used);
  }

  function setMeter(made, share) {
    const [room, used] = made.children;
    room.setAttribute("class", unknown(share) ? "unknown" : "room");
    used.setAttribute("width", unknown(share) ? 0 : Math.max(0, Math.min(1, share)) * 56);
  }

  function makeRow(cache) {
    const row = element("tr", null, { role: "row" });
    const cells = {};
    for (const [name, [, kind]] of Object.entries(COLUMNS)) {
      cells[name] = element("td", null, { role: "cell", class: kind.replace(/w-\w+ ?/g, ""), "data-label": LABELS[name] });
      row.append(cells[name]);
    }
    const link = element("a", null, { class: "name", href: kvApp.link(cache), "data-key": keyOf(cache) }, element("i"), element("span"), element("i"));
    const slash = cache.source.lastIndexOf("/") + 1;
    say(link.children[0], cache.source.slice(0, slash));
    say(link.children[1], cache.source.slice(slash));
    say(link.children[2], ` · ${cache.tier}`);
    cells.name.append(link);
    link.title = link.textContent;
    row.kvPath = svg("path", { class: "ln s-blue" });
    cells.spark.append(svg("svg", { class: "spark", viewBox: "0 0 96 22", "aria-hidden": "true" }, row.kvPath));
    row.kvMeter = meter();
    row.kvShare = element("span");
    cells.occupancy.append(row.kvMeter, row.kvShare);
    row.kvSeverity = element("span", null, { class: "sev" });
    cells.severity.append(row.kvSeverity);
    row.kvCells = cells;
    row.onclick = (event) => { if (!event.target.closest("a")) kvApp.open(cache); };
    return row;
  }

  const HOT = { hit_ratio_drop: "hit", no_hits: "hit", premature_evictions: "premature", engine_stalled: "age", lifetime_drop: "evictions" };

  function updateRow(row, cache, blockBytes) {
    row.kvCache = cache;
    const kind = severity(cache);
    const { kvCells: cells } = row;
    if (row.kvKind !== kind) {
      row.kvKind = kind;
      row.className = kind;
      row.kvSeverity.className = `sev t-${kind === "steady" ? "" : kind}`;
      row.kvSeverity.replaceChildren(icon(kind), WORDS[kind]);
    }
    say(cells.hit, ratio(cache.hit_ratio));
    const share = occupancy(cache);
    say(row.kvShare, cache.capacity && share === null ? "wrong" : percent(share));
    setMeter(row.kvMeter, share);
    say(cells.memory, blockBytes
      ? `${gib(cache.blocks * blockBytes)}${cache.capacity ? ` of ${gib(cache.capacity * blockBytes)}` : ""} GiB`
      : `${compact(cache.blocks)}${cache.capacity ? ` of ${compact(cache.capacity)}` : " blocks"}`);
    say(cells.premature, percent(cache.premature_ratio));
    say(cells.evictions, compact(cache.eviction_rate ?? 0));
    say(cells.what, what(cache));
    say(cells.age, age(ageOf(cache)));
    for (const name of ["hit", "premature", "age", "evictions"]) {
      const isEvidence = (HOT[cache.rule] === name && bad(cache)) || (name === "age" && isSilent(cache));
      cells[name].classList.toggle("hot", isEvidence && kind === "critical");
      cells[name].classList.toggle("warm", isEvidence && kind !== "critical");
    }
    const path = kvCharts.sparkPath(model.sparks.get(keyOf(cache)) ?? [], 96, 22);
    if (row.kvDrawn !== path) row.kvPath.setAttribute("d", row.kvDrawn = path);
  }

  function drawRows() {
    const blockBytes = model.state?.summary.block_bytes;
    const few = listed.slice(0, limit);
    const height = matchMedia("(max-width: 820px)").matches ? 100 : 33;
    const top = body.getBoundingClientRect().top;
    const first = few.length > 60 ? Math.max(0, Math.floor(-top / height) - BEYOND) : 0;
    const end = few.length > 60 ? Math.min(few.length, Math.ceil((innerHeight - top) / height) + BEYOND) : few.length;
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const visible = few.slice(first, Math.max(first, end));
    const keys = new Set(visible.map(keyOf));
    for (const [key, row] of rows) if (!keys.has(key)) { row.remove(); rows.delete(key); }
    let before = spaces[0];
    visible.forEach((cache, i) => {
      const key = keyOf(cache);
      const row = rows.get(key) ?? makeRow(cache);
      rows.set(key, row);
      if (before.nextSibling !== row) before.after(row);
      if (row.kvIndex !== first + i) row.setAttribute("aria-rowindex", String((row.kvIndex = first + i) + 2));
      if (row.kvCache !== cache) updateRow(row, cache, blockBytes);
      else say(row.kvCells.age, age(ageOf(cache)));
      before = row;
    });
    spaces[0].hidden = first === 0;
    spaces[0].style.height = `${first * height}px`;
    spaces[1].hidden = few.length <= end;
    spaces[1].style.height = `${Math.max(0, few.length - end) * height}px`;
    if (body.lastChild !== spaces[1]) body.append(spaces[1]);
    table.setAttribute("aria-rowcount", String(listed.length + 1));
    if (focused && document.activeElement?.dataset.key !== focused) rows.get(focused)?.querySelector("a").focus({ preventScroll: true });
    for (const cell of head.cells) {
      const name = cell.dataset.column;
      if (COLUMNS[name][2]) cell.setAttribute("aria-sort", name === sort ? (Boolean(COLUMNS[name][3]) !== reversed ? "descending" : "ascending") : "none");
    }
  }

  function drawTable() {
    const { caches } = model.state;
    listed = chosen(caches);
    say(get("cache-count"), count(caches.length));
    const withIncidents = caches.filter(bad).length;
    const [all, some] = get("shown").children;
    say(all, `All ${count(caches.length)}`);
    say(some, `With incidents ${count(withIncidents)}`);
    const shown = Math.min(limit, listed.length);
    say(get("caches-shown"), listed.length < caches.length
      ? `${count(listed.length)} of ${count(caches.length)} match${shown < listed.length ? `, showing ${count(shown)}` : ""}`
      : `Showing ${count(shown)} of ${count(caches.length)}${sort === "severity" && !reversed ? ", worst first" : ""}`);
    const rest = listed.slice(limit);
    get("more-caches").hidden = !rest.length;
    say(get("more-caches"), `Show the ${count(rest.length)} others${rest.length && rest.every((cache) => severity(cache) === "steady") ? ", all steady" : ""}`);
    say(get("caches-note"), "Values: last 60 s · sparkline: scale 0 to 1");
    drawRows();
  }

  // The map: a square a cache, the worst first

  let mapped = [], mappedOf = null, pointed = 0, mapKey = "";

  function drawMap() {
    const canvas = get("map");
    if (mappedOf !== model.state.caches) {
      mappedOf = model.state.caches;
      mapped = [...mappedOf].sort(byWorst);
    }
    const caches = mapped;
    const many = caches.length > 240;
    get("verdict").classList.toggle("wide", many);
    const cell = many ? 8 : 14, size = many ? 6 : 10;
    const width = many ? Math.max(200, get("verdict").clientWidth - 48) : Math.min(15, caches.length) * cell;
    const across = Math.max(1, Math.floor(width / cell));
    const kinds = caches.map(severity);
    const counted = ORDER.map((kind) => [kind, kinds.filter((each) => each === kind).length]).filter(([, n]) => n);
    const focus = document.activeElement === canvas ? pointed : -1;
    const key = JSON.stringify([kinds.join(), across, focus, kvCharts.colour("text"), devicePixelRatio]);
    if (mapKey !== key) {
      mapKey = key;
      const height = Math.ceil(caches.length / across) * cell;
      canvas.width = across * cell * devicePixelRatio;
      canvas.height = height * devicePixelRatio;
      canvas.style.width = `${across * cell}px`;
      canvas.style.height = `${height}px`;
      canvas.dataset.across = across;
      canvas.dataset.cell = cell;
      const brush = canvas.getContext("2d");
      brush.scale(devicePixelRatio, devicePixelRatio);
      kinds.forEach((kind, i) => square(brush, kind, (i % across) * cell + 1, Math.floor(i / across) * cell + 1, size, i === focus));
      canvas.setAttribute("aria-label", `${count(caches.length)} caches: ${counted.map(([name, n]) => `${n} ${name}`).join(", ")}. Arrows move, Enter opens.`);
      get("counts").replaceChildren(...counted.map(([name, n]) =>
        element("li", null, { class: `t-${name}` }, icon(name), element("b", count(n)), name)));
    }
  }

  function square(brush, kind, x, y, size, isFocused) {
    const inset = kind === "steady" ? 1 : 0;
    if (kind === "silent") {
      brush.strokeStyle = kvCharts.colour("line-strong");
      brush.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
    } else {
      brush.fillStyle = kvCharts.colour(`${kind}-fill`);
      brush.fillRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
    }
    brush.strokeStyle = "#fff";
    brush.fillStyle = "#fff";
    brush.lineWidth = 1.4;
    if (size > 8 && kind === "critical") { brush.fillRect(x + 4.2, y + 2, 1.6, 4); brush.fillRect(x + 4.2, y + 7, 1.6, 1.5); }
    if (size > 8 && kind === "warning") { brush.beginPath(); brush.moveTo(x + 2, y + 8); brush.lineTo(x + 8, y + 2); brush.stroke(); }
    if (size > 8 && kind === "info") brush.fillRect(x + 4, y + 4, 2, 2);
    if (isFocused) { brush.strokeStyle = kvCharts.colour("text"); brush.strokeRect(x - 0.5, y - 0.5, size + 1, size + 1); }
    brush.lineWidth = 1;
  }

  const canvas = get("map");
  const under = (event) => {
    const { across, cell } = canvas.dataset;
    const [x, y] = [Math.floor(event.offsetX / cell), Math.floor(event.offsetY / cell)];
    return x < across ? mapped[y * across + x] : undefined;
  };
  canvas.onmousemove = (event) => {
    const cache = under(event);
    canvas.title = cache ? `${kvFormat.shown(cache.source)} · ${kvFormat.shown(cache.tier)}: ${severity(cache)}` : "";
  };
  canvas.onclick = (event) => { const cache = under(event); if (cache) kvApp.open(cache); };
  canvas.onkeydown = (event) => {
    const across = Number(canvas.dataset.across);
    const moved = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[event.key];
    if (event.key === "Enter" && mapped[pointed]) kvApp.open(mapped[pointed]);
    else if (moved) pointed = Math.min(mapped.length - 1, Math.max(0, pointed + moved));
    else return;
    event.preventDefault();
    if (mapped[pointed]) canvas.title = `${kvFormat.shown(mapped[pointed].source)}: ${severity(mapped[pointed])}`;
    drawMap();
  };
  canvas.onfocus = canvas.onblur = () => model.state && drawMap();

  // Tiles: never the total without the worst

  const TILES = ["ratio", "again", "rate", "memory"];
  const figures = new Map();

  function drawTiles(view, isOld) {
    const { summary, caches } = model.state;
    const recent = lastMinute(model.history);
    if (!figures.size) for (const name of TILES) figures.set(name, get("fleet-tiles").appendChild(element("figure")));
    const known = caches.filter((cache) => !unknown(cache.hit_ratio));
    const worst = known.reduce((a, b) => (!a || b.hit_ratio < a.hit_ratio ? b : a), null);
    const most = caches.reduce((a, b) => ((b.premature_ratio ?? -1) > (a?.premature_ratio ?? -1) ? b : a), null);
    const tokens = summary.block_tokens, bytes = summary.block_bytes;
    const draw = (name, more) => kvCharts.time(figures.get(name), name, view.history, view, { small: true, ...more });
    const ofCaches = (name, share, colour, dash) => ({ name, colour, dash, as: "mean", thin: true, of: (h) => kvStream.ratioOfCaches(share, h.ts) });
    draw("ratio", {
      lines: [ofCaches("p95 of caches", 0.95, "band"), ...kvCharts.CHARTS.ratio.lines, ofCaches("p5 of caches", 0.05, "band"), ofCaches("worst", 0, "blue", [5, 3])],
      band: [1, 3],
    });
    const scaled = (blocks) => (unknown(blocks) ? null : blocks * (tokens ?? 1));
    draw("again", {
      title: tokens ? "Tokens computed again" : "Blocks computed again",
      lines: [{ name: "per second", colour: "purple", as: "rate", of: (h) => h.premature_rate.map(scaled) }],
    });
    draw("rate");
    const capacities = caches.every((cache) => cache.capacity) ? caches.reduce((sum, cache) => sum + cache.capacity, 0) : null;
    const unit = bytes ? bytes / 2 ** 30 : 1;
    draw("memory", {
      most: capacities ? capacities * unit : 0, format: bytes ? (value) => compact(Math.round(value)) : compact,
      lines: [{ name: bytes ? "GiB" : "blocks", colour: "blue", as: "last", fill: true, of: (h) => h.blocks.map((blocks) => blocks * unit) }],
    });
    const rate = (value) => (isOld ? "–" : compact(value));
    big("ratio", [[isOld ? "–" : ratio(recent.hit_ratio), "of blocks"]], worst && worst.hit_ratio !== recent.hit_ratio ? [...key(["blue dash", "worst"]), link(worst, ratio(worst.hit_ratio)), ", 5–95% shaded"] : [unknown(summary.hit_rate_estimate) ? "hits are not reported" : ""]);
    big("again", [[rate(scaled(recent.premature_rate)), "per second"]], most?.premature_ratio ? ["worst ", link(most, `${percent(most.premature_ratio)} of evictions premature`)] : [unknown(recent.premature_rate) ? "contents are not known" : "no premature evictions"]);
    big("rate", [[rate(recent.access_rate), "accesses"], [rate(recent.eviction_rate), "evictions"]], [["teal", "accesses"], ["blue", "allocations"], ["orange dash", "evictions"]].flatMap(key));
    const used = caches.reduce((sum, cache) => sum + cache.blocks, 0);
    big("memory", [[bytes ? gib(used * bytes) : compact(used), bytes
      ? (capacities ? `of ${gib(capacities * bytes)} GiB` : "GiB") : (capacities ? `of ${compact(capacities)} blocks` : "blocks")]],
    [capacities ? `${percent(used / capacities)} of ${caches.length === 1 ? "one cache" : `${caches.length} caches`}` : "capacity is not known of every cache"]);
  }

  /* Totals of the last minute, of the same windows that the charts are drawn from. */
  function lastMinute(history) {
    const { ts } = history;
    const sums = { access_rate: null, eviction_rate: 0, premature_rate: null, hits: 0, lookups: 0 };
    const end = (ts.at(-1) ?? 0) + history.window_seconds;
    let first = end;
    for (let i = ts.length - 1; i >= 0 && ts[i] >= end - 60; i -= 1) {
      const lookups = history.access_rate[i] + history.allocation_rate[i];
      first = ts[i];
      if (!unknown(history.access_rate[i])) sums.access_rate += history.access_rate[i];
      sums.eviction_rate += history.eviction_rate[i];
      if (!unknown(history.premature_rate[i])) sums.premature_rate += history.premature_rate[i];
      if (!unknown(history.hit_ratio[i])) { sums.hits += history.hit_ratio[i] * lookups; sums.lookups += lookups; }
    }
    const windows = Math.max(1, Math.round((end - first) / history.window_seconds));
    for (const name of ["access_rate", "eviction_rate", "premature_rate"]) if (!unknown(sums[name])) sums[name] /= windows;
    return { ...sums, hit_ratio: sums.lookups ? sums.hits / sums.lookups : null };
  }

  const key = ([colour, words]) => [
    svg("svg", { class: "key", viewBox: "0 0 18 8", width: 18, height: 8, "aria-hidden": "true" }, svg("path", { d: "M0 4h18", class: `ln s-${colour}` })), `${words} `,
  ];

  const link = (cache, text) => element("a", text, { href: kvApp.link(cache) });

  function big(name, values, note) {
    const figure = figures.get(name);
    const [, line, words] = figure.children;
    const drawnKey = JSON.stringify([values, note.map((part) => part.textContent ?? part), note.map((part) => part.href)]);
    if (line.dataset.key === drawnKey) return;
    line.dataset.key = drawnKey;
    line.replaceChildren(...values.flatMap(([value, unit]) => [element("span", value), element("span", unit, { class: "unit" })]));
    words.replaceChildren(...note);
  }

  function draw(view, isOld) {
    drawMap();
    drawTiles(view, isOld);
    drawTable();
  }

  function choose(next) {
    if (next.sort && COLUMNS[next.sort]?.[2]) sort = next.sort;
    reversed = Boolean(next.reversed);
    filter = next.filter ?? "";
    get("filter").value = filter;
  }

  get("filter").oninput = (event) => { filter = event.target.value; limit = FIRST; changed(); };
  get("filter").onkeydown = (event) => {
    if (event.key === "Escape") { filter = event.target.value = ""; event.target.blur(); changed(); }
    if (event.key === "Enter" && listed[0]) kvApp.open(listed[0]);
  };
  get("more-caches").onclick = () => { limit = Infinity; changed(); };
  choice(get("shown"), [["all", "All"], ["bad", "With incidents"]], only, (value) => { only = value; limit = FIRST; changed(); });
  let scrolled = 0;
  addEventListener("scroll", () => {
    if (model.state && !get("fleet").hidden && limit > 60) scrolled ||= requestAnimationFrame(() => { scrolled = 0; drawRows(); });
  }, { passive: true });

  let ordered = [], orderedFrom = [];

  /* All caches in the chosen order, for who goes from one to the next. */
  function inOrder() {
    const caches = model.state?.caches ?? [];
    const from = [caches, sort, reversed];
    if (from.some((each, i) => each !== orderedFrom[i])) {
      orderedFrom = from;
      ordered = sorted(caches);
    }
    return ordered;
  }

  /* Moves the focus by rows. */
  function move(by) {
    const links = [...body.querySelectorAll("a.name")];
    const at = links.indexOf(document.activeElement);
    links[Math.min(links.length - 1, Math.max(0, at + by))]?.focus();
  }

  return {
    draw, choose, move, severity, byWorst, bad, meter, setMeter, inOrder,
    chosen: () => ({ sort: sort === "severity" ? "" : sort, reversed, filter }), onChange: (act) => { changed = act; },
  };
})();
