// Sections: learning curves, figures of measures, and what the sets cost.

const known = (values) => values.filter((value) => value !== null && value !== undefined);
const curves = () => {
  const entries = collect("curves");
  if (!entries.length) return;
  const series = seriesOf(entries), values = { loss: [], accuracy: [] }, best = [];
  for (const c of entries) {
    const name = series.name(c), step = Math.max(Math.floor(c.epochs.length / 120), 1);
    c.epochs.forEach((epoch, i) => {
      const [loss, accuracy] = [c.losses, c.accuracies].map((lists) => known(lists.map((one) => one[i])));
      if (accuracy.length) values.accuracy.push({ name, epoch, value: average(accuracy) });
      if (i % step && i !== c.epochs.length - 1) return;
      if (loss.length && average(loss) > 0) values.loss.push({ name, epoch, value: average(loss) });  // the axis is a logarithm
    });
    const tops = known(c.best), last = known(c.accuracies.map((one) => one[one.length - 1]));
    if (tops.length) best.push({ name, best: average(tops), last: last.length ? average(last) : null });
  }
  const place = section("curves", "Learning curves", "Means over students."), grid = make("div", { class: "grid" });
  const kinds = [["accuracy", "Validation accuracy", "accuracy, %", { zero: false }],
    ["loss", "Training loss", "loss (of different labels: not comparable)", { type: "log" }]];
  for (const [key, caption, title, scale] of kinds) {
    if (!values[key].length) continue;
    grid.append(make("figure", {}, make("figcaption", {}, caption), chart({ data: { values: values[key] }, height: 260,
      mark: "line", encoding: { x: q("epoch", "epoch", { ...whole, ...free }), y: q("value", title, { scale }),
        ...series.line,
        tooltip: [n("name", "trained on"), q("epoch", "epoch"), q("value", title)] } }, `${title} by epoch`)));
  }
  place.append(grid);
  if (!best.length) return;
  place.append(make("p", {}, "The best accuracy of a curve is shown here and used nowhere: choosing it would choose by "
    + "the validation images."), table([["trained on", (r) => r.name, (r) => r.name],
    ["last epoch", (r) => r.last, (r) => (r.last === null ? "–" : number(r.last)), true],
    ["best of the curve (not used)", (r) => r.best, (r) => number(r.best), true]], best, "Last and best accuracy").node);
};

const figures = () => {
  const entries = collect("figures");
  if (!entries.length) return;
  const place = section("figures", "Figures"), grid = make("div", { class: "grid" });
  const same = groupBy(entries, (one) => JSON.stringify([one.measure, one.name, one.arch, one.image || one.spec]));
  for (const some of same.values()) {  // a figure of several subjects is shown once
    const [one] = some, of = unique(some.map((entry) => entry.subject.name)).join("; ");
    const heading = `${one.measure}, ${one.name}${one.arch ? `, ${one.arch}` : ""}: ${of}`;
    grid.append(make("figure", {}, make("h3", {}, heading),
      one.image ? make("img", { src: one.image, alt: one.caption, loading: "lazy" })
        : chart({ height: 320, ...one.spec }, one.caption), make("figcaption", {}, one.caption)));
  }
  place.append(grid);
};

const costs = () => {
  const values = sets.flatMap((set) => Object.entries(set.cost).map(([part, seconds]) => ({ set: set.name, part, seconds })));
  if (!values.length) return;
  const place = section("cost", "Cost of the sets", "Seconds by part, summed over processes.");
  place.append(chart({ data: { values }, height: { step: 26 }, mark: "bar", encoding: { y: n("set", ""),
    x: q("seconds", "seconds"), color: n("part", "part"),
    tooltip: [n("set", "set"), n("part", "part"), q("seconds", "seconds", { format: ",.0f" })] } }, "Seconds by part"));
};
