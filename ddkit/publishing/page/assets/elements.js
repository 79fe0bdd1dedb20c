// Elements of the page, numbers as text, and tables that sort.

const sets = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main"), contents = document.getElementById("contents");

const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};
const section = (id, heading, words) => {
  const made = make("section", { id, "aria-labelledby": `${id}-h` }, make("h2", { id: `${id}-h` }, heading));
  if (words) made.append(make("p", {}, words));
  main.append(made);
  contents.append(make("a", { href: `#${id}` }, heading));
  return made;
};
const select = (words, options, change) => {
  const field = make("select", {}, ...options.map((option) => make("option", {}, option)));
  field.addEventListener("change", () => change(field.value));
  return make("label", {}, `${words} `, field);
};
const unique = (values) => [...new Set(values)];
const groupBy = (values, key) => {
  const groups = new Map();
  for (const value of values) {
    const group = key(value);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(value);
  }
  return groups;
};

// ------------------------------------------------------------------ numbers

const isPercent = (unit) => unit === undefined || unit === "%" || unit === "points";  // results have no unit
const decimals = (value, unit = "") => {  // 2, or three significant digits of a small number that is no percentage
  const size = Math.abs(value);
  return size >= 1 || size === 0 || isPercent(unit) ? 2 : 2 - Math.floor(Math.log10(size));
};
const number = (value, places = decimals(value)) => {
  if (value === 0) return "0";
  if (Math.abs(value) >= 100000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return (places > 6 ? value.toExponential(1) : value.toFixed(places)).replace("-", "−");
};
const bytes = (value) => {
  if (value < 1e3) return `${value.toFixed(0)} B`;
  return value >= 1e6 ? `${(value / 1e6).toFixed(2)} MB` : `${(value / 1e3).toFixed(1)} kB`;
};
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const signed = (value, places) => (value >= 0 ? "+" : "−") + number(Math.abs(value), places);
const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
// Mean and sample standard deviation over all students, from the values, since the stored ones of results are rounded.
// Percentages are rounded to two decimals first, as those of results are: the same accuracy is the same everywhere.
const flat = (entry) => (entry.values || []).flat().map((value) => (
  isPercent(entry.unit) ? Math.round(100 * value) / 100 : value));
const mean = (entry) => (flat(entry).length ? average(flat(entry)) : entry.mean);
const deviation = (entry) => {
  const values = flat(entry), middle = mean(entry);
  if (!values.length) return entry.std;
  return values.length < 2 ? 0 : Math.sqrt(values.reduce((sum, v) => sum + (v - middle) ** 2, 0) / (values.length - 1));
};
const meanText = (entry) => {
  const places = decimals(mean(entry), entry.unit);
  return number(mean(entry), places) + (flat(entry).length > 1 ? ` ± ${number(deviation(entry), Math.min(places, 6))}` : "");
};
const interval = (d, unit) => {
  if (!d) return "–";
  const [middle, low, high] = [d.mean, d.low, d.high].map((value) => signed(value, decimals(d.mean, unit)));
  return `${middle} [${low}, ${high}]`;
};
const difference = (d) => {
  const clear = d && (d.low > 0 || d.high < 0);
  return make("span", { class: clear ? (d.mean > 0 ? "good" : "bad") : "" }, interval(d, "%"));
};

// ------------------------------------------------------------------ tables

const compare = (x, y, up) => {  // null: no value, which comes last in both orders
  if (x === null || y === null) return (x === null) - (y === null);
  return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
};
const table = (columns, rows, label) => {
  // columns: [title, value of a row for sorting, text or node of a row, numeric?]; sorting outlasts `show`, which filters
  const body = make("tbody"), heads = [];
  let shown = rows, by = -1, up = true;
  const draw = () => {
    const order = by < 0 ? shown : [...shown].sort((a, b) => compare(columns[by][1](a), columns[by][1](b), up));
    body.replaceChildren(...order.map((row) => make("tr", { class: row.own ? "own" : "" },
      ...columns.map(([, , cell, numeric], i) => {
        const found = cell(row), content = found instanceof Node ? found : String(found);
        return i ? make("td", { class: numeric ? "n" : "" }, content) : make("th", { scope: "row" }, make("span", {}, content));
      }))));
  };
  columns.forEach(([title, , , numeric], i) => {
    heads.push(make("th", { class: numeric ? "n" : "", scope: "col" }, make("button", {
      type: "button", onclick: () => {
        up = by === i ? !up : !numeric;
        by = i;
        heads.forEach((one, j) => (j === i ? one.setAttribute("aria-sort", up ? "ascending" : "descending")
          : one.removeAttribute("aria-sort")));
        draw();
      } }, title)));
  });
  draw();
  const made = make("table", { "aria-label": label }, make("thead", {}, make("tr", {}, ...heads)), body);
  return { node: make("div", { class: "wide", tabindex: "0" }, made), show: (some) => { shown = some; draw(); } };
};
const filters = (choices, rows, made) => {
  // choices: [words, value of a row]; a row without a value passes. Returns a bar of fields that filter a table.
  const chosen = new Map(), bar = make("div", { class: "filters" });
  for (const [words, value] of choices) {
    const options = unique(rows.map(value).filter(Boolean));
    if (options.length < 2) continue;
    bar.append(select(words, ["all", ...options], (option) => {
      chosen.set(value, option);
      made.show(rows.filter((row) => [...chosen].every(([of, one]) => one === "all" || ["", one].includes(of(row)))));
    }));
  }
  return bar;
};
