"use strict";

/* The charts: each is drawn into a <figure>, with its figures in a legend, as a table and in words. */
const kvCharts = (() => {
  const { unknown, count, compact, ratio, percent, gib, seconds, clock, minute, date, zoneOffset, fill, element, say, svg } = kvFormat;
  const GUTTER = 50, HEIGHT = 190, SMALL_HEIGHT = 104;
  const drawn = new Map(); // figure: what it was drawn from
  let colours = new Map();

  const probes = new Map(); // of each colour an element that has it

  /* A colour of the theme, which a canvas cannot look up by itself. */
  function colour(name) {
    if (!colours.has(name)) {
      if (!probes.has(name)) {
        const probe = element("span", null, { hidden: "" });
        probe.style.color = `var(--${name})`;
        document.body.append(probe);
        probes.set(name, probe);
      }
      colours.set(name, getComputedStyle(probes.get(name)).color);
    }
    return colours.get(name);
  }

  const faded = (name, alpha) => colour(name).replace(/^rgba?\(([^)]+)\)$/, (_, rgb) => `rgba(${rgb.split(",").slice(0, 3)}, ${alpha})`);

  // Rows of a history, one to a few pixels

  /* Parts a history into columns of a chart; where nothing came for long there is a gap. */
  function columns(history, view, width) {
    const { ts, window_seconds: length } = history;
    const step = Math.max(1, Math.ceil((view.to - view.from) / (width / 2) / length)) * length;
    let first = ts.length;
    while (first > 0 && ts[first - 1] > view.from - step) first -= 1;
    const pauses = [];
    for (let i = Math.max(first, ts.length - 600) + 1; i < ts.length; i += 1) pauses.push(ts[i] - ts[i - 1]);
    pauses.sort((a, b) => a - b);
    const usual = pauses[Math.floor(pauses.length * 0.9)] ?? length;
    const longest = Math.max(2.5 * length, 3 * usual, 1.5 * step);
    const rows = [], gaps = [];
    for (let i = first; i < ts.length && ts[i] < view.to; i += 1) {
      const start = Math.floor(ts[i] / step) * step;
      const last = rows.at(-1);
      if (last && last.start === start) { last.end = i + 1; continue; }
      if (last && ts[i] - ts[i - 1] > longest) {
        gaps.push([ts[i - 1] + length, ts[i]]);
        rows.push({ start: (ts[i - 1] + ts[i]) / 2, gap: true });
      } else if (last)
        for (let empty = last.start + step; empty < start - step / 2; empty += step) rows.push({ start: empty, first: i, end: i });
      rows.push({ start, first: i, end: i + 1 });
    }
    const newest = ts.at(-1) + length;
    if (ts.length && view.now !== null && view.now - newest > longest + 2 && view.to > newest)
      gaps.push([Math.max(newest, view.from), Math.min(view.now, view.to)]);
    const xs = rows.map((row) => (row.gap ? row.start : Math.min(row.start + step / 2, Math.max(row.start, view.now ?? Infinity))));
    return { rows, xs, gaps, step, length, history, newest };
  }

  const MEANS = {
    /* Of a rate windows without events count as 0. */
    rate(values, row, { step, length, newest }) {
      let sum = 0, isKnown = row.first === row.end;
      for (let i = row.first; i < row.end; i += 1) {
        sum += values[i] ?? 0;
        isKnown ||= !unknown(values[i]);
      }
      if (!isKnown) return undefined;
      const elapsed = Math.min(step, Math.max(length, newest - row.start));
      return (sum * length) / elapsed;
    },
    /* A ratio counts by what it is a share of. */
    mean(values, row, _, weights) {
      let sum = 0, weight = 0;
      for (let i = row.first; i < row.end; i += 1)
        if (!unknown(values[i])) {
          const each = weights ? weights(i) : 1;
          sum += values[i] * each;
          weight += each;
        }
      return weight ? sum / weight : undefined;
    },
    last: (values, row) => (row.end > row.first ? values[row.end - 1] : undefined),
  };

  const lookups = (history) => (i) => history.access_rate[i] + history.allocation_rate[i];
  const evictions = (history) => (i) => history.eviction_rate[i];

  function series(made, line) {
    const values = line.of(made.history);
    const weights = line.by?.(made.history);
    const clipped = line.share ? (value) => (unknown(value) ? value : Math.min(1, value)) : (value) => value;
    return made.rows.map((row) => (row.gap ? null : clipped(MEANS[line.as](values, row, made, weights))));
  }

  /* 1 ms, 10 s, 1,000 s: a power of ten stays one. */
  const decade = (value) => (value >= 1 ? `${count(value)} s` : seconds(value));

  /* Whether any of the values that were loaded is known; those may be older than what is shown. */
  const anyKnown = (values) => values.some((value) => !unknown(value));

  // What a chart of a history shows

  const CHARTS = {
    ratio: {
      title: "Hit ratio", sub: "share of block lookups", format: ratio, range: [0, 1],
      lines: [{ name: "blocks", colour: "blue", as: "mean", of: (h) => h.hit_ratio, by: lookups }],
      none: ({ hit_ratio: found }) => (anyKnown(found) ? "Nothing was looked up in this time." : "Hits are not reported, so the hit ratio is unknown."),
    },
    rate: {
      title: "Blocks per second", sub: "from zero", format: compact,
      lines: [
        { name: "accesses", colour: "teal", as: "rate", of: (h) => h.access_rate },
        { name: "allocations", colour: "blue", as: "rate", of: (h) => h.allocation_rate },
        { name: "evictions", colour: "orange", as: "rate", of: (h) => h.eviction_rate, dash: [5, 3] },
      ],
    },
    lifetime: {
      title: "How long blocks live", sub: "allocation to eviction, p5 to p95 shaded, log scale", format: seconds, log: true, tick: decade,
      lines: [
        { name: "p95", colour: "blue", as: "mean", of: (h) => h.lifetime_p95, by: evictions, dash: [5, 3], thin: true },
        { name: "p50", colour: "blue", as: "mean", of: (h) => h.lifetime_p50, by: evictions },
        { name: "p5", colour: "band", as: "mean", of: (h) => h.lifetime_p05, by: evictions, thin: true, quiet: true },
      ],
      band: [1, 3],
      none: "No block was evicted in this time.",
    },
    outcome: {
      title: "Evictions by outcome", sub: "share of evictions; one can be both", format: percent, range: [0, 1],
      lines: [
        { name: "premature: needed again later", colour: "purple", as: "mean", of: (h) => h.premature_ratio, by: evictions, share: true },
        { name: "never reused", colour: "orange", as: "mean", of: (h) => h.never_reused_ratio, by: evictions, dash: [5, 3] },
      ],
      none: (h) => (h.eviction_rate.some(Boolean) && !anyKnown(h.premature_ratio) && !anyKnown(h.never_reused_ratio) ? "Hits and contents are not known, so the outcome is not." : "No block was evicted in this time."),
    },
    // In tiles alone, where the unit is known.
    again: { format: compact },
    memory: { title: "Memory in use" },
  };

  // Axes

  const STEPS = [0.1, 0.5, 1, 5, 15, 30, 60, 180, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 604800, 2592000];

  function timeTicks(from, to, width) {
    const each = STEPS.find((step) => (step / (to - from)) * width >= 80) ?? STEPS.at(-1);
    const offset = zoneOffset(to);
    const ticks = [];
    for (let at = Math.ceil((from + offset) / each) * each - offset; at <= to; at += each) ticks.push(at);
    return ticks;
  }

  const timeLabels = (ticks) => {
    const fine = ticks.length > 1 && ticks[1] - ticks[0] < 60;
    return ticks.map((tick, i) => (i && date(tick) !== date(ticks[i - 1]) ? date(tick).slice(5) : fine ? clock(tick) : minute(tick)));
  };

  /* A round maximum, which grows at once and shrinks only after half a minute. */
  function roundMaximum(kept, highest) {
    const power = 10 ** Math.floor(Math.log10(Math.max(highest, 1e-9)));
    const wanted = highest > 0 ? [1, 1.5, 2, 3, 4, 5, 8, 10].find((n) => n * power >= highest * 1.02) * power : 1;
    if (!kept.max || wanted >= kept.max) kept.since = performance.now();
    if (!kept.max || wanted > kept.max || performance.now() - kept.since > 30_000) kept.max = wanted;
    return kept.max;
  }

  function linearTicks(low, high, n) {
    const each = [1, 2, 2.5, 5, 10].map((m) => m * 10 ** Math.floor(Math.log10((high - low) / n))).find((size) => (high - low) / size <= n) ?? (high - low) / n;
    const ticks = [];
    for (let i = 0; low + i * each <= high * 1.0001; i += 1) ticks.push(low + i * each);
    return ticks;
  }

  function decades(low, high) {
    const ticks = [];
    for (let power = Math.round(Math.log10(low)); power <= Math.round(Math.log10(high)); power += 1) ticks.push(10 ** power);
    return ticks;
  }

  const axis = (extra) => ({
    stroke: colour("dim"), font: "11px system-ui, sans-serif", gap: 4,
    grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, ...extra,
  });

  // What is drawn beneath and above the lines

  function beneath(u, plan) {
    const { ctx, bbox } = u;
    const pixel = devicePixelRatio;
    const x = (at) => Math.min(bbox.left + bbox.width, Math.max(bbox.left, u.valToPos(at, "x", true)));
    ctx.save();
    for (const [from, to] of plan.gaps ?? []) {
      const [left, right] = [x(from), x(to)];
      if (right - left < 2 * pixel) continue;
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, bbox.top, right - left, bbox.height);
      ctx.clip();
      ctx.strokeStyle = colour("hatch");
      ctx.lineWidth = pixel;
      ctx.beginPath();
      for (let at = left - bbox.height; at < right; at += 7 * pixel) {
        ctx.moveTo(at, bbox.top + bbox.height);
        ctx.lineTo(at + bbox.height, bbox.top);
      }
      ctx.stroke();
      ctx.restore();
      if (right - left > 70 * pixel && !plan.small) {
        ctx.font = `${11 * pixel}px system-ui, sans-serif`;
        ctx.textAlign = "center";
        ctx.fillStyle = colour("text");
        ctx.fillText("no events", (left + right) / 2, bbox.top - 6 * pixel);
      }
    }
    for (const band of plan.bands ?? []) {
      const [left, right] = [x(band.from), x(band.to)];
      if (right <= left) continue;
      ctx.fillStyle = faded(`${band.level}-fill`, 0.1);
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
      ctx.fillStyle = colour(`${band.level}-fill`);
      ctx.fillRect(left, bbox.top - 3 * pixel, right - left, 3 * pixel);
      if (plan.first && right - left > 48 * pixel) {
        ctx.font = `${11 * pixel}px system-ui, sans-serif`;
        ctx.textAlign = "left";
        ctx.fillStyle = colour(band.level);
        ctx.fillText(band.level, left, bbox.top - 6 * pixel);
      }
    }
    for (const mark of plan.marks ?? []) {
      const at = Math.round(x(mark.timestamp));
      ctx.fillStyle = colour("blue");
      ctx.fillRect(at, bbox.top, pixel, bbox.height);
      if (!plan.first) continue;
      ctx.font = `${11 * pixel}px system-ui, sans-serif`;
      ctx.textAlign = "left";
      ctx.fillText(shortened(mark.text), at + 4 * pixel, bbox.top + 12 * pixel);
    }
    ctx.restore();
  }

  const shortened = (text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text);

  function above(u, plan) {
    if (plan.now === null || plan.now === undefined || plan.now > plan.to) return;
    const { ctx, bbox } = u;
    const pixel = devicePixelRatio;
    const at = Math.round(u.valToPos(plan.now, "x", true));
    ctx.save();
    ctx.strokeStyle = colour("text");
    ctx.lineWidth = pixel;
    ctx.setLineDash([3 * pixel, 3 * pixel]);
    ctx.beginPath();
    ctx.moveTo(at, bbox.top);
    ctx.lineTo(at, bbox.top + bbox.height);
    ctx.stroke();
    ctx.fillStyle = colour("text");
    ctx.font = `${11 * pixel}px system-ui, sans-serif`;
    ctx.textAlign = "right";
    ctx.fillText("now", Math.min(at + 12 * pixel, bbox.left + bbox.width + 8 * pixel), bbox.top + bbox.height + 15 * pixel);
    ctx.restore();
  }

  // The figure around a chart

  function parts(figure, title, sub, small) {
    let made = drawn.get(figure);
    if (made) return made;
    figure.classList.add("card", small ? "tile" : "chart");
    const plot = element("div", null, { class: "plot", role: "img", tabindex: "0" });
    const none = element("p", null, { class: "none" });
    none.hidden = true;
    made = { plot, none, kept: {} };
    if (small) {
      made.big = element("div", null, { class: "big" });
      made.note = element("p", null, { class: "note" });
      figure.append(element("h2", title), made.big, made.note, plot, none);
    } else {
      made.sub = element("span", sub, { class: "dim" });
      made.legend = element("table", null, { class: "legend" });
      made.details = element("details", null, { class: "rows" }, element("summary", "As a table"), element("button", "Save as CSV", { type: "button", class: "btn small" }), element("table", null, { class: "data" }));
      figure.append(element("header", null, {}, element("h2", title), made.sub), plot, none, made.legend, made.details);
    }
    drawn.set(figure, made);
    new ResizeObserver(() => {
      const width = Math.floor(plot.clientWidth);
      if (made.chart && width && width !== made.chart.width) made.redraw();
    }).observe(plot);
    return made;
  }

  /* Whether this is a figure's first time; then it is drawn by itself, so that no task is long. */
  function isFirst(made) {
    if (made.isKnown) return made.isKnown === "soon";
    made.isKnown = "soon";
    setTimeout(() => { made.isKnown = "yes"; made.redraw(); });
    return true;
  }

  function missing(made, why) {
    made.chart?.destroy();
    made.chart = null;
    made.plot.replaceChildren();
    made.plot.hidden = true;
    made.none.hidden = false;
    say(made.none, why);
    if (made.legend) made.legend.hidden = made.details.hidden = true;
  }

  /* Draws, or gives a chart new data; a chart is made anew only if its shape changes. */
  function draw(made, shape, options, data) {
    made.plot.hidden = false;
    made.none.hidden = true;
    if (made.legend) made.legend.hidden = made.details.hidden = false;
    const width = Math.floor(made.plot.clientWidth) || 400;
    const key = JSON.stringify([shape, colour("text"), devicePixelRatio]);
    if (made.chart && made.key === key) {
      if (made.chart.width !== width) made.chart.setSize({ width, height: made.chart.height });
      made.chart.setData(data);
      return;
    }
    made.chart?.destroy();
    made.plot.replaceChildren();
    made.key = key;
    made.chart = new uPlot({ width, legend: { show: false }, ...options() }, data, made.plot);
  }

  // Charts over time

  /*
   * Draws one of CHARTS.
   *   view: {from, to, now (null: of the past), bands, onZoom, onReset, utc}
   */
  function time(figure, name, history, view, more = {}) {
    const chart = { ...CHARTS[name], ...more };
    const small = Boolean(chart.small);
    const made = parts(figure, chart.title, chart.sub, small);
    made.redraw = () => time(figure, name, history, view, more);
    if (made.sub) say(made.sub, chart.sub);
    if (isFirst(made)) return;
    if (!made.plot.hidden && !made.plot.clientWidth) return;
    made.plot.hidden = false;
    const width = Math.floor(made.plot.clientWidth) || 400;
    const cut = columns(history, view, width - GUTTER);
    const lines = chart.lines.map((line) => series(cut, line));
    const known = lines.map((values) => values.filter((value) => !unknown(value)));
    if (!history.ts.length) return missing(made, "No events yet.");
    if (chart.none && known.every((values) => !values.length)) return missing(made, typeof chart.none === "function" ? chart.none(history) : chart.none);
    const highest = Math.max(chart.most ?? 0, ...known.flat());
    const lowest = Math.min(...known.flat());
    const y = chart.range ?? (chart.log
      ? [10 ** Math.floor(Math.log10(Math.max(lowest, 1e-6))), 10 ** Math.ceil(Math.log10(Math.max(highest, 2e-6)) + 0.001)]
      : [0, roundMaximum(made.kept, highest)]);
    const plan = made.plan = { gaps: cut.gaps, bands: view.bands, marks: view.marks?.filter(({ timestamp }) => timestamp >= view.from && timestamp <= view.to), now: view.now, from: view.from, to: view.to, y, small, first: chart.first, log: chart.log, format: chart.tick ?? chart.format };
    made.lines = lines;
    made.xs = cut.xs;
    made.view = view;
    draw(made, [name, small, lines.length, view.utc], () => ({
      height: small ? SMALL_HEIGHT : HEIGHT,
      padding: [small ? 8 : 20, 10, 0, 0],
      cursor: {
        sync: { key: "kvstream" }, y: false, points: { size: 7 },
        drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => made.view.onReset?.() },
      },
      select: { show: true },
      scales: { x: { time: false, range: () => [made.plan.from, made.plan.to] }, y: { distr: chart.log ? 3 : 1, range: () => made.plan.y } },
      axes: [
        axis({
          size: 22, space: 80, splits: (u) => timeTicks(made.plan.from, made.plan.to, u.bbox.width / devicePixelRatio),
          filter: (u, ticks) => {
            const labels = timeLabels(ticks);
            return ticks.map((tick, i) => {
              const near = made.plan.now !== null && Math.abs(u.valToPos(tick, "x") - u.valToPos(made.plan.now, "x")) < 44;
              return near || u.valToPos(tick, "x") > u.bbox.width / devicePixelRatio - 14 ? null : labels[i];
            });
          },
          values: (_, labels) => labels.map((label) => label ?? ""),
        }),
        axis({
          size: GUTTER, splits: () => (made.plan.log ? decades(...made.plan.y) : linearTicks(...made.plan.y, small ? 2 : 4)),
          filter: (_, ticks) => ticks, values: (_, ticks) => ticks.map((tick) => made.plan.format(tick)),
        }),
      ],
      series: [{}, ...chart.lines.map((line) => ({
        label: line.name, stroke: colour(line.colour), width: line.thin ? 1.25 : 1.75, dash: line.dash, points: { show: false },
        fill: line.fill ? faded(line.colour, 0.16) : undefined,
      }))],
      bands: chart.band ? [{ series: chart.band, fill: faded("blue", 0.16) }] : [],
      hooks: {
        drawClear: [(u) => beneath(u, made.plan)],
        draw: [(u) => above(u, made.plan)],
        setCursor: [(u) => legend(made, chart, u.cursor.idx)],
        setSelect: [(u) => {
          if (u.select.width > 4) made.view.onZoom?.(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        }],
      },
    }), [cut.xs, ...lines]);
    made.plot.onkeydown = (event) => keys(made, event);
    const last = lines.map((values) => values.findLast((value) => !unknown(value)));
    made.plot.setAttribute("aria-label", `${chart.title}: ${chart.lines.map((line, i) => `${line.name} ${chart.format(last[i])}`).join(", ")}`);
    legend(made, chart, made.chart.cursor.idx);
    if (small) return;
    const busy = () => cut.rows.map((_, i) => i).filter((i) => !cut.rows[i].gap);
    tabulate(made, [
      ["from", false, (i) => clock(cut.xs[i] - cut.step / 2)], ...chart.lines.map((line, n) => [line.name, true, (i) => chart.format(lines[n][i])]),
    ], () => busy().slice(-20).reverse(), () => ({
      name, columns: ["time", ...chart.lines.map((line) => line.name.replace(/\W+/g, "_"))],
      rows: busy().map((i) => [new Date(cut.rows[i].start * 1000).toISOString(), ...lines.map((values) => values[i])]),
    }));
  }

  /* Writes the rows of a figure as a table, now or once it is opened; all its figures can be saved. */
  function tabulate({ details }, columns, rows, figures) {
    details.querySelector("button").onclick = () => save(figures());
    const write = () => fill(details.querySelector("table"), columns, rows());
    if (details.open) write();
    details.ontoggle = () => details.open && write();
  }

  /* Saves {name, columns, rows} as a CSV file; what is unknown is empty. */
  function save({ name, columns, rows }) {
    const lines = [columns, ...rows].map((row) => row.map((value) => (unknown(value) ? "" : value)).join(","));
    const anchor = element("a", null, { href: URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" })), download: `${name}.csv` });
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 1000);
  }

  /* Last, mean and highest value of each line, and what it is under the cursor. */
  function legend(made, chart, at) {
    if (!made.legend) return;
    const rows = chart.lines.map((line, n) => [line, made.lines[n]]).filter(([line]) => !line.quiet);
    if (made.legend.rows.length !== rows.length + 1) {
      const head = element("tr", null, {}, element("th", null, { scope: "col" }, element("span", "series", { class: "sr" })),
        ...["at", "last", "mean", "max"].map((title) => element("th", title, { scope: "col", class: title === "at" ? "at" : title === "last" ? "" : "opt" })));
      made.legend.replaceChildren(element("thead", null, {}, head), element("tbody", null, {}, ...rows.map(([line]) => {
        const key = svg("svg", { class: "key", viewBox: "0 0 18 8", width: 18, height: 8, "aria-hidden": "true" },
          svg("path", { d: "M0 4h18", class: `ln s-${line.colour}${line.dash ? " dash" : ""}` }));
        const name = element("td", null, {}, key, line.name);
        return element("tr", null, {}, name, ...["at", "", "opt", "opt"].map((kind) => element("td", null, { class: kind })));
      })));
    }
    const here = at !== null && at !== undefined && made.xs[at] !== undefined;
    made.legend.classList.toggle("pointed", here);
    say(made.legend.rows[0].cells[1], here ? `at ${clock(made.xs[at])}` : "at");
    rows.forEach(([, values], n) => {
      const known = values.filter((value) => !unknown(value));
      const { cells } = made.legend.rows[n + 1];
      say(cells[1], here ? chart.format(values[at]) : "");
      say(cells[2], chart.format(known.at(-1)));
      say(cells[3], chart.format(known.length ? known.reduce((a, b) => a + b, 0) / known.length : null));
      say(cells[4], chart.format(known.length ? Math.max(...known) : null));
    });
  }

  /* Arrows move the cursor of all charts, + and - zoom, 0 goes back to live. */
  function keys(made, event) {
    const { chart, view } = made;
    if (!chart || !made.xs.length) return;
    const at = chart.cursor.idx ?? made.xs.length - 1;
    const moved = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (moved) {
      const to = Math.min(made.xs.length - 1, Math.max(0, at + moved * (event.shiftKey ? 10 : 1)));
      chart.setCursor({ left: chart.valToPos(made.xs[to], "x"), top: 1 });
    } else if (event.key === "+" || event.key === "-") {
      const middle = made.xs[at], half = ((view.to - view.from) * (event.key === "+" ? 0.5 : 2)) / 2;
      view.onZoom?.(middle - half, middle + half);
    } else if (event.key === "0") view.onReset?.();
    else if (event.key === "Escape") chart.setCursor({ left: -10, top: -10 });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // What another size of cache would do

  function curve(figure, sizes, blockBytes, now) {
    const made = parts(figure, "What more memory would buy", "hit ratio by capacity, log scale");
    made.redraw = () => curve(figure, sizes, blockBytes, now);
    if (isFirst(made)) return;
    const points = sizes.points ?? [];
    const today = points.find((point) => point.factor === 1);
    if (!today) return missing(made, "Not known: it takes content hashes or keys, and reported hits.");
    if (sizes.blocks < sizes.peak) return missing(made, `Not computed: ${count(sizes.peak)} blocks were live, more than the capacity of ${count(sizes.blocks)}.`);
    const size = (blocks) => (blockBytes ? `${gib(blocks * blockBytes)} GiB` : `${compact(blocks)} blocks`);
    const xs = points.map((point) => Math.log2(point.factor));
    made.plot.hidden = false;
    draw(made, ["curve", blockBytes, sizes.blocks], () => ({
      height: HEIGHT, padding: [12, 18, 0, 0], cursor: { drag: { x: false, y: false }, y: false },
      scales: { x: { time: false, range: [xs[0] - 0.1, xs.at(-1) + 0.1] }, y: { range: [0, 1] } },
      axes: [
        axis({
          size: 22, splits: () => xs.filter((at) => Number.isInteger(at)), filter: (_, ticks) => ticks,
          values: (_, ticks) => ticks.map((tick) => `${2 ** tick}×`),
        }),
        axis({ size: GUTTER, splits: () => [0, 0.25, 0.5, 0.75, 1], filter: (_, ticks) => ticks, values: (_, ticks) => ticks.map(ratio) }),
      ],
      series: [
        {},
        { label: "hit ratio", stroke: colour("purple"), width: 1.75, points: { show: true, size: 5, fill: colour("purple") } },
        { label: "today", stroke: colour("critical-fill"), width: 0, points: { show: true, size: 11, fill: colour("critical-fill"), stroke: colour("surface") } },
      ],
    }), [xs, points.map((point) => point.hit_ratio), points.map((point) => (point === today ? point.hit_ratio : null))]);
    made.plot.setAttribute("aria-label", `Hit ratio ${ratio(today.hit_ratio)} with today's ${size(today.blocks)}, ` +
      points.filter((point) => point.factor > 1).map((point) => `${ratio(point.hit_ratio)} with ${point.factor} times`).join(", "));
    const chosen = [1, 1.5, 2, 4].map((factor) => points.find((point) => point.factor === factor)).filter(Boolean);
    fill(made.legend, [
      ["with", false, (point) => (point === today ? `${size(point.blocks)}, today` : `${size(point.blocks)}, +${size(point.blocks - today.blocks)}`)],
      ["hit ratio", true, (point) => ratio(point.hit_ratio)],
      ["instead of today", true, (point) => (point === today ? "" : `${point.hit_ratio >= today.hit_ratio ? "+" : "−"}${ratio(Math.abs(point.hit_ratio - today.hit_ratio))}`)],
    ], chosen);
    tabulate(made, [
      ["size", false, (point) => `${point.factor}×`], ["blocks", true, (point) => count(point.blocks)], ["hit ratio", true, (point) => ratio(point.hit_ratio)],
    ], () => points, () => ({
      name: "memory", columns: ["factor", "blocks", "hit_ratio"], rows: points.map((point) => [point.factor, point.blocks, point.hit_ratio]),
    }));
  }

  // Blocks by age and accesses: eight rows and columns at most, shaded

  function blockMap(figure, map) {
    figure.classList.add("card", "chart");
    const total = map.blocks.flat().reduce((a, b) => a + b, 0);
    const across = bins(map.accesses, (n, next) => (next - n <= 1 ? count(n) : `${count(n)}–${count(next - 1)}`));
    const down = bins(map.held_seconds, (_, next) => `< ${seconds(next)}`);
    const cells = down.map(([, rows]) => across.map(([, cols]) => rows.reduce((sum, r) => sum + cols.reduce((all, c) => all + map.blocks[r][c], 0), 0)));
    const most = Math.max(1, ...cells.flat());
    const table = element("table", null, { class: "heat" });
    fill(table, [["age", false, ({ i }) => down[i][0]], ...across.map(([label], j) => [label, true, ({ i }) => (cells[i][j] ? count(cells[i][j]) : "")])], cells.map((_, i) => ({ i })));
    [...table.tBodies[0].rows].forEach((row, i) => {
      const head = element("th", row.cells[0].textContent, { scope: "row" });
      row.cells[0].replaceWith(head);
      [...row.cells].slice(1).forEach((cell, j) => {
        const share = Math.log1p(cells[i][j]) / Math.log1p(most);
        cell.className = cells[i][j] ? `h${Math.max(1, Math.ceil(share * 4))}` : "";
      });
    });
    const untouched = map.accesses[0] === 0 ? map.blocks.reduce((sum, row) => sum + row[0], 0) : 0;
    const words = total ? `${percent(untouched / total)} of blocks have not been accessed since they were allocated.` : "The cache holds no blocks.";
    figure.replaceChildren(
      element("header", null, {}, element("h2", "Blocks in the cache"), element("span", `by age and accesses, ${count(total)} blocks`, { class: "dim" })),
      ...(total ? [table] : []), element("p", words, { class: "say" }),
    );
  }

  /* Joins neighbours, each twice the one before, until there are eight at most; returns [label, numbers] each. */
  function bins(starts, label) {
    const each = Math.ceil(starts.length / 8);
    const end = starts.at(-1) * 2 || 1;
    const made = [];
    for (let i = 0; i < starts.length; i += each)
      made.push([label(starts[i], starts[i + each] ?? end), Array.from({ length: Math.min(each, starts.length - i) }, (_, n) => i + n)]);
    return made;
  }

  // Small ones, in rows of tables

  /* The path of values from 0 to 1, null where there is none. */
  function sparkPath(values, width, height) {
    let path = "", drawing = false;
    const each = width / Math.max(1, values.length - 1);
    values.forEach((value, i) => {
      if (unknown(value)) { drawing = false; return; }
      path += `${drawing ? "L" : "M"}${(i * each).toFixed(1)} ${((1 - Math.min(1, value)) * (height - 2) + 1).toFixed(1)}`;
      drawing = true;
    });
    return path;
  }

  function forgetColours() { colours = new Map(); }

  return { CHARTS, time, curve, blockMap, sparkPath, colour, forgetColours };
})();
