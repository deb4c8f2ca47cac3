"use strict";

/* The page: which cache and time is looked at, the verdict, and keys. */
const kvApp = (() => {
  const { unknown, count, compact, ratio, seconds, age, clock, at, zone, dated, sentence, element, say, icon } = kvFormat;
  const stream = kvStream;
  const { model, keyOf, cacheOf, isChosen } = stream;
  const { WORDS, rank, title, parted, label, lastPast, inPast, choice } = kvIncidents;
  const get = (id) => document.getElementById(id);
  const RANGES = { "5m": ["5 m", 300], "15m": ["15 m", 900], "1h": ["1 h", 3600], "6h": ["6 h", 21_600], all: ["All", null] };
  const MARKS_SHOWN = 5;
  let range = "15m", zoomed = null, utc = false, frame = 0, isFree = true, keysAreOn = true;

  // What is chosen, and the address that says so

  function read() {
    const query = new URLSearchParams(location.search);
    range = RANGES[query.get("range")] ? query.get("range") : "15m";
    const [from, to] = [Number(query.get("from")), Number(query.get("to"))];
    zoomed = from > 0 && to > from ? { from, to } : null;
    utc = (query.get("tz") ?? localStorage.getItem("kvstream-tz")) === "utc";
    kvFormat.showUtc(utc);
    kvFleet.choose({ sort: query.get("sort") ?? "", reversed: query.get("order") === "reversed", filter: query.get("q") ?? "" });
    const named = query.get("cache");
    isFree = named === null && !query.has("fleet");
    return named ? cacheOf(named) : null;
  }

  function link(cache) {
    const { sort, reversed, filter } = kvFleet.chosen();
    const query = new URLSearchParams();
    if (cache) query.set("cache", keyOf(cache));
    else if (model.state?.caches.length === 1) query.set("fleet", "");
    if (range !== "15m") query.set("range", range);
    if (zoomed) { query.set("from", zoomed.from.toFixed(1)); query.set("to", zoomed.to.toFixed(1)); }
    if (utc) query.set("tz", "utc");
    if (sort) query.set("sort", sort);
    if (reversed) query.set("order", "reversed");
    if (filter) query.set("q", filter);
    return `?${query}`;
  }

  function open(cache, replace = false) {
    history[replace ? "replaceState" : "pushState"](null, "", link(cache));
    stream.choose(cache ? { source: cache.source, tier: cache.tier } : null);
    if (!replace) { scrollTo(0, 0); get("main").focus({ preventScroll: true }); }
    draw();
  }

  const remember = () => { history.replaceState(null, "", link(model.cache)); draw(); };

  addEventListener("popstate", () => { const cache = read(); buttons(); stream.choose(cache); draw(); });

  // Links to caches stay on the page
  document.addEventListener("click", (event) => {
    const anchor = event.target.closest("a[href^='?']");
    if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const named = new URLSearchParams(anchor.getAttribute("href")).get("cache");
    open(named ? cacheOf(named) : null);
  });

  /* The time that charts show. */
  function view() {
    const now = stream.now();
    const length = RANGES[range][1];
    const past = stream.historySince(zoomed?.from ?? (length ? now - length : -Infinity));
    const span = length ?? Math.max(60, now - (past?.ts[0] ?? now));
    const shown = zoomed ?? { from: now - span, to: now + span * 0.012 };
    return {
      ...shown, history: past, now: now <= shown.to ? now : null, utc, bands: kvIncidents.bands(), marks: past?.marks ?? [],
      onZoom: (from, to) => look({ from, to: Math.max(to, from + 2) }),
      onReset: () => look(null),
    };
  }

  // The verdict: the worst that is so, and never more than the newest figures can carry

  /* Says what is so, as {kind, words, why, since, incident}. */
  function verdict() {
    const { state } = model;
    if (stream.isGone()) return gone();
    if (!state) return {
      kind: "wait", words: "Asking the server for its history", why: `${age(stream.unheard())} so far. Figures appear when the first answer is here.`, asof: location.origin,
    };
    const { summary, caches } = state;
    const isOne = model.cache || caches.length < 2;
    const described = () => (isOne ? story : fleet)(worst, incidents);
    if (model.cache && caches.length && !caches.some(isChosen)) return {
      kind: "wait", words: `There is no cache ${label(model.cache)}`, why: ["It may have been forgotten after a time without events. ", element("a", "See the others", { href: "?" })],
    };
    if (!summary.accounts.processed && !state.incidents.length) return waiting();
    const incidents = state.incidents.filter((each) => !each.is_silenced && !kvIncidents.isNormal(each.rule));
    if (caches.length && stream.isAllSilent()) return silent();
    const worst = incidents[0];
    if (worst && rank(worst.level) > 0) return described();
    const wrong = incidents.find((each) => each.rule === "capacity_exceeded");
    if (wrong) return {
      kind: "warning", words: parted(wrong.message)[0].length < 60 && !wrong.message.includes("times as many") ? parted(wrong.message)[0] : `Capacity is set too low${wrong.cache_count > 1 ? ` for ${wrong.cache_count} caches` : `: ${count(summary.blocks_live)} blocks live, ${count(summary.capacity)} given`}`,
      why: "Occupancy and what more memory would buy are off until it is right. Everything else is correct.", since: sinceOf(wrong), hint: wrong.hint,
    };
    const poor = caches.filter(isChosen).filter((cache) => cache.concern);
    if (poor.length) return {
      kind: "info", words: isOne ? `No incident, but ${poor[0].concern.split(":")[0]}` : `No incident, but ${poor.length} of ${caches.length} caches do poorly`,
      why: isOne ? "It may always have been so: no rule that compares with the past fires." : [named(poor.sort(kvFleet.byWorst)[0]), `: ${poor[0].concern}. It may always have been so.`],
    };
    if (worst) return described();
    return steady();
  }

  const named = (cache) => element("a", label(cache), { href: link(cache) });
  const sinceOf = (incident) => `${WORDS[incident.level]} for ${seconds(Math.max(0, stream.now() - incident.started_at))}, since ${at(incident.started_at, stream.now())} ${zone(incident.started_at)}`;

  function gone() {
    const { state } = model;
    const words = state ? `No answer from kvstream for ${seconds(Math.floor(stream.unheard()))}` : `No answer from kvstream at ${location.host}`;
    const button = element("button", "Try now", { type: "button", class: "btn small" });
    button.onclick = () => stream.start();
    const bad = state?.caches.filter(kvFleet.bad) ?? [];
    return {
      kind: "gone", words, why: ["This page cannot tell how the caches are. It tries again every few seconds. ", button],
      asof: state ? `Last figures ${dated(figuresAt())} ${zone(figuresAt())}. Then: ${bad.length ? `${bad.length} of ${state.caches.length} caches needed attention` : "no incident was open"}.` : "",
    };
  }

  const figuresAt = () => model.state.now;

  function waiting() {
    const where = model.state.listening ?? [];
    return { kind: "wait", words: "Waiting for the first event", why: where.length ? `Listening at ${where.join(", ")}. No event has come yet.` : "The stream is open. No event has come yet.", asof: "This page fills by itself." };
  }

  function silent() {
    const { caches } = model.state;
    const quiet = stream.age();
    const many = caches.length > 1 && !model.cache;
    return {
      kind: "silent", words: `No events for ${age(quiet)}${many ? ` from any of ${count(caches.length)} caches` : ""}`,
      why: "The connection to kvstream is up; the engines send nothing. Check that they run and get requests, then the network between.",
      asof: `Last event ${dated(stream.now() - quiet)} ${zone(stream.now())} · what stands below is the state at that time`,
    };
  }

  function fleet(worst, incidents) {
    const { caches } = model.state;
    const counted = Object.fromEntries(["critical", "warning"].map((kind) => [kind, caches.filter((cache) => kvFleet.severity(cache) === kind).length]));
    const first = worst.caches[0];
    const [what, why] = parted(worst.message);
    const more = incidents.slice(1).filter((each) => rank(each.level) > 0);
    const need = counted.warning ? `, ${count(counted.warning)} need${counted.warning === 1 ? "s" : ""} attention` : "";
    let words;
    if (counted.critical) words = `${count(counted.critical)} of ${count(caches.length)} caches ${counted.critical === 1 ? "is" : "are"} critical${need}`;
    else if (worst.cache_count > 1) words = `${count(worst.cache_count)} of ${count(caches.length)} caches: ${title(worst.rule).toLowerCase()}`;
    else if (counted.warning > 1) words = `${count(counted.warning)} of ${count(caches.length)} caches need attention`;
    else words = what;
    const known = caches.some((cache) => keyOf(cache) === keyOf(first));
    return {
      kind: worst.level, words, since: sinceOf(worst),
      why: [known ? named(first) : label(first), `: ${what}${why ? `. ${why}` : ""}.${more.length ? ` ${more.length} more open incident${more.length > 1 ? "s" : ""}.` : ""}`],
      hint: worst.hint,
    };
  }

  function story(worst, incidents) {
    const [what, why] = parted(worst.message);
    return { kind: worst.level, words: what, why: why ? `${why}.` : "", since: sinceOf(worst), incident: worst, also: incidents.slice(1) };
  }

  function steady() {
    const { summary, caches } = model.state;
    const many = caches.length > 1 && !model.cache;
    const last = lastPast();
    const quiet = caches.filter(isChosen).filter(stream.isSilent).length;
    if (quiet) return {
      kind: "info", words: `${count(quiet)} of ${count(caches.length)} caches send no events`,
      why: "Nobody may be asking these engines. If somebody is, check that they run, then the network between. No incident is open.",
    };
    const notes = [];
    if (summary.hit_rate_estimate === null) notes.push("hits are not reported");
    if (caches.filter(isChosen).some((cache) => !cache.capacity)) notes.push("capacity unknown");
    const since = last?.ended_at ?? model.history?.ts[0];
    return {
      kind: "steady", words: notes.length ? `No incident; ${notes[0]}` : many ? `${count(caches.length)} caches steady` : "Steady",
      why: notes[0] === "hits are not reported" ? "Hit ratio and reuse are unknown, not zero: the engine sends no hits. The page on engines in the documentation says how to get them."
        : notes.length ? "Occupancy and what more memory would buy need the number of blocks: give it with --capacity. vLLM prints it at start as num_gpu_blocks."
          : last ? `No incident is open. ${inPast(last)}` : "No rule fires, and nothing is bad in absolute terms.",
      since: since ? `Steady for ${seconds(Math.max(0, stream.now() - since))}` : "",
    };
  }

  function asOf(kind) {
    const { state } = model;
    if (!state || kind === "gone") return "";
    const ages = state.caches.filter((cache) => !stream.isSilent(cache)).length;
    const old = stream.age();
    return [`Figures as of ${at(figuresAt(), stream.now())} ${zone(figuresAt())}`, old === null ? "" : `last event ${age(old)} ago`,
      !model.cache && state.caches.length > 1 ? `${count(ages)} of ${count(state.caches.length)} caches reporting` : ""].filter(Boolean).join(" · ");
  }

  function drawVerdict(said) {
    const box = get("verdict");
    box.className = `card verdict ${said.kind}${box.classList.contains("wide") ? " wide" : ""}`;
    const head = get("headline");
    if (head.dataset.kind !== said.kind) {
      head.dataset.kind = said.kind;
      head.replaceChildren(icon(said.kind), element("span", null, {}, element("span", WORDS[said.kind] ? `${WORDS[said.kind]}: ` : "", { class: "sr" }), element("span")));
    }
    say(head.lastChild.lastChild, said.words);
    text("since", said.since ?? "");
    text("why", said.why ?? "");
    text("asof", said.asof ?? asOf(said.kind));
    const { incident } = said;
    const hint = incident?.hint ?? said.hint ?? "";
    get("lead").hidden = !incident && !hint;
    const evidence = (incident?.evidence ?? []).filter((line) => sentence(line) !== String(said.why).replace(/\.$/, ""));
    get("evidence").parentElement.hidden = !evidence.length;
    if (get("evidence").dataset.key !== JSON.stringify(evidence)) {
      get("evidence").dataset.key = JSON.stringify(evidence);
      get("evidence").replaceChildren(...evidence.slice(0, 6).map((line) => element("li", null, {}, element("span", sentence(line)))));
    }
    say(get("try"), sentence(hint));
    get("try").previousElementSibling.hidden = !hint;
    say(get("cost"), incident ? cost(incident) : "");
    const also = said.also ?? [];
    get("also").hidden = !also.length;
    if (also.length) say(get("also"), `Also open: ${also.map((each) => `${title(each.rule)}, ${seconds(Math.max(0, stream.now() - each.started_at))}`).join(" · ")}`);
    const bad = model.state?.caches.filter((cache) => kvFleet.severity(cache) === "critical").length ?? 0;
    const name = model.cache ? label(model.cache) : "";
    const states = { gone: "✕ No connection", silent: "No events", wait: "Waiting" };
    document.title = kvFormat.shown([states[said.kind] ?? (bad ? `${bad} critical` : WORDS[said.kind]), name, "kvstream"].filter(Boolean).join(" · "));
  }

  /* What an incident has cost: blocks that were evicted and computed again since it began. */
  function cost(incident) {
    const { state } = model;
    const h = stream.historySince(incident.started_at);
    if (!h) return "";
    const start = h.ts.findIndex((ts) => ts >= incident.started_at - h.window_seconds);
    if (start < 0) return "";
    let blocks = 0;
    for (let i = start; i < h.ts.length; i += 1) blocks += (h.premature_rate[i] ?? 0) * h.window_seconds;
    const { block_tokens: tokens, recent } = state.summary;
    const now = recent.premature_rate * (tokens ?? 1);
    return blocks >= 1 && !unknown(recent.premature_rate) ? `Cost so far: ${compact(Math.round(blocks * (tokens ?? 1)))} ${tokens ? "tokens" : "blocks"} computed again, ${compact(Math.round(now))} a second now` : "";
  }

  function text(id, words) {
    const node = get(id);
    const parts = Array.isArray(words) ? words : [words];
    const key = JSON.stringify(parts.map((part) => (typeof part === "string" ? part : [part.textContent, part.getAttribute("href")])));
    node.hidden = parts.every((part) => part === "");
    if (node.dataset.key === key) return;
    node.dataset.key = key;
    node.replaceChildren(...parts.map((part) => (typeof part === "string" ? kvFormat.shown(part) : part)));
  }

  // What else stands on the page

  function drawConnection(said) {
    const words = { gone: "No connection", wait: model.state ? "Listening" : "Connecting", silent: "Silent" }[said.kind] ?? "Live";
    const kind = { gone: "gone", wait: "wait", silent: "silent" }[said.kind] ?? "steady";
    const [bold, dim] = get("connection").children;
    if (bold.dataset.kind !== kind + words) {
      bold.dataset.kind = kind + words;
      bold.className = `t-${kind}`;
      bold.replaceChildren(icon(kind), words);
    }
    const old = stream.age();
    say(dim, said.kind === "gone" ? `for ${seconds(Math.floor(stream.unheard()))}` : old === null || said.kind === "wait" ? "" : `last event ${age(old)} ago`);
  }

  function drawCrumbs() {
    const crumbs = get("crumbs");
    const { cache } = model;
    const caches = model.state?.caches ?? [];
    const order = cache ? kvFleet.inOrder() : [];
    const here = order.findIndex(isChosen);
    const beside = cache && order.length > 1 ? [order[(here - 1 + order.length) % order.length], order[(here + 1) % order.length]] : [];
    const key = JSON.stringify([cache, caches.length > 1, beside.map(keyOf), location.search]);
    if (crumbs.dataset.key === key) return;
    crumbs.dataset.key = key;
    const focused = crumbs.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    crumbs.replaceChildren(...(cache
      ? [
        ...(caches.length > 1 ? [element("a", "Fleet", { href: link(null) }), element("span", "›", { class: "dim", "aria-hidden": "true" })] : []),
        element("b", label(cache)),
        ...(beside.length ? [element("span", null, { class: "step" },
          element("a", "‹", { class: "btn small", href: link(beside[0]), "aria-label": "Previous cache" }), element("a", "›", { class: "btn small", href: link(beside[1]), "aria-label": "Next cache" }))] : []),
      ] : [element("b", caches.length > 1 ? "Fleet" : "")]));
    if (focused) crumbs.querySelector(`[aria-label="${focused}"]`)?.focus();
  }

  const SNIPPETS = [
    ["vLLM on this host: every allocation, hit and eviction", (where) => `KVSTREAM_ENDPOINT=${where} vllm serve MODEL --kv-cache-metrics`],
    ["vLLM or SGLang elsewhere: it publishes, kvstream reads", () => `kvstream serve --from 'zmq://HOST:5557' --http ${location.host}`],
    ["No engine at hand: two simulated ones", () => "kvstream demo"],
  ];

  function drawStart(isShown) {
    const box = get("start");
    box.hidden = !isShown;
    if (!isShown || box.children.length) return;
    const where = (model.state.listening ?? []).find((each) => /^(unix:|tcp:|tls:)/.test(each)) ?? "unix:/run/kvstream.sock";
    for (const [words, line] of SNIPPETS) {
      const button = element("button", "Copy", { type: "button", class: "btn small", "aria-label": `Copy: ${words}` });
      button.onclick = async () => {
        try {
          await navigator.clipboard.writeText(line(where));
          say(button, "Copied");
        } catch {
          say(button, "Select it");
        }
      };
      box.append(element("h2", words, { class: "mini" }), element("div", null, { class: "snippet" }, element("code", line(where)), button));
    }
  }

  const NAMES = { offered: "Events received", processed: "Events processed", in_flight: "Events in queues", live: "Blocks in the cache" };

  function drawAccounts() {
    const { problem_counts: problems, summary: { accounts } } = model.state;
    const dropped = Object.values(accounts.dropped ?? {}).reduce((a, b) => a + b, 0);
    const lost = dropped + (accounts.malformed ?? 0) + (accounts.lost_frames ?? 0);
    const line = get("accounts-line");
    const words = lost
      ? `${count(lost)} events or frames lost`
      : "Nothing lost";
    if (line.dataset.kind !== String(lost > 0)) {
      line.dataset.kind = String(lost > 0);
      line.replaceChildren(icon(lost ? "warning" : "steady"), element("b", null, { class: lost ? "t-warning" : "" }), element("span", null, { class: "dim" }), element("span", "Show the accounts", { class: "push w" }));
    }
    say(line.children[1], words);
    const received = accounts.offered || accounts.processed;
    say(line.children[2], `${count(received)} events received, ${accounts.in_flight ? `${count(accounts.processed)} processed, ${count(accounts.in_flight)} on their way` : lost ? `${count(accounts.processed)} processed` : "all processed"}`);
    const rows = Object.entries(accounts).filter(([name, value]) => typeof value === "number" && (value || NAMES[name]) && (value || !model.cache))
      .map(([name, value]) => [NAMES[name] ?? sentence(name.replaceAll("_", " ")), value, problems.includes(name)]);
    rows.push(...Object.entries(accounts.dropped ?? {}).map(([reason, value]) => [`Dropped: ${reason.replaceAll("_", " ")}`, value, true]));
    const list = get("accounts");
    const key = rows.map(([name]) => name).join("\n");
    if (list.dataset.key !== key) {
      list.dataset.key = key;
      list.replaceChildren(...rows.map(([name]) => element("div", null, {}, element("dt", name), element("dd"))));
    }
    rows.forEach(([, value, isProblem], i) => {
      const [, node] = list.children[i].children;
      say(node, count(value));
      node.className = isProblem && value ? "t-warning" : "";
    });
  }

  function drawFindings() {
    const { verdict: sentences } = model.state;
    get("findings-card").hidden = !sentences.length;
    const list = get("findings");
    if (list.dataset.key === sentences.join("\n")) return;
    list.dataset.key = sentences.join("\n");
    list.replaceChildren(...sentences.map((each) => element("li", each)));
  }

  // Drawing, once a frame at most

  function draw() {
    frame ||= requestAnimationFrame(() => { frame = 0; drawNow(); });
  }

  function drawMarks({ from, to, marks }) {
    const noted = marks.filter(({ timestamp }) => timestamp >= from && timestamp <= to);
    get("marks").hidden = !noted.length;
    say(get("marks"), `Marks: ${noted.slice(-MARKS_SHOWN).map(({ timestamp, text }) => `${clock(timestamp)} ${text}`).join(" · ")}`);
  }

  function drawNow() {
    const { state } = model;
    if (state && isFree && !model.cache && state.caches.length === 1) {
      isFree = false;
      return open(state.caches[0], true); // the only cache there is
    }
    const said = verdict();
    const isOld = said.kind === "gone" || said.kind === "silent";
    document.body.classList.toggle("old", isOld);
    const isEmpty = !state || (model.cache && !state.caches.some(isChosen)) || (!state.summary.accounts.processed && !state.caches.length);
    get("fleet").hidden = isEmpty || Boolean(model.cache);
    get("map-box").hidden = isEmpty || Boolean(model.cache) || state.caches.length < 2;
    get("cache").hidden = isEmpty || !model.cache;
    for (const id of ["incidents", "accounts-card", "findings-card"]) get(id).hidden = isEmpty && !(id === "incidents" && state?.incidents.length);
    if (isEmpty) get("labels-card").hidden = true;
    const incidents = get("incidents"), below = get("cache");
    const wanted = model.cache ? below.nextElementSibling : get("fleet");
    if (model.cache ? incidents.previousElementSibling !== below : incidents.nextElementSibling !== get("fleet")) get("main").insertBefore(incidents, wanted);
    drawVerdict(said);
    drawConnection(said);
    drawCrumbs();
    drawStart(said.kind === "wait" && state?.caches.length === 0);
    if (!state) return;
    kvIncidents.draw();
    if (isEmpty) return;
    const shown = view();
    drawMarks(shown);
    if (model.cache) kvCache.draw(shown, isOld, `at ${clock(figuresAt() - (stream.age() ?? 0))}`);
    else kvFleet.draw(shown, isOld);
    kvCache.drawLabels();
    drawFindings();
    drawAccounts();
    get("live").hidden = !zoomed;
  }

  // Choices

  function theme() {
    const chosenTheme = localStorage.getItem("kvstream-theme") ?? "";
    if (chosenTheme) document.documentElement.dataset.theme = chosenTheme;
    else delete document.documentElement.dataset.theme;
    say(get("theme"), { "": "Auto", light: "Light", dark: "Dark" }[chosenTheme]);
    get("theme").setAttribute("aria-label", `Theme: ${{ "": "automatic", light: "light", dark: "dark" }[chosenTheme]}`);
    kvCharts.forgetColours();
    draw();
  }

  get("theme").onclick = () => {
    const next = { "": "light", light: "dark", dark: "" }[localStorage.getItem("kvstream-theme") ?? ""];
    localStorage.setItem("kvstream-theme", next);
    theme();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);

  function setRange(name) {
    range = name;
    buttons();
    look(null);
  }

  /* Shows a time, {from, to}, or the range that ends now. */
  function look(at) {
    zoomed = at;
    stream.forgetPast();
    remember();
  }

  function setZone(isUtc) {
    utc = isUtc;
    kvFormat.showUtc(utc);
    localStorage.setItem("kvstream-tz", utc ? "utc" : "local");
    buttons();
    remember();
  }

  function buttons() {
    choice(get("ranges"), Object.entries(RANGES).map(([name, [words]]) => [name, words]), range, setRange);
    choice(get("zones"), [[false, "Local"], [true, "UTC"]], utc, setZone);
  }

  get("live").onclick = () => look(null);
  kvFleet.onChange(() => remember());
  kvIncidents.onChange(draw);
  stream.onChange(draw);

  // Keys

  const KEYS = [
    ["/", "Filter caches"], ["j k", "Next and previous row"], ["Enter", "Open"], ["[ ]", "Previous and next cache"], ["u", "Fleet"],
    ["1 to 5", "Time range"], ["t", "Local time or UTC"], ["← → + − 0", "In a focused chart: cursor, zoom, back to live"], ["?", "This list"], ["Esc", "Close, clear"],
  ];

  function help() {
    const dialog = get("help");
    const keep = element("label", null, {}, element("input", null, { type: "checkbox", id: "keys-on" }), " Single keys are on");
    keep.firstChild.checked = keysAreOn;
    keep.firstChild.onchange = (event) => { keysAreOn = event.target.checked; };
    const close = element("button", "Close", { type: "button", class: "btn" });
    close.onclick = () => dialog.close();
    dialog.replaceChildren(element("h2", "Keys", { id: "help-title" }),
      element("dl", null, { class: "keys" }, ...KEYS.flatMap(([key, words]) => [element("dt", null, {}, element("kbd", key)), element("dd", words)])), element("p", null, {}, keep), close);
    dialog.showModal();
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, dialog") || (!keysAreOn && event.key !== "?")) return;
    const steps = [...get("crumbs").querySelectorAll(".step a")];
    const acts = {
      "/": () => get("filter").focus(), j: () => kvFleet.move(1), k: () => kvFleet.move(-1), u: () => open(null), t: () => setZone(!utc),
      "[": () => steps[0]?.click(), "]": () => steps[1]?.click(), "?": help,
    };
    const ranges = Object.keys(RANGES);
    const act = acts[event.key] ?? (ranges[Number(event.key) - 1] ? () => setRange(ranges[Number(event.key) - 1]) : null);
    if (!act) return;
    event.preventDefault();
    act();
  });

  function begin() {
    const cache = read();
    buttons();
    theme();
    stream.choose(cache);
    setInterval(draw, 1000);
  }

  // Once all scripts are there, as other parts link to caches by this one.
  queueMicrotask(begin);
  return { link, open };
})();
