// Charts: series that never look alike, the theme, and drawing a chart when it comes into view.

// Contrast of each colour to the light and to the dark ground: at least 3.5.
const COLOURS = ["#3574e0", "#cf6a00", "#2a9350", "#d93a3f", "#8f63dd", "#8f6544", "#d45aa6", "#737d8c", "#8a8800", "#0d8fb0"];
const DASHES = [[1, 0], [6, 3], [2, 2], [10, 3, 2, 3], [12, 4], [1, 4], [7, 2, 2, 2, 2, 2], [4, 7]];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"];

const q = (field, title, more = {}) => ({ field, type: "quantitative", title, ...more });
const n = (field, title, more = {}) => ({ field, type: "nominal", title, ...more });
const free = { scale: { zero: false } };
const whole = { axis: { tickMinStep: 1, format: "d" } };

const seriesOf = (entries) => {
  // Returns the name of each entry's series and the channels that draw them: the colour is that of the subject, dash
  // and shape are those of what varies; a pair that is taken is replaced by the next free one.
  const variant = variantAmong(entries), named = new Map(), taken = new Set();
  const name = (entry) => [entry.subject.name, variant(entry)].filter(Boolean).join(", ");
  const variants = unique(entries.map(variant)).sort((a, b) => (a < b ? -1 : 1));
  for (const entry of entries) named.set(name(entry), { subject: entry.subject.index, variant: variants.indexOf(variant(entry)) });
  const list = [...named].sort(([, a], [, b]) => a.subject - b.subject || a.variant - b.variant);
  const styles = list.map(([, { subject, variant: pattern }]) => {
    let at = (subject % COLOURS.length) * DASHES.length + (pattern % DASHES.length);
    for (let tries = 0; taken.has(at) && tries < COLOURS.length * DASHES.length; tries += 1) {
      at = (at + 1) % (COLOURS.length * DASHES.length);
    }
    taken.add(at);
    return [COLOURS[Math.floor(at / DASHES.length)], DASHES[at % DASHES.length], SHAPES[at % DASHES.length]];
  });
  const names = list.map(([one]) => one);
  const channel = (part, more) => n("name", "trained on", { scale: { domain: names, range: styles.map((one) => one[part]) }, ...more });
  const long = { legend: { symbolSize: 500 } };  // long enough to show a dash
  return { name, names, color: channel(0), shape: channel(2), line: { color: channel(0, long), strokeDash: channel(1, long) } };
};

// ------------------------------------------------------------------ drawing

const charts = [];  // [element, specification], drawn when they come into view and again in the other theme
const quiet = { level() { return this; }, error() { return this; }, warn() { return this; }, info() { return this; },
  debug() { return this; } };
const WIDEST = 940, LEGEND = 300, NARROW = 500;  // widths in pixels: of a chart, of a column of its legend, of a phone

const theme = (width) => {
  const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(name).trim();
  const [ink, line, softer] = [of("--ink"), of("--line"), of("--soft")];
  return {
    background: "transparent", font: "system-ui, sans-serif", view: { stroke: line },
    axis: { labelColor: softer, titleColor: softer, gridColor: line, domainColor: line, tickColor: line,
      labelLimit: width < NARROW ? 110 : 220 },
    legend: { labelColor: ink, titleColor: softer, labelLimit: LEGEND - 20, symbolLimit: 90,
      symbolBaseFillColor: softer, symbolBaseStrokeColor: softer, orient: "bottom",
      columns: Math.max(Math.floor(width / LEGEND), 1) },
    title: { color: ink }, text: { color: ink }, header: { labelColor: ink, titleColor: softer },
    range: { category: COLOURS },
  };
};
const drawChart = async ([place, spec]) => {
  const width = Math.min(place.clientWidth, WIDEST), all = { ...spec, config: { ...theme(width), ...(spec.config || {}) } };
  if (!all.width && (all.mark || all.layer)) {
    all.width = width;
    all.autosize = { type: "fit-x", contains: "padding" };
  }
  try {
    const view = new vega.View(vega.parse(vegaLite.compile(all, { logger: quiet }).spec), { renderer: "svg", hover: true });
    await view.initialize(place).runAsync();
    place.dataset.drawn = "yes";
  } catch (error) {
    place.textContent = `This chart cannot be drawn: ${error.message}`;
    place.dataset.drawn = "failed";
  }
};
const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
  if (!entry.isIntersecting) return;
  watcher.unobserve(entry.target);
  drawChart(charts.find(([place]) => place === entry.target));
}), { rootMargin: "300px" });
const chart = (spec, label) => {
  const place = make("div", { class: "chart", role: "img", "aria-label": label });
  charts.push([place, { ...spec, description: label }]);  // Vega labels the element with the description
  watcher.observe(place);
  return place;
};
const chosenChart = (names, start, draw) => {  // a field that chooses a series, and the chart that `draw` makes of it
  const area = make("div"), show = (name) => area.replaceChildren(...draw(name)), field = select("trained on", names, show);
  field.querySelector("select").value = start;
  show(start);
  return make("figure", {}, make("div", { class: "filters" }, field), area);
};
