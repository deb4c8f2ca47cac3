"use strict";

/* How numbers, times, names and tables are written, on the dashboard and in reports. */
const kvFormat = (() => {
  const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const unknown = (value) => value === null || value === undefined || Number.isNaN(value);
  const NONE = "–";
  let utc = false; // times are local unless a person chooses otherwise

  const count = (value) => (unknown(value) ? NONE : plain.format(value));

  /* 8,192; 12.4k; 1.2 M */
  function compact(value) {
    if (unknown(value)) return NONE;
    const size = Math.abs(value);
    if (size < 10 && !Number.isInteger(value)) return value.toFixed(1);
    if (size < 1e4) return plain.format(value);
    for (const [unit, each] of [[" G", 1e9], [" M", 1e6], ["k", 1e3]])
      if (size >= each * 0.9995) return `${Number((value / each).toPrecision(3))}${unit}`;
    return plain.format(value);
  }

  const ratio = (value) => (unknown(value) ? NONE : value.toFixed(2));

  /* A share; what is neither nothing nor all is never rounded to 0 or 100%. */
  function percent(value) {
    if (unknown(value)) return NONE;
    const of100 = 100 * value;
    if (of100 === 0 || (of100 >= 1 && of100 <= 99) || of100 >= 100) return `${count(of100)}%`;
    if (of100 < 0.1) return "< 0.1%";
    return of100 < 99.95 ? `${of100.toFixed(1)}%` : "> 99.9%";
  }

  function gib(bytes) {
    if (unknown(bytes)) return NONE;
    const size = bytes / 2 ** 30;
    if (size >= 100) return plain.format(size);
    return size >= 0.05 || size === 0 ? size.toFixed(1) : "< 0.1";
  }

  /* Two units at most: 5.4 s, 17 s, 3 min 4 s, 9 h 12 min. */
  function seconds(value) {
    if (unknown(value)) return NONE;
    if (value < 1e-6) return `${Number((value * 1e9).toPrecision(3))} ns`;
    if (value < 1e-3) return `${Number((value * 1e6).toPrecision(3))} µs`;
    if (value < 0.9995) return `${Number((value * 1e3).toPrecision(3))} ms`;
    if (value < 10) return `${Number(value.toFixed(1))} s`;
    const whole = Math.round(value);
    if (whole < 60) return `${whole} s`;
    for (const [unit, size, smaller, each] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]])
      if (whole >= size) {
        const rest = Math.floor((whole % size) / each);
        return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
      }
    return `${whole} s`;
  }

  /* How long ago, as it ticks: 0.4 s, 75 s, 3 min 4 s. */
  const age = (value) => (unknown(value) ? NONE : value < 10 ? `${Math.max(0, value).toFixed(1)} s` : value < 100 ? `${Math.round(value)} s` : seconds(value));

  const zoneOffset = (ts) => (utc ? 0 : -60 * new Date(ts * 1000).getTimezoneOffset());

  /* The date of which the UTC fields are those of the zone that is shown. */
  const inZone = (ts) => new Date((ts + zoneOffset(ts)) * 1000).toISOString();

  const clock = (ts) => inZone(ts).slice(11, 19);
  const minute = (ts) => inZone(ts).slice(11, 16);
  const date = (ts) => inZone(ts).slice(0, 10);
  const dated = (ts) => `${date(ts)} ${clock(ts)}`;

  /* UTC+0, UTC-7, UTC+5:30 */
  function zone(ts) {
    const minutes = Math.round(zoneOffset(ts) / 60);
    const rest = Math.abs(minutes) % 60;
    return `UTC${minutes < 0 ? "-" : "+"}${Math.floor(Math.abs(minutes) / 60)}${rest ? `:${String(rest).padStart(2, "0")}` : ""}`;
  }

  /* A time of day, with its date if that is not today's. */
  const at = (ts, now) => (date(ts) === date(now ?? ts) ? clock(ts) : dated(ts));

  // Names come from outside: what would break a line or turn its direction is shown by its number.
  const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

  const shown = (text) => String(text).replace(UNPRINTABLE, (character) => {
    const point = character.charCodeAt(0);
    return point < 0x100 ? `\\x${point.toString(16).padStart(2, "0")}` : `\\u${point.toString(16).padStart(4, "0")}`;
  });

  /* Says something as a sentence does: with a capital, and no stop. */
  const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : "");

  function element(name, text, attributes = {}, ...children) {
    const made = document.createElement(name);
    if (text !== undefined && text !== null) made.textContent = shown(text);
    for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  /* Sets a text only where it has changed, so that a page that stands still costs nothing. */
  function say(node, text) {
    const words = shown(text ?? "");
    if (node.textContent !== words) node.textContent = words;
  }

  const SVG = "http://www.w3.org/2000/svg";

  function svg(name, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  // Severities differ in shape, not in colour alone.
  const ICONS = {
    critical: [["M5 1h6l4 4v6l-4 4H5l-4-4V5z", "fill"], ["M8 4v5M8 11v1.2", "cut"]],
    warning: [["M8 1.5 15.3 14.5H.7z", "fill"], ["M8 6v4M8 11.7v1.2", "cut"]],
    info: [["M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1z", "fill"], ["M8 7v5M8 3.8V5", "cut"]],
    steady: [["M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8zM5 8.2l2.2 2.2L11 6", "line"]],
    silent: [["M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8z", "dashes"], ["M6.3 5.6v4.8M9.7 5.6v4.8", "line"]],
    gone: [["M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8zM3.7 12.3l8.6-8.6", "line"]],
    wait: [["M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8z", "dashes"]],
  };

  const icon = (kind) => svg("svg", { class: `icon i-${kind}`, viewBox: "0 0 16 16", "aria-hidden": "true" },
    ...ICONS[kind].map(([d, part]) => svg("path", { d, class: part })));

  /* Fills a table; columns are [title, whether it is a number or its classes, row => text]. */
  function fill(table, columns, rows) {
    const kind = (number) => (number ? (number === true ? "num" : number) : null);
    const head = element("tr");
    for (const [title, number] of columns) head.append(element("th", title, { class: kind(number), scope: "col" }));
    const body = rows.map((row) => {
      const line = element("tr");
      for (const [, number, text] of columns) line.append(element("td", text(row), { class: kind(number) }));
      return line;
    });
    table.replaceChildren(element("thead", null, {}, head), element("tbody", null, {}, ...body));
  }

  return {
    unknown, count, compact, ratio, percent, gib, seconds, age, clock, minute, date, dated, at, zone, zoneOffset,
    shown, sentence, element, say, svg, icon, fill, showUtc: (chosen) => { utc = chosen; },
  };
})();
