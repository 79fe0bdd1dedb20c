// Section: the measures, a table of their summaries and a chart of what each was measured under.

const ARROWS = { higher: " ↑", lower: " ↓" };

const summaries = (entries, fields) => {
  // One row for each metric and each combination of what varies. An entry without a value of a field, as of a teacher,
  // is in all rows of its metric.
  const rows = [];
  const fits = (entry, texts) => fields.every(([key], i) => !texts[i] || !field(entry, key) || field(entry, key) === texts[i]);
  for (const key of unique(entries.map((m) => JSON.stringify([m.measure, m.metric])))) {
    const mine = entries.filter((m) => JSON.stringify([m.measure, m.metric]) === key);
    const found = unique(mine.map((m) => JSON.stringify(fields.map(([one]) => field(m, one))))).map((text) => JSON.parse(text));
    const covered = (few) => found.some((more) => more !== few && few.every((text, i) => !text || text === more[i])
      && few.filter(Boolean).length < more.filter(Boolean).length);
    for (const texts of found.filter((one) => !covered(one))) {
      rows.push({ m: mine[0], texts, cells: groupBy(mine.filter((m) => fits(m, texts)), (m) => m.subject) });
    }
  }
  return rows;
};

const cellOf = (entries) => {  // several entries in a cell differ in nothing that the table shows: all are shown
  if (!entries) return "–";
  return make("span", {}, ...entries.flatMap((m, i) => {
    const d = (m.differences || []).find((one) => one.to === "random");
    const text = m.unit === "bytes" ? bytes(mean(m)) : meanText(m);
    return [i ? " / " : "", make("span", { title: `n = ${m.n || "–"}${d ? `; minus random ${interval(d, m.unit)}` : ""}` }, text)];
  }));
};
const measures = (all) => {
  if (!all.length) return;
  const place = section("measures", "Measures", "The summary of each measure. ↑: higher is better, ↓: lower is better.");
  const entries = all.filter((m) => !m.condition), fields = varying(entries), rows = summaries(entries, fields);
  const title = (r) => r.m.title + (r.m.unit && r.m.unit !== "bytes" ? ` (${r.m.unit})` : "") + (ARROWS[r.m.better] || "");
  const shown = unique(entries.map((m) => m.subject)).sort((a, b) => a.index - b.index);
  const made = table([
    ["metric", (r) => r.m.title, title], ["measure", (r) => r.m.measure, (r) => r.m.measure],
    ...fields.map(([, words], i) => [words, (r) => r.texts[i] || null, (r) => r.texts[i] || "–"]),
    ...shown.map((subject) => [subject.name, (r) => (r.cells.has(subject) ? mean(r.cells.get(subject)[0]) : null),
      (r) => cellOf(r.cells.get(subject)), true]),
  ], rows, "Measures");
  const choices = [["measure", (r) => r.m.measure], ...fields.map(([, words], i) => [words, (r) => r.texts[i]])];
  place.append(filters(choices, rows, made), made.node);
  conditions(place, all.filter((m) => m.condition && m.metric !== "confusion"));
};

// ------------------------------------------------------------------ by condition

const conditions = (place, entries) => {
  for (const key of unique(entries.map((m) => JSON.stringify([m.measure, m.metric])))) {
    const mine = entries.filter((m) => JSON.stringify([m.measure, m.metric]) === key), series = seriesOf(mine);
    const values = mine.map((m) => ({ name: series.name(m), value: mean(m), low: mean(m) - deviation(m),
      high: mean(m) + deviation(m), condition: m.condition, text: `${meanText(m)} ${m.unit}`.trim() }));
    const title = mine[0].unit || "value", heading = `${mine[0].measure}: ${mine[0].title}`;
    place.append(make("h3", {}, heading));
    const every = unique(values.map((v) => v.condition)), label = `${heading} by condition`;
    if (every.some((c) => /, severity \d+$/.test(c))) place.append(heatMap(values, series, title, label));
    else if (every.every((c) => /^(step|temperature|epoch|ipc)\b.*\d/.test(c))) {
      place.append(conditionLines(values, series, title, label));
    } else place.append(conditionDots(values, series, title, label));
  }
};
const conditionLines = (values, series, title, label) => chart({
  data: { values: values.map((v) => ({ ...v, at: Number(v.condition.match(/[\d.]*\d/)[0]) })) }, height: 240,
  encoding: { x: q("at", values[0].condition.match(/^\w+/)[0], { axis: { tickMinStep: 1 } }), y: q("value", title, free),
    tooltip: [n("name", "trained on"), n("condition", "condition"), q("value", title, { format: ".2f" })] },
  layer: [{ mark: "line", encoding: series.line },
    { mark: { type: "point", filled: true, opacity: 1 }, encoding: { color: { ...series.color, legend: null } } }] }, label);

const heatMap = (values, series, title, label) => {
  // One map for each series; the colours mean the same in all of them. On viridis, white numbers are readable below
  // 0.43 of the range and black ones above.
  const cells = values.filter((v) => / severity /.test(v.condition)).map((v) => {
    const [corruption, severity] = v.condition.split(", severity ");
    return { ...v, corruption: corruption.replaceAll("_", " "), severity };
  });
  const others = values.filter((v) => !/ severity /.test(v.condition)), numbers = cells.map((v) => v.value);
  const low = Math.min(...numbers), high = Math.max(...numbers), middle = low + 0.43 * (high - low);
  const draw = (name) => [
    ...others.filter((v) => v.name === name).map((v) => make("p", {}, `${v.condition}: ${v.text}`)),
    chart({ data: { values: cells.filter((v) => v.name === name) }, width: { step: 46 }, height: { step: 17 },
      encoding: { x: n("severity", "severity", { axis: { labelAngle: 0 } }), y: n("corruption", "", { sort: null }) },
      layer: [{ mark: "rect", encoding: { color: q("value", title, { scale: { scheme: "viridis", domain: [low, high] },
        legend: { orient: "right" } }),
        tooltip: [n("corruption"), n("severity"), q("value", title, { format: ".2f" })] } },
      { mark: { type: "text", fontSize: 10 }, encoding: { text: q("value", "", { format: ".1f" }),
        color: { condition: { test: `datum.value > ${middle}`, value: "#000" }, value: "#fff" } } }] }, `${label}, ${name}`)];
  return chosenChart(series.names, series.names[0], draw);
};
const conditionDots = (values, series, title, label) => {
  const first = values.filter((v) => v.name === series.names[0]).sort((a, b) => a.value - b.value);
  const order = unique([...first, ...values].map((v) => v.condition));
  const draw = (name) => {
    const shown = values.filter((v) => name === "all" || v.name === name);
    const points = { mark: { type: "point", filled: true, size: 60, opacity: 1 }, encoding: { x: q("value", title, free), shape: series.shape,
      tooltip: [n("condition", "condition"), n("name", "trained on"), q("value", title, { format: ".2f" })] } };
    const rules = { mark: "rule", encoding: { x: q("low", title, free), x2: { field: "high" } } };
    return [chart({ data: { values: shown }, height: { step: 18 }, encoding: { color: series.color,
      y: n("condition", "", { sort: order, axis: { grid: true } }) }, layer: name === "all" ? [points] : [rules, points] },
    `${label}, ${name}`)];
  };
  const names = series.names.length > 1 ? ["all", ...series.names] : series.names;
  return chosenChart(names, names[0], draw);
};
