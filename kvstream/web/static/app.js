"use strict";

/* The dashboard: follows a stream's events and shows what they say. */
(() => {
  const { count, ratio, percent, gib, seconds, clock, dated, shown, element, fill } = kvFormat;
  const get = (id) => document.getElementById(id);
  const LEVELS = ["info", "warning", "critical"];
  const ALERTS_KEPT = 1000, ALERTS_SHOWN = 200, WINDOWS_SHOWN = 600, CACHES_SHOWN = 50;
  const STALE_MS = 5000, SILENT_MS = 10000, SLOWLY_MS = 5000;

  let place = given(new URLSearchParams(location.search).get("place"));
  let events = null; // the EventSource
  let boot = "", state = null, processed = -1;
  let heardAt = 0, movedAt = 0; // when a state came, and when it last had new events
  let alerts = [], newestAlert = 0, alertsMissed = 0; // newest first
  let alertsDrawn = ""; // what the table of them was last drawn from
  let history = null, frame = 0;
  let distributions = null, blocks = null;

  // What was chosen

  /* The place that an address names; any, if it is none. */
  function given(text) {
    try {
      const pair = JSON.parse(text ?? "");
      return Array.isArray(pair) && pair.length === 2 && pair.every((name) => typeof name === "string") ? text : "";
    } catch {
      return "";
    }
  }

  const query = (more = {}) => {
    const [source, tier] = place ? JSON.parse(place) : ["", ""];
    return `?${new URLSearchParams({ source, tier, ...more })}`;
  };

  async function fetched(path) {
    const answer = await fetch(path, { headers: { accept: "application/json" } });
    if (!answer.ok && answer.status !== 404) throw new Error(`${path}: ${answer.status}`);
    return answer.ok ? answer.json() : null;
  }

  // Following

  function follow(lastEventId = "") {
    events?.close();
    events = new EventSource(`events${query(lastEventId ? { last_event_id: lastEventId } : {})}`);
    events.addEventListener("hello", (event) => hello(event.data));
    events.addEventListener("state", (event) => takeState(JSON.parse(event.data)));
    events.addEventListener("alert", (event) => takeAlert(JSON.parse(event.data)));
    events.addEventListener("missed", (event) => { alertsMissed += Number(event.data); draw(); });
    events.addEventListener("end", () => { events.close(); setTimeout(follow, 3000); });
    events.onerror = () => {
      // The browser tries again by itself unless the server refused.
      if (events.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
      draw();
    };
  }

  async function hello(given) {
    if (boot && boot !== given) await begin(); // another run of the server: what was shown is of the past
    boot = given;
  }

  async function begin() {
    history = state = distributions = blocks = null;
    processed = -1;
    const [log, windows] = await Promise.all([
      fetched("api/alerts"), fetched(`api/history${query({ windows: WINDOWS_SHOWN })}`),
    ]);
    alerts = log.alerts;
    newestAlert = log.newest;
    alertsMissed = 0;
    history = windows;
    slowly();
    return log.last_event_id;
  }

  async function start() {
    try {
      follow(await begin());
    } catch {
      setTimeout(start, 2000);
    }
    draw();
  }

  function takeState(given) {
    state = given;
    heardAt = Date.now();
    if (processed !== given.summary.accounts.processed) movedAt = heardAt;
    processed = given.summary.accounts.processed;
    if (history) history = merged(history, given.history);
    draw();
  }

  /* Windows by time; a newer account of a window takes the place of an older one. */
  function merged(old, newer) {
    const rows = new Map(old.ts.map((ts, i) => [ts, [old, i]]));
    newer.ts.forEach((ts, i) => rows.set(ts, [newer, i]));
    const order = [...rows.keys()].sort((a, b) => a - b).slice(-WINDOWS_SHOWN);
    const made = { window_seconds: newer.window_seconds };
    for (const column of Object.keys(newer))
      if (Array.isArray(newer[column]))
        made[column] = order.map((ts) => { const [from, i] = rows.get(ts); return from[column][i]; });
    return made;
  }

  function takeAlert(alert) {
    alerts.unshift(alert);
    newestAlert += 1;
    if (alerts.length > ALERTS_KEPT) alerts.length = ALERTS_KEPT;
    draw();
  }

  async function slowly() {
    if (document.hidden) return;
    try {
      [distributions, blocks] = await Promise.all([
        fetched(`api/distributions${query()}`), aloneOn() ? fetched(`api/blocks${aloneOn()}`) : null,
      ]);
    } catch {
      return; // the connection says so already
    }
    draw();
  }

  /* The query for the one cache that is chosen, or that there is. */
  function aloneOn() {
    if (place) return query();
    if (state?.caches.length !== 1) return "";
    const [{ source, tier }] = state.caches;
    return `?${new URLSearchParams({ source, tier })}`;
  }

  // Drawing, once a frame at most

  function draw() {
    frame ||= requestAnimationFrame(() => { frame = 0; drawNow(); });
  }

  function drawNow() {
    drawConnection();
    drawAlerts();
    if (!state) return;
    drawPlaces();
    const { summary } = state;
    drawHealth(summary);
    drawTiles(summary);
    drawAccounts(summary);
    drawLabels(summary);
    kvCharts.curve(get("curve-chart"), summary.sizes);
    if (history) {
      kvCharts.ratios(get("ratio-chart"), history, summary.capacity);
      kvCharts.rates(get("rate-chart"), history);
    }
    if (distributions) kvCharts.distributions(get("distribution-chart"), distributions);
    drawBlocks();
  }

  function drawConnection() {
    const shown = get("connection");
    const stale = Date.now() - heardAt > STALE_MS;
    document.body.classList.toggle("stale", stale);
    const open = events?.readyState === EventSource.OPEN;
    let words = open ? "live" : "connecting";
    if (stale && heardAt) words = `no connection; figures of ${clock(heardAt / 1000)}, trying again`;
    else if (open && Date.now() - movedAt > SILENT_MS && processed > 0)
      words = `live; no events for ${seconds(Math.round((Date.now() - movedAt) / 1000))}`;
    if (shown.textContent !== words) shown.textContent = words;
    shown.className = stale && heardAt ? "gone" : open ? "live" : "";
  }

  const placeOf = ({ source, tier }) => JSON.stringify([source, tier]);

  function drawPlaces() {
    const select = get("place");
    const values = state.caches.map(placeOf);
    const same = select.options.length === values.length + 1 && values.every((v, i) => select.options[i + 1].value === v);
    if (!same) {
      select.replaceChildren(element("option", "all sources", { value: "" }),
        ...values.map((value) => element("option", JSON.parse(value).join(" / "), { value })));
      if (place && !values.includes(place)) select.append(element("option", JSON.parse(place).join(" / "), { value: place }));
      select.value = place;
    }
    const worstFirst = [...state.caches].sort((a, b) => rank(b.level) - rank(a.level)).slice(0, CACHES_SHOWN);
    const focused = document.activeElement?.dataset.place;
    fill(get("caches"), [
      ["cache", false, () => ""], ["state", false, (c) => c.level ?? "ok"], ["blocks", true, (c) => count(c.blocks)],
      ["hit ratio", true, (c) => ratio(c.hit_ratio)], ["evictions a second", true, (c) => count(c.eviction_rate)],
    ], worstFirst);
    [...get("caches").tBodies[0].rows].forEach((row, i) => {
      const cache = worstFirst[i];
      const button = element("button", `${cache.source} / ${cache.tier}`, { type: "button", "data-place": placeOf(cache) });
      button.onclick = () => go(placeOf(cache));
      row.className = `firing ${cache.level}`;
      row.cells[0].append(button);
      if (focused === placeOf(cache)) button.focus();
    });
    get("caches-more").textContent = state.caches.length > CACHES_SHOWN
      ? `${count(CACHES_SHOWN)} of ${count(state.caches.length)} are shown, the worst first.` : "";
  }

  const worst = (listed) => listed.reduce((a, b) => (rank(b.level) > rank(a.level) ? b : a));
  const rank = (level) => LEVELS.indexOf(level);
  const ofPlace = (alert) => !place || place === placeOf(alert);

  function drawHealth(summary) {
    const health = get("health");
    const bad = summary.alerts.filter((alert) => rank(alert.level) > 0 && !alert.silenced_by);
    let kind = "good", word, why = "", hint = "";
    if (!summary.accounts.processed) {
      kind = "unknown";
      word = "Waiting for the first events";
      why = "Send events to this stream, and its figures appear here.";
    } else if (bad.length) {
      const alert = worst(bad);
      kind = alert.level;
      word = `${alert.level === "critical" ? "Critical" : "Degraded"} since ${clock(Math.min(...bad.map((a) => a.started_at)))}`;
      why = bad.map((each) => (place ? each.message : `${each.source}/${each.tier}: ${each.message}`)).join("; ");
      hint = alert.hint && `Try: ${alert.hint}`;
    } else {
      const over = alerts.find((alert) => alert.state === "resolved" && rank(alert.level) > 0 && ofPlace(alert));
      const since = over ? over.timestamp : history?.ts[0];
      word = since ? `Healthy since ${clock(since)}` : "Healthy";
      why = over ? `The last to end was ${over.rule}.` : "No alert above information has fired.";
    }
    health.className = kind;
    const said = [["health-word", word], ["health-why", why], ["health-try", hint]];
    for (const [id, text] of said) if (get(id).textContent !== shown(text)) get(id).textContent = shown(text);
    const verdict = state.verdict.join("\n");
    if (get("verdict").dataset.said !== verdict) {
      get("verdict").dataset.said = verdict;
      get("verdict").replaceChildren(...state.verdict.map((sentence) => element("li", sentence)));
    }
  }

  function capacityWords({ blocks_live, capacity, occupancy, live_bytes }) {
    const size = live_bytes === null ? "" : `; ${gib(live_bytes)} GiB`;
    if (!capacity) return `capacity not known${size}`;
    if (blocks_live > capacity) return `MORE THAN THE CAPACITY of ${count(capacity)}${size}`;
    return `${percent(occupancy)} of ${count(capacity)}${size}`;
  }

  function hitRatioWords({ hit_rate_estimate, hit_tokens, lookup_tokens, block_sizes, hits_reported }, minute) {
    if (hit_rate_estimate === null) return "unknown: no hit was reported";
    const sizes = block_sizes.length > 1 ? ` in blocks of ${block_sizes.map(count).join(" and ")}` : "";
    const tokens = hit_tokens === null ? "" : `; ${count(hit_tokens)} of ${count(lookup_tokens)} tokens${sizes}`;
    const note = hits_reported === "some" ? "; only some requests report hits" : "";
    return `${minute}; ${ratio(hit_rate_estimate)} in all${tokens}${note}`;
  }

  function missWords({ never_stored, cleared, other_tier, other_salt, unknown }) {
    const causes = [["never stored", never_stored], ...Object.entries(other_tier).map(([tier, share]) => [`in ${tier}`, share]), ["under another salt", other_salt], ["cleared", cleared], ["unknown", unknown]];
    return causes.filter(([, share]) => share > 0).map(([cause, share]) => `${percent(share)} ${cause}`).join(", ") || "nothing else was missed";
  }

  function drawTiles(summary) {
    const { recent, premature, misses } = summary;
    const minute = `last ${Math.round(recent.seconds)} s`;
    const tiles = [
      ["Hit ratio", ratio(recent.hit_ratio), hitRatioWords(summary, minute)],
      ["Blocks live", count(summary.blocks_live), capacityWords(summary)],
      ["Evictions a second", count(recent.eviction_rate), recent.never_reused_ratio === null ? minute : `${percent(recent.never_reused_ratio)} of them never reused`],
      ["Lifetime, median", recent.lifetime.count ? seconds(recent.lifetime.p50) : "–", `p99 ${recent.lifetime.count ? seconds(recent.lifetime.p99) : "–"}`],
      ["Premature evictions", premature.count ? percent(premature.share) : "–", premature.count ? `${count(premature.extra_blocks_p50)} more blocks keep half` : "none seen"],
      ["Misses of evicted content", percent(misses?.evicted ?? null), misses ? missWords(misses) : "no content is known to be missed"],
      ["Working set", count(summary.working_set.blocks[2]), "blocks used in 60 windows"],
    ];
    get("tiles").replaceChildren(...tiles.map(([name, value, more]) => {
      const [tile, dd] = [element("div"), element("dd", value)];
      dd.append(element("small", more));
      tile.append(element("dt", name), dd);
      return tile;
    }));
  }

  function drawAccounts({ accounts, timestamp }) {
    const rows = Object.entries(accounts).filter(([name]) => name !== "dropped").map(([name, n]) => [name, count(n)]);
    rows.push(...Object.entries(accounts.dropped).map(([reason, n]) => [`dropped: ${reason}`, count(n)]));
    if (timestamp) {
      const ago = Date.now() / 1000 - timestamp;
      rows.unshift(["last event", `${dated(timestamp)}, ${ago >= 1 ? `${seconds(Math.round(ago))} ago` : "now"}`]);
    }
    fill(get("accounts"), [["what", false, ([name]) => name.replaceAll("_", " ")], ["count", true, ([, text]) => text]], rows);
  }

  function drawLabels({ labels }) {
    const rows = Object.entries(labels).flatMap(([name, values]) => values.map((usage) => ({ name, ...usage })));
    get("labels-empty").hidden = rows.length > 0;
    get("labels").hidden = rows.length === 0;
    fill(get("labels"), [
      ["label", false, (o) => `${o.name}: ${o.value ?? "none"}`], ["blocks", true, (o) => count(o.blocks_live)],
      ["of room", true, (o) => percent(o.residency_share)], ["of hits", true, (o) => percent(o.hit_share)],
      ["hit ratio", true, (o) => ratio(o.hit_ratio)], ["premature", true, (o) => count(o.premature)],
    ], rows);
  }

  function drawBlocks() {
    get("map-empty").hidden = get("hot-empty").hidden = blocks !== null;
    get("map").hidden = get("hot").hidden = blocks === null;
    if (!blocks) return;
    kvCharts.blockMap(get("map"), blocks.map);
    fill(get("hot"), [
      ["block", false, (b) => b.block_id], ["accesses", true, (b) => count(b.accesses)],
      ["held", true, (b) => seconds(b.held_seconds)], ["idle", true, (b) => seconds(b.idle_seconds)],
    ], blocks.hottest);
  }

  function drawAlerts() {
    const least = rank(get("level").value);
    const chosen = alerts.filter((alert) => rank(alert.level) >= least && ofPlace(alert));
    const missed = alertsMissed ? `, ${count(alertsMissed)} missed while away` : "";
    get("alert-count").textContent = newestAlert
      ? `showing ${count(Math.min(chosen.length, ALERTS_SHOWN))} of ${count(newestAlert)}${missed}`
      : "No alert yet.";
    // Only what has changed is drawn, so that no button goes away between two halves of a click.
    const firing = new Map((state?.summary.alerts ?? []).map((alert) => [alert.fingerprint, alert]));
    const rows = chosen.slice(0, ALERTS_SHOWN).map((alert) => {
      const now = firing.get(alert.fingerprint);
      firing.delete(alert.fingerprint); // so that only the newest row of an alert has buttons
      return [alert, alert.state === "firing" && now?.incident === alert.incident ? now : null];
    });
    const drawn = JSON.stringify(rows);
    if (drawn === alertsDrawn) return;
    alertsDrawn = drawn;
    const focused = document.activeElement?.dataset.act;
    get("alerts").tBodies[0].replaceChildren(...rows.map(([alert, now]) => {
      const row = element("tr", null, { class: `${alert.state} ${alert.level}` });
      const cells = [dated(alert.timestamp), alert.state, alert.level, alert.rule, `${alert.source} / ${alert.tier}`];
      row.append(...cells.map((text) => element("td", text)), element("td", alert.message + (alert.hint ? `. Try: ${alert.hint}` : "")));
      row.append(actions(now));
      return row;
    }));
    if (focused) [...get("alerts").querySelectorAll("button")].find((b) => b.dataset.act === focused)?.focus();
  }

  /* What can be done about an alert that fires; nothing about one that is over. */
  function actions(alert) {
    const cell = element("td");
    if (!alert) return cell;
    if (alert.silenced_by) {
      cell.append(element("span", `silenced: ${alert.silenced_by}`));
      return cell;
    }
    const where = `${alert.rule} of ${alert.source} / ${alert.tier}`;
    const button = (name, act, done) => {
      const made = element("button", name, {
        type: "button", "data-act": `${name} ${alert.fingerprint}`, "aria-label": shown(`${name}: ${where}`),
      });
      made.onclick = async () => {
        made.disabled = true;
        const wrong = await act();
        get("alert-done").textContent = shown(wrong ? `${where}: ${wrong}` : `${where} ${done}`);
        made.disabled = false;
      };
      return made;
    };
    cell.append(
      button("Silence 1 h", () => posted("api/silences", {
        rule: exactly(alert.rule), source: exactly(alert.source), tier: exactly(alert.tier),
        duration_seconds: 3600, reason: "silenced on the page",
      }), "is silenced for an hour"),
      button("Acknowledge", () => posted(`api/alerts/${encodeURIComponent(alert.fingerprint)}/acknowledge`, {}),
        "is acknowledged until it is over"),
    );
    return cell;
  }

  /* The pattern that fits a name and nothing else. */
  const exactly = (name) => name.replace(/[*?[]/g, "[$&]");

  /* Posts JSON; returns what is wrong, if anything is. */
  async function posted(path, body) {
    try {
      const answer = await fetch(path, {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      });
      if (answer.ok) return "";
      const text = await answer.text();
      try {
        return JSON.parse(text).error;
      } catch {
        return text || `the server answers ${answer.status}`;
      }
    } catch {
      return "no connection; try again";
    }
  }

  // Choices

  function choose(theme) {
    const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    draw();
  }

  get("theme").value = localStorage.getItem("kvstream-theme") ?? "";
  choose(get("theme").value);
  get("theme").onchange = (event) => {
    localStorage.setItem("kvstream-theme", event.target.value);
    choose(event.target.value);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => choose(get("theme").value));
  get("level").onchange = draw;
  get("place").onchange = (event) => go(event.target.value);

  function go(chosen) {
    place = get("place").value = chosen;
    globalThis.history.replaceState(null, "", place ? `?${new URLSearchParams({ place })}` : location.pathname);
    start();
  }

  document.addEventListener("visibilitychange", slowly);
  setInterval(slowly, SLOWLY_MS);
  setInterval(drawConnection, 1000);
  start();
})();
