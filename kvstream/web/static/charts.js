"use strict";

/* The charts: each is drawn into a <figure>, with its figures as a table and in words for who cannot see it. */
const kvCharts = (() => {
  const { count, ratio, seconds, clock, fill, element } = kvFormat;
  const drawn = new Map(); // figure: what draws it anew
  const HEIGHT = 220;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  const axis = (extra) => ({
    stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line") }, ...extra,
  });

  const line = (label, name, extra = {}) => ({ label, stroke: colour(name), width: 2, spanGaps: false, ...extra });

  /* Draws, or gives a chart new data; a chart is made anew only if its shape changes. */
  function show(figure, shape, options, data, words, table) {
    const plot = figure.querySelector(".plot");
    plot.setAttribute("aria-label", words);
    const details = figure.querySelector("details");
    const write = () => fill(details.querySelector("table"), ...table());
    if (details.open) write();
    details.ontoggle = () => details.open && write();
    const known = drawn.get(figure);
    const key = JSON.stringify([shape, document.documentElement.dataset.theme]);
    if (known && known.key === key) {
      known.chart.setData(data);
      return;
    }
    plot.classList.remove("empty");
    plot.replaceChildren();
    const chart = new uPlot({ width: plot.clientWidth || 400, height: HEIGHT, ...options() }, data, plot);
    drawn.get(figure)?.chart.destroy();
    drawn.set(figure, { key, chart });
  }

  function empty(figure, why) {
    const plot = figure.querySelector(".plot");
    drawn.get(figure)?.chart.destroy();
    drawn.delete(figure);
    plot.classList.add("empty");
    plot.replaceChildren(element("p", why));
    plot.setAttribute("aria-label", why);
    figure.querySelector("details table").replaceChildren();
  }

  const timeAxis = () => axis({ space: 90, values: (_, ticks) => ticks.map(clock) });

  const withUnit = (format) => (_, value) => (value === null || value === undefined ? "–" : format(value));

  const time = { value: (_, at) => (at === null || at === undefined ? "–" : clock(at)) };
  const cursor = { sync: { key: "kvstream" } };

  function ratios(figure, history, capacity) {
    if (!history.ts.length) return empty(figure, "Nothing has happened yet.");
    const occupancy = history.blocks.map((blocks) => (capacity ? blocks / capacity : null));
    const last = history.ts.length - 1;
    show(
      figure, "ratios",
      () => ({
        cursor,
        scales: { y: { range: [0, 1] } },
        axes: [timeAxis(), axis({ values: (_, ticks) => ticks.map((tick) => tick.toFixed(1)) })],
        series: [
          time,
          line("hit ratio", "blue", { value: withUnit(ratio) }),
          line("occupancy", "green", { value: withUnit(ratio) }),
          line("never reused", "orange", { value: withUnit(ratio), dash: [4, 4] }),
        ],
      }),
      [history.ts, history.hit_ratio, occupancy, history.never_reused_ratio],
      `Hit ratio ${ratio(history.hit_ratio[last])}, occupancy ${ratio(occupancy[last])} at ${clock(history.ts[last])}`,
      () => [
        [["at", false, (i) => clock(history.ts[i])], ["hit ratio", true, (i) => ratio(history.hit_ratio[i])],
          ["blocks", true, (i) => count(history.blocks[i])], ["never reused", true, (i) => ratio(history.never_reused_ratio[i])]],
        history.ts.map((_, i) => last - i),
      ],
    );
  }

  function rates(figure, history) {
    if (!history.ts.length) return empty(figure, "Nothing has happened yet.");
    const last = history.ts.length - 1;
    show(
      figure, "rates",
      () => ({
        cursor,
        axes: [timeAxis(), axis({ size: 70, values: (_, ticks) => ticks.map(count) })],
        series: [
          time,
          line("allocated", "blue", { value: withUnit(count) }),
          line("accessed", "green", { value: withUnit(count) }),
          line("evicted", "orange", { value: withUnit(count) }),
        ],
      }),
      [history.ts, history.allocation_rate, history.access_rate, history.eviction_rate],
      `${count(history.allocation_rate[last])} allocations, ${count(history.access_rate[last])} accesses, ` +
        `${count(history.eviction_rate[last])} evictions a second at ${clock(history.ts[last])}`,
      () => [
        [["at", false, (i) => clock(history.ts[i])], ["allocated", true, (i) => count(history.allocation_rate[i])],
          ["accessed", true, (i) => count(history.access_rate[i])],
          ["evicted", true, (i) => count(history.eviction_rate[i])]],
        history.ts.map((_, i) => last - i),
      ],
    );
  }

  const DISTRIBUTIONS = [
    ["lifetime", "lifetime", "blue"], ["idle", "idle before eviction", "orange"],
    ["reuse_gap", "reuse gap", "green"],
  ];

  function distributions(figure, of) {
    const powers = DISTRIBUTIONS.flatMap(([name]) => of[name].upper_seconds.map((s) => Math.round(Math.log2(s))));
    if (!powers.length) return empty(figure, "Nothing was evicted or used again in the last minute.");
    const low = Math.min(...powers), high = Math.max(...powers);
    const xs = Array.from({ length: high - low + 1 }, (_, i) => low + i);
    const columns = DISTRIBUTIONS.map(([name]) => {
      const total = of[name].counts.reduce((sum, n) => sum + n, 0);
      const by = new Map(of[name].upper_seconds.map((s, i) => [Math.round(Math.log2(s)), of[name].counts[i]]));
      return xs.map((power) => (total ? (by.get(power) ?? 0) / total : null));
    });
    show(
      figure, "distributions",
      () => ({
        scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(high, 0.1)] } },
        axes: [
          axis({ values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? seconds(2 ** tick) : "")) }),
          axis({ values: (_, ticks) => ticks.map((tick) => `${(100 * tick).toFixed(0)} %`) }),
        ],
        series: [
          { label: "up to", value: (_, power) => (power === null || power === undefined ? "–" : seconds(2 ** power)) },
          ...DISTRIBUTIONS.map(([, label, name]) =>
            line(label, name, { value: withUnit((share) => `${(100 * share).toFixed(1)} %`) })),
        ],
      }),
      [xs, ...columns],
      DISTRIBUTIONS.map(([name, label]) => {
        const most = of[name].counts.indexOf(Math.max(...of[name].counts));
        return most < 0 ? `no ${label}` : `${label} mostly up to ${seconds(of[name].upper_seconds[most])}`;
      }).join(", "),
      () => [
        [["up to", false, (i) => seconds(2 ** xs[i])],
          ...DISTRIBUTIONS.map(([, label], n) => [label, true, (i) => `${(100 * (columns[n][i] ?? 0)).toFixed(1)} %`])],
        xs.map((_, i) => i),
      ],
    );
  }

  function curve(figure, sizes) {
    if (!sizes.points.length)
      return empty(figure, "Known for one cache at a time, where content has hashes or keys and hits are reported.");
    const points = sizes.points;
    const today = points.find((point) => point.factor === 1);
    const xs = points.map((point) => Math.log2(point.factor));
    show(
      figure, "curve",
      () => ({
        scales: { x: { time: false }, y: { range: [0, 1] } },
        axes: [
          axis({ values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? `${2 ** tick}×` : "")) }),
          axis(),
        ],
        series: [
          { label: "size", value: (_, at) => (at === null || at === undefined ? "–" : `${(2 ** at).toFixed(2)}×`) },
          line("hit ratio", "purple", { value: withUnit(ratio), points: { show: true, size: 6 } }),
          line("today", "red", { width: 0, points: { show: true, size: 12, fill: colour("red") }, value: withUnit(ratio) }),
        ],
      }),
      [xs, points.map((p) => p.hit_ratio), points.map((p) => (p.factor === 1 ? p.hit_ratio : null))],
      `Hit ratio ${ratio(today.hit_ratio)} with today's ${count(today.blocks)} blocks, ` +
        points.filter((p) => p.factor > 1).map((p) => `${ratio(p.hit_ratio)} with ${p.factor} times`).join(", "),
      () => [
        [["size", false, (p) => `${p.factor}×${p.factor === 1 ? " (today)" : ""}`],
          ["blocks", true, (p) => count(p.blocks)], ["hit ratio", true, (p) => ratio(p.hit_ratio)]],
        points,
      ],
    );
  }

  /* Blocks by age and accesses, as a table whose cells are shaded. */
  function blockMap(table, map) {
    const most = Math.max(1, ...map.blocks.flat());
    const label = (n, i, all) => (i + 1 === all.length || all[i + 1] === n + 1 ? count(n) : `${count(n)}–${count(all[i + 1] - 1)}`);
    const columns = [["held for", false, ({ i }) => `≥ ${seconds(map.held_seconds[i])}`],
      ...map.accesses.map((n, j, all) => [label(n, j, all), true, ({ row }) => (row[j] ? count(row[j]) : "")])];
    fill(table, columns, map.blocks.map((row, i) => ({ row, i })));
    [...table.tBodies[0].rows].forEach((row, i) =>
      [...row.cells].slice(1).forEach((cell, j) => {
        const share = Math.log1p(map.blocks[i][j]) / Math.log1p(most);
        cell.style.background = share ? `rgb(${colour("heat")} / ${(0.06 + 0.42 * share).toFixed(2)})` : "";
      }));
    table.createCaption().textContent = "columns: accesses";
  }

  function resize() {
    for (const [figure, { chart }] of drawn) {
      const width = figure.querySelector(".plot").clientWidth;
      if (width) chart.setSize({ width, height: HEIGHT });
    }
  }

  addEventListener("resize", resize);
  return { ratios, rates, distributions, curve, blockMap, resize };
})();
