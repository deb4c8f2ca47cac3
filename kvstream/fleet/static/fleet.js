"use strict";
// Asks for the worst caches again and again. What comes is put in as text, never as markup.

const EVERY_MS = 5000;
const SHOWN = 200;
const LATE_SECONDS = 60;

const percent = (ratio) => (ratio === null ? "unknown" : `${(100 * ratio).toFixed(1)}%`);

function age(seconds) {
  if (seconds < LATE_SECONDS) return `${Math.max(0, Math.round(seconds))} s old`;
  return `late: ${Math.round(seconds / 60)} min old`;
}

function row(cache, now) {
  const line = document.createElement("tr");
  const cells = [
    cache.level ?? "none",
    cache.source,
    cache.tier,
    cache.alerts > 1 ? `${cache.message} (and ${cache.alerts - 1} more)` : cache.message,
    percent(cache.hit_ratio),
    percent(cache.premature_ratio),
    cache.eviction_rate.toFixed(1),
    cache.blocks.toLocaleString("en"),
    age(now - cache.published_at),
  ];
  for (const text of cells) {
    const cell = document.createElement("td");
    cell.textContent = text;
    line.append(cell);
  }
  return line;
}

async function refresh() {
  const overview = document.getElementById("overview");
  try {
    const text = encodeURIComponent(document.getElementById("text").value);
    const answer = await fetch(`api/caches?limit=${SHOWN}&text=${text}`);
    if (!answer.ok) throw new Error(`${answer.status}`);
    const shown = await answer.json();
    const now = Date.now() / 1000;
    const all = shown.overview;
    const firing = Object.entries(all.firing).map(([level, n]) => `${n} ${level}`).join(", ");
    overview.textContent =
      `${all.caches.toLocaleString("en")} caches of ${all.sources.toLocaleString("en")} sources; ` +
      `${firing || "nothing fires"}` +
      (all.late ? `; ${all.late} late` : "") +
      (all.is_whole ? "" : "; still reading the topic");
    document.getElementById("caches").replaceChildren(...shown.caches.map((cache) => row(cache, now)));
  } catch (error) {
    overview.textContent = `not connected (${error.message})`;
  }
}

document.getElementById("text").addEventListener("input", refresh);
setInterval(refresh, EVERY_MS);
refresh();
