// Sections: what the sets are, and the accuracies of the students.

const overview = () => {
  const place = section("sets", sets.length > 1 ? "Sets" : "Set");
  const rows = sets[0].facts.map(([key], i) => ({ key, values: sets.map((one) => one.facts[i][1]) }));
  const columns = [["", (r) => r.key, (r) => r.key],
    ...sets.map((one, i) => [one.name, (r) => r.values[i], (r) => r.values[i]])];
  place.append(table(columns, rows, "Facts of the sets").node);
};

const hardOf = (r) => (r.differences || []).find((d) => d.to === "hard");
const results = () => {
  const rows = collect("results").sort((a, b) => a.subject.index - b.subject.index);
  if (!rows.length) return;
  const place = section("results", "Results", "Top-1 accuracy in percent after the last epoch: mean ± standard "
    + "deviation over all students. Differences are paired by set and seed, with their 95 % interval; green and red: "
    + "the interval excludes 0.");
  const more = varying(rows).filter(([key]) => ["val", "seeds"].includes(key));
  const made = table([
    ["trained on", (r) => r.subject.name, (r) => r.subject.name],
    ["network", (r) => r.arch, (r) => r.arch], ["protocol", (r) => r.protocol, (r) => r.protocol],
    ["labels", (r) => r.labels, (r) => r.labels], ["ipc", (r) => r.ipc, (r) => r.ipc, true],
    ["accuracy", mean, meanText, true],
    ["sets × students", (r) => r.n_students, (r) => `${r.n_sets} × ${r.n_students / r.n_sets}`, true],
    ["minus random", (r) => (r.difference ? r.difference.mean : null), (r) => difference(r.difference), true],
    ["minus hard labels", (r) => (hardOf(r) ? hardOf(r).mean : null), (r) => difference(hardOf(r)), true],
    ["bytes", (r) => r.total_bytes, (r) => bytes(r.total_bytes), true],
    ["seconds", (r) => r.seconds || null, (r) => (r.seconds ? r.seconds.toFixed(0) : "–"), true],
    ...more.map(([key, title]) => [title, (r) => field(r, key), (r) => field(r, key) || "–"]),
  ], rows, "Results");
  const choices = FIELDS.filter(([key]) => key !== "seeds").map(([key, title]) => [title, (r) => String(r[key])]);
  place.append(filters(choices, rows, made), made.node);
  accuracyCharts(place, rows);
};

const accuracyCharts = (place, rows) => {
  const points = (some, name) => some.map((r) => ({ name: name(r), network: r.arch, bytes: r.total_bytes,
    accuracy: mean(r), low: mean(r) - deviation(r), high: mean(r) + deviation(r) }));
  const accuracy = q("accuracy", "accuracy, %", free), low = q("low", "accuracy, %", free), high = { field: "high" };
  const tooltip = [n("name", "trained on"), n("network", "network"), q("accuracy", "accuracy, %", { format: ".2f" }),
    q("bytes", "bytes", { format: "," })];
  const point = { type: "point", filled: true, size: 90, opacity: 1 };
  const students = rows.filter((r) => r.of !== "teacher"), all = seriesOf(students);
  place.append(make("h3", {}, "Accuracy against bytes"), chart({ data: { values: points(students, all.name) }, height: 300,
    encoding: { x: q("bytes", "bytes to ship for the training", { scale: { type: "log" }, axis: { format: "~s" } }),
      color: all.color },
    layer: [{ mark: "rule", encoding: { y: low, y2: high } },
      { mark: point, encoding: { y: accuracy, shape: all.shape, tooltip } }] }, "Accuracy of all students against their bytes"));
  const without = (r) => ({ ...r, arch: null });
  if (unique(students.map((r) => r.arch)).length < 2) return;
  const series = seriesOf(students.map(without)), values = points(students, (r) => series.name(without(r)));
  place.append(make("h3", {}, "Across architectures"), chart({ data: { values }, height: { step: 12 }, encoding: {
    y: n("network", "network"), yOffset: { field: "name", scale: { domain: series.names } }, color: series.color },
  layer: [{ mark: "rule", encoding: { x: low, x2: high } },
    { mark: point, encoding: { x: accuracy, shape: series.shape, tooltip } }] }, "Accuracy by network"));
};
