"use strict";

/* How numbers, times and tables are written, on the dashboard and in reports. */
const kvFormat = (() => {
  const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

  const count = (value) => plain.format(value);

  const unknown = (value) => value === null || value === undefined;

  const ratio = (value) => (unknown(value) ? "–" : value.toFixed(2));

  /* A share; what is neither nothing nor all is never rounded to 0 or 100 %. */
  function percent(value) {
    if (unknown(value)) return "–";
    const of100 = 100 * value;
    if (of100 === 0 || (of100 >= 1 && of100 <= 99) || of100 >= 100) return `${count(of100)} %`;
    if (of100 < 0.1) return "< 0.1 %";
    return of100 < 99.95 ? `${of100.toFixed(1)} %` : "> 99.9 %";
  }

  const gib = (bytes) => (bytes >= 0.005 * 2 ** 30 ? (bytes / 2 ** 30).toFixed(2) : "< 0.01");

  function seconds(value) {
    if (value === null) return "–";
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1], ["ms", 1e-3], ["µs", 1e-6]])
      if (value >= size) return `${Number((value / size).toPrecision(3))} ${unit}`;
    return `${Number((value * 1e9).toPrecision(3))} ns`;
  }

  const clock = (ts) => new Date(ts * 1000).toLocaleTimeString("en-GB");

  const dated = (ts) => `${new Date(ts * 1000).toLocaleDateString("en-CA")} ${clock(ts)}`;

  // Names come from outside: what would break a line or turn its direction is shown by its number.
  const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

  const shown = (text) => String(text).replace(UNPRINTABLE, (character) => {
    const point = character.charCodeAt(0);
    return point < 0x100 ? `\\x${point.toString(16).padStart(2, "0")}` : `\\u${point.toString(16).padStart(4, "0")}`;
  });

  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text !== undefined && text !== null) made.textContent = shown(text);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  /* Fills a table; columns are [title, is a number, row => text]. */
  function fill(table, columns, rows) {
    const head = element("tr");
    for (const [title, number] of columns)
      head.append(element("th", title, number ? { class: "number", scope: "col" } : { scope: "col" }));
    const body = rows.map((row) => {
      const line = element("tr");
      for (const [, number, text] of columns)
        line.append(element("td", text(row), number ? { class: "number" } : {}));
      return line;
    });
    const [thead, tbody] = [element("thead"), element("tbody")];
    thead.append(head);
    tbody.append(...body);
    table.replaceChildren(thead, tbody);
  }

  return { count, ratio, percent, gib, seconds, clock, dated, shown, element, fill };
})();
