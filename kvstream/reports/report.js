"use strict";

/* Draws the charts of a report, which brings its data along. */
(() => {
  const caches = JSON.parse(document.getElementById("data").textContent);
  kvFormat.showUtc(true);

  function draw() {
    kvCharts.forgetColours();
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      const { history, sizes, map, bands, block_bytes: blockBytes } = caches[figure.dataset.cache];
      const name = figure.dataset.chart;
      const { ts, window_seconds: window } = history;
      if (name === "curve") kvCharts.curve(figure, sizes, blockBytes);
      else if (name === "map") kvCharts.blockMap(figure, map);
      else kvCharts.time(figure, name, history, { from: ts[0] ?? 0, to: (ts.at(-1) ?? 0) + window, now: null, bands }, { first: name === "ratio" });
    }
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
