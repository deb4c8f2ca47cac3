"use strict";

/* Draws the charts of a report, which brings its data along. */
(() => {
  const caches = JSON.parse(document.getElementById("data").textContent);

  function draw() {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      const cache = caches[figure.dataset.cache];
      const drawing = {
        "ratio-chart": () => kvCharts.ratios(figure, cache.history, cache.capacity),
        "rate-chart": () => kvCharts.rates(figure, cache.history),
        "distribution-chart": () => kvCharts.distributions(figure, cache.distributions),
        "curve-chart": () => kvCharts.curve(figure, cache.sizes),
      };
      drawing[figure.dataset.chart]();
    }
    for (const table of document.querySelectorAll("table[data-map]"))
      kvCharts.blockMap(table, caches[table.dataset.map].map);
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
