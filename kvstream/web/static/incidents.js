"use strict";

/* Incidents: those that are open, a row each, and past ones apart. */
const kvIncidents = (() => {
  const { count, seconds, at, sentence, shown, element, say, icon, svg, ratio } = kvFormat;
  const { model, keyOf, isChosen, now, posted } = kvStream;
  const get = (id) => document.getElementById(id);
  const LEVELS = ["info", "warning", "critical"];
  const WORDS = { critical: "Critical", warning: "Warning", info: "Info", steady: "Steady", silent: "Silent" };
  const FEW = 8;
  const TITLES = {
    hit_ratio_drop: "Hit ratio fell", lifetime_drop: "Blocks are evicted early", premature_evictions: "Evictions are premature",
    no_hits: "No prefix is found", engine_stalled: "No events", source_restarted: "The cache was lost", lost_frames: "Events were lost",
    clock_step: "The clock went back", capacity_exceeded: "Capacity is set too low", occupancy_high: "The cache is full",
    limit_reached: "Events are refused", frames_repeated: "Frames are repeated", frames_stale: "Frames of an earlier run",
    frames_conflicting: "Two producers under one name", input_not_connected: "Not connected", shared_topic: "Several publishers under one topic",
    engine_drift: "Events and engine metrics differ",
  };
  const drawn = new Map(); // key: row
  let which = "open", minimum = "info", limit = FEW, changed = () => {};

  const rank = (level) => LEVELS.indexOf(level);
  const title = (rule) => TITLES[rule] ?? sentence(rule.replaceAll("_", " "));

  /* What a message says first, and the rest; times are shown by the row, with a zone. */
  function parted(message) {
    const text = message.replace(/ \(since \d\d:\d\d:\d\d( UTC)?\)| since \d\d:\d\d:\d\d( UTC)?/g, "");
    const [, first, rest = ""] = /^(.*?)(?:(?:: |; )(.*))?$/s.exec(text) ?? [null, text];
    return [sentence(first), sentence(rest)];
  }

  /* A full cache is what a prefix cache is for: no reason to look. */
  const isNormal = (rule) => rule === "occupancy_high";

  const label = ({ source, tier }) => (tier ? `${source} · ${tier}` : source);

  function commonPrefix(names) {
    let end = 0;
    while (end < names[0].length && names.every((name) => name[end] === names[0][end])) end += 1;
    return names[0].slice(0, end);
  }

  /* Whom an incident concerns, in words and a line below. */
  function who(incident) {
    const { caches, cache_count: n } = incident;
    if (n === 1) return [label(caches[0]), ""];
    const prefix = commonPrefix(caches.map((cache) => cache.source));
    const total = model.state?.caches.length ?? n;
    return [`${n} of ${Math.max(n, total)} caches`, prefix.length > 2 ? `${prefix}…` : `${caches[0].source} and ${n - 1} more`];
  }

  const open = () => (model.state?.incidents ?? []);

  /* Incidents that are over, the newest first, as far as the server has kept them. */
  function past() {
    const reasons = new Map();
    for (const alert of model.alerts) if (alert.state === "firing" && !reasons.has(alert.incident)) reasons.set(alert.incident, alert);
    return model.alerts.filter((alert) => alert.state === "resolved" && isChosen(alert)).map((alert) => {
      const fired = reasons.get(alert.incident);
      return {
        rule: alert.rule, level: alert.level, message: fired?.message ?? title(alert.rule), started_at: alert.started_at, ended_at: alert.timestamp,
        hint: "", evidence: fired?.evidence ?? [], runbook: alert.runbook, cache_count: 1, caches: [alert],
        key: `past ${alert.incident || alert.fingerprint} ${alert.timestamp}`,
      };
    });
  }

  /* Until when what is open is known to go on. */
  const newest = () => (kvStream.isGone() ? model.state.now : now());

  /* When something was wrong, for charts, by the worst of each time; information only where a cache was lost. */
  function bands() {
    const worth = ({ level, rule }) => rank(level) > 0 || rule === "source_restarted";
    const ended = past().filter(worth).slice(0, 50).map((each) => ({ from: each.started_at, to: each.ended_at, level: each.level }));
    const going = open().filter((each) => worth(each) && !each.is_silenced).slice(0, 20).map((each) => ({ from: each.started_at, to: newest(), level: each.level }));
    const spans = [...ended, ...going].sort((a, b) => rank(b.level) - rank(a.level));
    const edges = [...new Set(spans.flatMap(({ from, to }) => [from, to]))].sort((a, b) => a - b);
    const parts = [];
    for (const [i, to] of edges.entries()) {
      const from = edges[i - 1], last = parts.at(-1);
      const level = spans.find((span) => span.from <= from && span.to >= to)?.level;
      if (level && last?.level === level && last.to === from) last.to = to;
      else if (level) parts.push({ from, to, level });
    }
    return parts;
  }

  function makeRow(incident) {
    const row = element("details", null, { class: "incident" });
    const parts = {};
    const cell = (name, ...more) => (parts[name] = element("span", null, { class: name }, ...more));
    parts.title = element("b");
    parts.why = element("span", null, { class: "sub" });
    parts.name = element("b");
    parts.names = element("span", null, { class: "sub" });
    parts.lasting = element("b");
    parts.since = element("span", null, { class: "sub" });
    parts.sev = element("span", WORDS[incident.level], { class: `sev t-${incident.level}` });
    parts.sev.prepend(icon(incident.level));
    row.append(element("summary", null, {},
      parts.sev, cell("who", parts.name, parts.names), cell("what", parts.title, parts.why), cell("duration", parts.lasting, parts.since),
      cell("ev"), cell("todo"), element("span", "›", { class: "chev", "aria-hidden": "true" })));
    row.kvParts = parts;
    row.kvUnfold = element("div", null, { class: "unfold" });
    row.append(row.kvUnfold);
    row.addEventListener("toggle", () => row.open && unfold(row));
    return row;
  }

  function update(row, incident) {
    const parts = row.kvParts;
    row.kvIncident = incident;
    row.classList.toggle("past", Boolean(incident.ended_at));
    const [name, names] = who(incident);
    const [first, rest] = parted(incident.message);
    say(parts.name, name);
    say(parts.names, incident.is_silenced ? "silenced" : names);
    say(parts.title, incident.cache_count > 1 ? title(incident.rule) : first);
    say(parts.why, incident.cache_count > 1 ? first : rest);
    say(parts.lasting, incident.ended_at ? `lasted ${seconds(incident.ended_at - incident.started_at)}` : seconds(Math.max(0, newest() - incident.started_at)));
    say(parts.since, `${incident.ended_at ? "from" : "since"} ${at(incident.started_at, now())}`);
    const signs = incident.evidence?.length ?? 0;
    say(parts.ev, signs ? `${signs} sign${signs > 1 ? "s" : ""}` : "");
    say(parts.todo, sentence(incident.hint ?? ""));
    if (row.open) unfold(row);
  }

  /* The caches of an incident, its evidence and what can be done; drawn anew only if it has changed. */
  function unfold(row) {
    const incident = row.kvIncident;
    const shape = JSON.stringify([incident.caches, incident.evidence, incident.hint]);
    if (row.kvShape === shape) return;
    row.kvShape = shape;
    const focused = row.kvUnfold.contains(document.activeElement) ? document.activeElement.dataset.act : null;
    const members = incident.caches.map((cache) => {
      const line = element("li");
      const known = model.state?.caches.find((each) => keyOf(each) === keyOf(cache));
      const values = model.sparks.get(keyOf(cache));
      line.append(known ? element("a", label(cache), { href: kvApp.link(cache) }) : element("span", label(cache)));
      if (values) line.append(spark(values));
      if (known) line.append(element("span", `hit ratio ${ratio(known.hit_ratio)}`));
      line.append(element("span", parted(cache.message)[0], { class: "message" }));
      if (!incident.ended_at) line.append(...actions(incident, cache));
      return line;
    });
    const more = incident.cache_count - incident.caches.length;
    row.kvUnfold.replaceChildren(
      ...(incident.evidence?.length ? [element("h3", "Evidence", { class: "mini" }), element("ul", null, { class: "evidence" }, ...incident.evidence.map((each) => element("li", null, {}, element("span", each))))] : []),
      ...(incident.hint ? [element("p", `Try: ${incident.hint}`)] : []),
      element("ul", null, { class: "members" }, ...members),
      ...(more > 0 ? [element("p", `and ${more} more caches`, { class: "dim" })] : []),
      ...(incident.runbook?.startsWith("https://") ? [element("p", null, {}, element("a", "Runbook", { href: incident.runbook, rel: "noreferrer" }))] : []),
    );
    if (focused) [...row.kvUnfold.querySelectorAll("button")].find((button) => button.dataset.act === focused)?.focus();
  }

  const spark = (values) => svg("svg", { class: "spark", viewBox: "0 0 96 22", "aria-hidden": "true" },
    svg("path", { d: kvCharts.sparkPath(values, 96, 22), class: "ln s-blue" }));

  /* What can be done about an incident that is open. */
  function actions(incident, cache) {
    if (cache.silenced_by) return [element("span", `silenced: ${cache.silenced_by}`, { class: "dim" })];
    const where = `${incident.rule} of ${cache.source} / ${cache.tier}`;
    const button = (name, act, done) => {
      const made = element("button", name, { type: "button", class: "btn small", "data-act": `${name} ${cache.fingerprint}`, "aria-label": shown(`${name}: ${where}`) });
      made.onclick = async () => {
        made.disabled = true;
        const wrong = await act();
        say(get("done"), wrong ? `${where}: ${wrong}` : `${where} ${done}`);
        get("done").classList.remove("sr");
        get("done").classList.add("none");
        made.disabled = false;
      };
      return made;
    };
    return [
      button("Silence 1 h", () => posted("api/silences", {
        rule: exactly(incident.rule), source: exactly(cache.source), tier: exactly(cache.tier), duration_seconds: 3600, reason: "silenced on the page",
      }), "is silenced for an hour"),
      button("Acknowledge", () => posted(`api/alerts/${encodeURIComponent(cache.fingerprint)}/acknowledge`, {}), "is acknowledged until it is over"),
    ];
  }

  /* The pattern that fits a name and nothing else. */
  const exactly = (name) => name.replace(/[*?[]/g, "[$&]");

  const lastOf = (ended) => ended.find((each) => rank(each.level) > 0);
  const lastPast = () => lastOf(past());
  const inPast = (last) => `Last one: ${parted(last.message)[0]}, ${label(last.caches[0])}, ${seconds(last.ended_at - last.started_at)}, resolved ${at(last.ended_at, now())}.`;

  function draw() {
    const opened = open().map((each) => ({ ...each, key: `open ${each.rule} ${each.level} ${each.is_silenced ? "silenced" : ""} ${keyOf(each.caches[0])} ${each.started_at}` }));
    const ended = past();
    const listed = (which === "open" ? opened : ended).filter((each) => rank(each.level) >= rank(minimum));
    const [openButton, pastButton] = get("which").children;
    say(openButton, `Open ${opened.length}`);
    say(pastButton, `Past ${ended.length}`);
    const rows = listed.slice(0, limit).map((incident) => {
      const row = drawn.get(incident.key) ?? makeRow(incident);
      drawn.set(incident.key, row);
      update(row, incident);
      return row;
    });
    const box = get("incident-rows");
    rows.forEach((row, i) => { if (box.children[i] !== row) box.insertBefore(row, box.children[i] ?? null); });
    while (box.children.length > rows.length) box.lastChild.remove();
    for (const [key, row] of drawn) if (!row.isConnected) drawn.delete(key);
    const last = lastOf(ended);
    const none = !listed.length && model.state;
    get("no-incident").hidden = !none;
    say(get("no-incident"), which === "past" ? "No past incident is kept." : last
      ? `No open incident. ${inPast(last)}`
      : "No open incident.");
    const rest = listed.length - rows.length;
    get("incident-foot").hidden = rest <= 0 && !model.missed;
    get("more-incidents").hidden = rest <= 0;
    say(get("missed"), model.missed ? `${count(model.missed)} alerts came faster than they could be sent here.` : "");
    say(get("more-incidents"), `Show ${Math.min(rest, 50)} more`);
  }

  const choice = (box, options, chosen, act) => box.replaceChildren(...options.map(([value, text]) => {
    const button = element("button", text, { type: "button", "aria-pressed": String(value === chosen) });
    button.onclick = () => {
      for (const each of box.children) each.setAttribute("aria-pressed", String(each === button));
      act(value);
    };
    return button;
  }));

  choice(get("which"), [["open", "Open"], ["past", "Past"]], which, (value) => { which = value; limit = FEW; changed(); });
  choice(get("minimum"), [["info", "Info"], ["warning", "Warning"], ["critical", "Critical"]], minimum, (value) => { minimum = value; changed(); });
  get("more-incidents").onclick = () => { limit += 50; changed(); };

  return { WORDS, rank, title, parted, isNormal, label, lastPast, inPast, bands, draw, choice, onChange: (act) => { changed = act; } };
})();
