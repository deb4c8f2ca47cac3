"use strict";

/* What the page knows: follows the events of a server, and keeps states, windows, alerts and sparklines. */
const kvStream = (() => {
  const GONE_MS = 5000, ALERTS_KEPT = 1000, WINDOWS_ASKED = 21_600, STEPS = 60, RETRY_MS = 2000, NEWEST = 10;
  const HOUR = 3660, OLDEST = 31_536_000, PAST_MS = 5000, PAST_OF_MANY_MS = 20_000, NO_PAST_MS = 60_000;
  const model = {
    cache: null, // the chosen source and tier, or null for all
    state: null, history: null, past: null, alerts: [], missed: 0,
    sparks: new Map(), blocks: null,
    beganAt: performance.now(), heardAt: 0, stateAt: 0, // of this page's clock, ms
    usualPause: 0,
  };
  let events = null, boot = "", changed = () => {}, retry = 0, asked = 0, spark = null, isRefilling = false;

  // Names of caches

  const escaped = (tier) => tier.replaceAll("%", "%25").replaceAll("/", "%2F");

  /* A source and tier as one text, which can be read back. */
  const keyOf = (cache) => cache.key ?? `${cache.source}/${escaped(cache.tier)}`;

  function cacheOf(key) {
    const at = key.lastIndexOf("/");
    if (at < 1) return null;
    try {
      return { source: key.slice(0, at), tier: decodeURIComponent(key.slice(at + 1)) };
    } catch {
      return null;
    }
  }

  const query = (more = {}) => {
    const { source, tier } = model.cache ?? { source: "", tier: "" };
    return `?${new URLSearchParams({ source, tier, ...more })}`;
  };

  async function fetched(path) {
    const answer = await fetch(path, { headers: { accept: "application/json" } });
    if (!answer.ok && answer.status !== 404) throw new Error(`${path}: ${answer.status}`);
    return answer.ok ? answer.json() : null;
  }

  // Following

  function choose(cache) {
    model.cache = cache;
    model.state = model.history = model.past = model.blocks = null;
    model.beganAt = performance.now();
    start();
  }

  async function start() {
    clearTimeout(retry);
    events?.close();
    const turn = (asked += 1);
    try {
      const last = await begin(turn);
      if (turn === asked) follow(last);
    } catch {
      if (turn === asked) retry = setTimeout(start, RETRY_MS);
    }
    changed();
  }

  async function begin(turn) {
    const [log, windows, lines] = await Promise.all([
      fetched("api/alerts"), fetched(`api/history${query({ windows: WINDOWS_ASKED })}`), fetched("api/sparklines"),
    ]);
    if (turn !== asked) return "";
    model.alerts = log.alerts;
    model.missed = 0;
    model.history = windows;
    takeSparklines(lines);
    slowly();
    return log.last_event_id;
  }

  function follow(lastEventId) {
    events?.close();
    const mine = (events = new EventSource(`events${query(lastEventId ? { last_event_id: lastEventId } : {})}`));
    const on = (name, act) => events.addEventListener(name, (event) => { if (mine === events) { model.heardAt = performance.now(); act(event.data); } });
    on("hello", (id) => {
      const restarted = boot && boot !== id;
      boot = id;
      if (restarted) start(); // another run of the server: what was shown is of the past
    });
    on("state", (data) => takeState(JSON.parse(data)));
    on("same", () => {});
    on("alert", (data) => takeAlert(JSON.parse(data)));
    on("missed", (data) => { model.missed += Number(data); });
    on("end", () => { mine.close(); retry = setTimeout(start, RETRY_MS); });
    events.onerror = () => {
      // The browser tries again by itself unless the server refused.
      if (mine === events && mine.readyState === EventSource.CLOSED) retry = setTimeout(start, RETRY_MS);
      changed();
    };
  }

  function takeState(state) {
    model.state = state;
    model.stateAt = performance.now();
    for (const cache of state.caches) cache.key = keyOf(cache);
    if (!model.history) model.history = state.history;
    else {
      const { ts, window_seconds: length } = state.history;
      const isMissing = ts.length && (model.history.ts.at(-1) ?? 0) < ts.at(-1) - (NEWEST - 0.5) * length;
      extend(model.history, state.history);
      if (isMissing) refill();
    }
    const pauses = model.history.ts.slice(-200).map((at, i, all) => (i ? at - all[i - 1] : 0)).sort((a, b) => a - b);
    model.usualPause = pauses[Math.floor(pauses.length * 0.9)] ?? 0;
    addToSparklines(state);
    if (model.cache && !model.blocks) slowly();
    changed();
  }

  /* Asks for all windows again, where more have passed than a state holds. */
  async function refill() {
    if (isRefilling) return;
    isRefilling = true;
    const turn = asked;
    try {
      const windows = await fetched(`api/history${query({ windows: WINDOWS_ASKED })}`);
      if (turn === asked) {
        extend(windows, model.history);
        model.history = windows;
      }
    } catch {
      return; // the connection says so already
    } finally {
      isRefilling = false;
    }
    changed();
  }

  /* Adds windows, newest at the end; a newer account of a window takes the place of an older one. */
  function extend(history, newer) {
    const names = Object.keys(newer).filter((name) => Array.isArray(newer[name]) && name !== "marks");
    history.marks = [...history.marks.filter((mark) => !(mark.timestamp >= newer.ts[0])), ...newer.marks];
    for (const name of names) history[name] ??= history.ts.map(() => null);
    newer.ts.forEach((ts, i) => {
      let at = history.ts.length;
      while (at > 0 && history.ts[at - 1] >= ts) at -= 1;
      const taken = history.ts[at] === ts ? 1 : 0;
      for (const name of names) history[name].splice(at, taken, newer[name][i]);
    });
    const extra = history.ts.length - WINDOWS_ASKED;
    if (extra > 0) for (const name of names) history[name].splice(0, extra);
  }

  // What is older than the windows that the server keeps one by one

  /* The history from a moment on (-Infinity: all of it), in longer rows where no shorter ones go back so far. */
  function historySince(from) {
    const { history, past } = model;
    if (!history?.ts.length || from >= history.ts[0]) return history;
    const seconds = Math.min(OLDEST, Math.max(HOUR, Math.ceil(now() - from)));
    if (!past || seconds > past.seconds + 1 || performance.now() - past.askedAt > past.pauseMs) askPast(Math.max(seconds, past?.seconds ?? 0));
    return model.past.rows?.ts[0] < history.ts[0] ? model.past.rows : history;
  }

  async function askPast(seconds) {
    const past = (model.past = { seconds, askedAt: performance.now(), pauseMs: PAST_MS, rows: model.past?.rows });
    try {
      const rows = await fetched(`api/history${query({ seconds })}`);
      if (model.past !== past) return;
      past.rows = rows;
      past.pauseMs = rows.window_seconds === model.history.window_seconds ? NO_PAST_MS : model.cache ? PAST_MS : PAST_OF_MANY_MS;
    } catch {
      return; // the connection says so already
    }
    changed();
  }

  /* Asks anew, as another time is looked at, which shorter rows may do for. */
  function forgetPast() {
    model.past = null;
  }

  function takeAlert(alert) {
    model.alerts.unshift(alert);
    if (model.alerts.length > ALERTS_KEPT) model.alerts.length = ALERTS_KEPT;
    changed();
  }

  // Hit ratios of every cache, a value a step

  const ranked = new Map(); // those of all caches, by step

  function takeSparklines(lines) {
    model.sparks = new Map();
    ranked.clear();
    spark = null;
    if (!lines) return;
    spark = { step: lines.step_seconds, end: Math.round(lines.start / lines.step_seconds) + STEPS };
    for (const line of lines.caches) {
      const bytes = atob(line.hit_ratio);
      model.sparks.set(keyOf(line), Array.from(bytes, (byte) => (byte.charCodeAt(0) === 255 ? null : byte.charCodeAt(0) / 250)));
    }
  }

  function addToSparklines(state) {
    if (!spark) return;
    const end = Math.floor(state.now / spark.step) + 1;
    const passed = Math.min(STEPS, Math.max(0, end - spark.end));
    spark.end = Math.max(end, spark.end);
    for (const step of ranked.keys()) if (step < spark.end - STEPS || step >= spark.end - 1 - passed) ranked.delete(step);
    for (const cache of state.caches) {
      const key = keyOf(cache);
      const values = model.sparks.get(key) ?? new Array(STEPS).fill(null);
      model.sparks.set(key, values);
      for (let i = 0; i < passed; i += 1) { values.shift(); values.push(null); }
      if (passed || values.at(-1) === null) values[STEPS - 1] = isSilent(cache) ? null : cache.hit_ratio ?? null;
    }
  }

  /* The hit ratio that a share of the caches is not above, at each time; null where none is known, as long ago. */
  function ratioOfCaches(share, times) {
    const first = spark ? (spark.end - STEPS) * spark.step : Infinity;
    return times.map((at) => {
      if (at < first) return null;
      const values = rankedAt(Math.floor(at / spark.step));
      return values.length ? values[Math.round(share * (values.length - 1))] : null;
    });
  }

  /* Hit ratios of all caches in a step, the lowest first. */
  function rankedAt(step) {
    if (!ranked.has(step)) {
      const at = step - (spark.end - STEPS);
      ranked.set(step, [...model.sparks.values()].map((line) => line[at]).filter((value) => !kvFormat.unknown(value)).sort((a, b) => a - b));
    }
    return ranked.get(step);
  }

  /* What is asked for now and then: the blocks of a cache. */
  async function slowly() {
    if (document.hidden || !model.cache || !model.state?.caches.some(isChosen)) return;
    const turn = asked;
    try {
      const blocks = await fetched(`api/blocks${query()}`);
      if (turn === asked) model.blocks = blocks;
    } catch {
      return; // the connection says so already
    }
    changed();
  }

  // How old it all is

  /* Event time now, which goes on by this page's clock. */
  const now = () => (model.state ? model.state.now + (performance.now() - model.stateAt) / 1000 : Date.now() / 1000);

  const sinceState = () => (performance.now() - model.stateAt) / 1000;

  /* Seconds since anything came from the server; more than five are an outage. */
  const unheard = () => (performance.now() - (model.heardAt || model.beganAt)) / 1000;

  const isGone = () => unheard() * 1000 > GONE_MS;

  /* Seconds since the last event of a cache; null where that means nothing, as of recordings. */
  const ageOf = (cache) => (cache.age_seconds === undefined || cache.age_seconds === null ? null : cache.age_seconds + sinceState());

  /* Whether a cache has been without events for longer than it usually is, by what the server said. */
  const isSilent = (cache) => (cache.age_seconds ?? 0) >= Math.max(10, 5 * model.usualPause);

  /* Seconds since the last event of those that are shown; null where there are none. */
  function age() {
    const ages = (model.state?.caches ?? []).filter(isChosen).map(ageOf).filter((seconds) => seconds !== null);
    return ages.length ? Math.min(...ages) : null;
  }

  const isChosen = (cache) => !model.cache || (cache.source === model.cache.source && cache.tier === model.cache.tier);

  function isAllSilent() {
    const caches = (model.state?.caches ?? []).filter(isChosen);
    return caches.length > 0 && caches.every(isSilent);
  }

  /* Posts JSON; returns what is wrong, if anything is. */
  async function posted(path, body) {
    try {
      const answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
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

  document.addEventListener("visibilitychange", slowly);
  setInterval(slowly, 5000);
  return {
    model, keyOf, cacheOf, choose, start, posted, historySince, forgetPast, now, age, ageOf, ratioOfCaches, isSilent, isAllSilent, isChosen, isGone, unheard,
    onChange: (act) => { changed = act; },
  };
})();
