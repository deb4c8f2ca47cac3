"use strict";

/* One cache: its figures beside those of before, its charts, and who uses it. */
const kvCache = (() => {
  const { unknown, count, compact, ratio, percent, gib, seconds, element, say, fill } = kvFormat;
  const stream = kvStream;
  const { model } = stream;
  const HOUR = 3600;
  const get = (id) => document.getElementById(id);
  const CHARTS = ["ratio", "rate", "lifetime", "outcome"];
  const figures = new Map();
  const stats = new Map();

  const STATS = { ratio: "Hit ratio", occupancy: "Occupancy", premature: "Premature evictions", evictions: "Evictions", lifetime: "Lifetime, median", working: "Working set, last minute" };
  const EVIDENCE = { hit_ratio_drop: "ratio", no_hits: "ratio", premature_evictions: "premature", lifetime_drop: "lifetime", capacity_exceeded: "occupancy" };

  /* The mean of a column in the hour before the last minute, or in as much of it as there is, and how long that was. */
  function before(history, column, weights) {
    const { ts, window_seconds: length } = history;
    const end = Math.min(stream.now(), (ts.at(-1) ?? 0) + length) - 60;
    let sum = 0, weight = 0, first = null;
    for (let i = 0; i < ts.length && ts[i] + length <= end; i += 1) {
      if (unknown(column[i]) || ts[i] < end - HOUR) continue;
      const each = weights ? weights(i) : 1;
      sum += column[i] * each;
      weight += each;
      first ??= ts[i];
    }
    return weight && end - first >= 60 ? { value: sum / weight, words: end - first > HOUR - 2 * length ? "in the hour before" : `in the ${seconds(Math.round((end - first) / 60) * 60)} before` } : null;
  }

  const compared = (was, format) => (was ? `${format(was.value)} ${was.words}` : "");

  function stat(name) {
    if (!stats.has(name)) {
      const parts = { box: element("div", null, { class: "stat" }), big: element("div", null, { class: "big" }, element("span"), element("small")), note: element("p") };
      parts.box.append(element("h2", STATS[name]), parts.big);
      if (name === "occupancy") { parts.meter = kvFleet.meter(); parts.box.append(parts.meter); }
      parts.box.append(parts.note);
      get("stats").append(parts.box);
      stats.set(name, parts);
    }
    return stats.get(name);
  }

  function put(name, value, unit, note) {
    const parts = stat(name);
    say(parts.big.children[0], value);
    say(parts.big.children[1], unit);
    say(parts.note, note);
    return parts;
  }

  function drawStats(isOld, asOf) {
    const { summary, incidents } = model.state;
    const { recent } = summary;
    const history = stream.historySince(stream.now() - HOUR - 60);
    const bytes = summary.block_bytes;
    const size = (blocks) => (bytes ? `${gib(blocks * bytes)} GiB` : `${compact(blocks)} blocks`);
    const now = (value) => (isOld ? "–" : value);
    const old = isOld ? asOf : "";
    const byEvictions = (i) => history.eviction_rate[i];
    put("ratio", now(ratio(recent.hit_ratio)), unknown(recent.hit_ratio) ? (unknown(summary.hit_rate_estimate) ? "unknown" : "") : "of blocks",
      old || (unknown(summary.hit_rate_estimate) ? "this engine sends no hits" : compared(before(history, history.hit_ratio, (i) => history.access_rate[i] + history.allocation_rate[i]), ratio))
      + (summary.hits_reported === "some" ? "; only some requests report hits" : ""));
    const wrong = summary.capacity && summary.blocks_live > summary.capacity;
    const occupancy = wrong ? null : summary.occupancy;
    const parts = put("occupancy", summary.capacity ? (wrong ? "–" : percent(occupancy)) : compact(summary.blocks_live),
      summary.capacity ? (wrong ? "the given capacity is wrong" : bytes ? `${gib(summary.live_bytes)} of ${gib(summary.capacity_bytes)} GiB` : "") : "blocks, capacity unknown",
      wrong ? `${count(summary.blocks_live)} blocks live, ${count(summary.capacity)} given` : summary.capacity ? `${count(summary.blocks_live)} of ${count(summary.capacity)} blocks ${old}` : `highest seen ${count(summary.sizes.peak)}`);
    kvFleet.setMeter(parts.meter, occupancy);
    const evicts = recent.eviction_rate > 0;
    put("premature", now(evicts ? percent(recent.premature_ratio) : "–"), !evicts ? "no evictions" : unknown(recent.premature_ratio) ? "contents are not known" : "of evictions", old || compared(before(history, history.premature_ratio.map((v) => (unknown(v) ? v : Math.min(1, v))), byEvictions), percent));
    put("evictions", now(compact(recent.eviction_rate)), "per second", old || compared(before(history, history.eviction_rate), compact));
    put("lifetime", now(recent.lifetime.count ? seconds(recent.lifetime.p50) : "–"), "", old || [recent.lifetime.count ? `p95 ${seconds(recent.lifetime.p95)}` : "nothing was evicted", compared(before(history, history.lifetime_p50, byEvictions), seconds)].filter(Boolean).join(" · "));
    const working = summary.working_set.blocks[2];
    put("working", now(bytes ? gib(working * bytes) : compact(working)), bytes ? "GiB" : "blocks", old || (summary.capacity && !wrong ? `${ratio(working / summary.capacity)}× capacity` : `${count(working)} different blocks`));
    for (const name of Object.keys(STATS)) {
      const incident = incidents.find((each) => EVIDENCE[each.rule] === name && !each.is_silenced);
      const level = incident && (name === "occupancy" || incident.level !== "info") ? (incident.level === "critical" ? "critical" : "warning") : "";
      stats.get(name).box.className = `stat ${level}`;
    }
  }

  function drawCharts(view) {
    const charts = get("charts");
    if (!figures.size) for (const name of [...CHARTS, "misses", "curve", "map"]) figures.set(name, charts.appendChild(element("figure", null, { id: `${name}-chart` })));
    for (const name of CHARTS) kvCharts.time(figures.get(name), name, view.history, view, { first: name === "ratio" });
    const { summary } = model.state;
    kvCharts.curve(figures.get("curve"), summary.sizes, summary.block_bytes);
    drawMisses();
    figures.get("map").hidden = !model.blocks;
    if (model.blocks && figures.get("map").kvDrawn !== model.blocks) {
      kvCharts.blockMap(figures.get("map"), model.blocks.map);
      figures.get("map").kvDrawn = model.blocks;
    }
  }

  // Why lookups miss: shares of all misses, as a bar and a table

  const CAUSES = [
    ["never_stored", "never stored", "this prefix is new here", "grey"], ["evicted", "evicted", "it was here and was pushed out", "orange"],
    ["cleared", "cleared", "a clear or restart took it", "purple"], ["other_tier", "other tier", "a slower tier holds it", "sky"],
    ["unknown", "unknown", "new, or evicted too long ago to be remembered", "line-strong"],
  ];
  let missed = "";

  function drawMisses() {
    const { misses, recent, block_tokens: tokens } = model.state.summary;
    const figure = figures.get("misses");
    figure.hidden = !misses;
    const key = JSON.stringify([misses, recent.allocation_rate]);
    if (!misses || key === missed) return;
    missed = key;
    figure.className = "card chart";
    const sum = (share) => (share && typeof share === "object" ? Object.values(share).reduce((a, b) => a + b, 0) : share ?? 0);
    const rows = CAUSES.map(([name, words, why, colour]) => ({ words, why, colour, share: sum(misses[name]) })).filter((row) => row.share > 0);
    const bar = kvFormat.svg("svg", { class: "stack", viewBox: "0 0 1000 22", preserveAspectRatio: "none", role: "img", "aria-label": rows.map((row) => `${row.words} ${percent(row.share)}`).join(", ") });
    let left = 0;
    for (const { share, colour } of rows) {
      bar.append(kvFormat.svg("rect", { x: left * 1000, width: Math.max(0, share * 1000 - 2), height: 22, class: `f-${colour}` }));
      left += share;
    }
    const table = element("table", null, { class: "legend" });
    fill(table, [
      ["reason", false, (row) => `${row.words}: ${row.why}`], ["of misses", true, (row) => percent(row.share)],
      [tokens ? "tokens per second" : "blocks per second", true, (row) => compact(Math.round(row.share * recent.allocation_rate * (tokens ?? 1)))],
    ], rows);
    [...table.tBodies[0].rows].forEach((row, i) => row.cells[0].prepend(kvFormat.svg("svg", { class: "key", viewBox: "0 0 10 10", width: 10, height: 10, "aria-hidden": "true" }, kvFormat.svg("rect", { width: 10, height: 10, class: `f-${rows[i].colour}` }))));
    const returned = misses.evicted_ago_p50 ? `Half of what had been evicted was looked up again within ${seconds(misses.evicted_ago_p50)}.` : "";
    figure.replaceChildren(element("header", null, {}, element("h2", "Why lookups miss"),
      element("span", `share of misses ${misses.memory_seconds ? `in the last ${seconds(misses.memory_seconds)}` : "since the start"}, estimated from ${count(misses.followed)}`, { class: "dim" })),
    bar, table, element("p", returned, { class: "say" }));
  }

  let labelled = "";

  function drawLabels() {
    const { summary } = model.state;
    const rows = Object.entries(summary.labels).flatMap(([name, values]) => values.slice(0, 10).map((usage) => ({ name, ...usage })));
    get("labels-card").hidden = !rows.length;
    const key = JSON.stringify(rows);
    if (!rows.length || key === labelled) return;
    labelled = key;
    const live = Math.max(1, summary.blocks_live);
    say(get("labels-title"), model.cache ? "Who uses this cache" : "Who uses the caches");
    fill(get("labels"), [
      ["label", false, (o) => `${o.name}: ${o.value ?? "none"}`], ["space", true, (o) => percent(Math.min(1, o.blocks_live / live))],
      ["hit ratio", true, (o) => ratio(o.hit_ratio)], ["of all hits", "num w", (o) => percent(o.hit_share)],
      ["allocations", "num w", (o) => compact(o.allocations)], ["premature", "num w", (o) => compact(o.premature)],
      ["never reused", true, (o) => percent(o.zero_access_rate)],
    ], rows);
    [...get("labels").tBodies[0].rows].forEach((row, i) => {
      const made = kvFleet.meter();
      kvFleet.setMeter(made, rows[i].blocks_live / live);
      row.cells[1].prepend(made);
    });
  }

  /* Numbers of blocks mean something only beside labels. */
  function drawBlocks() {
    const rows = model.cache ? (model.blocks?.hottest ?? []).filter((block) => block.labels && block.accesses).slice(0, 10) : [];
    get("blocks-card").hidden = !rows.length;
    if (!rows.length) return;
    const labels = (block) => Object.entries(block.labels).filter(([name, value]) => value && typeof value === "string" && name !== "type").map(([name, value]) => `${name}: ${value}`).join(", ");
    fill(get("blocks"), [
      ["labels", false, labels], ["block", false, (b) => b.block_id], ["accesses", true, (b) => count(b.accesses)],
      ["held", true, (b) => seconds(b.held_seconds)], ["idle", true, (b) => seconds(b.idle_seconds)],
    ], rows);
  }

  function draw(view, isOld, asOf) {
    drawStats(isOld, asOf);
    drawCharts(view);
    drawBlocks();
  }

  return { draw, drawLabels };
})();
