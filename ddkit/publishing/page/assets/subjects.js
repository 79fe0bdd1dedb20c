// Who the results, measurements, curves and figures are of: a set, or a baseline, which several sets may share; and how
// those of one subject are told apart.

const FIELDS = [["arch", "network"], ["protocol", "protocol"], ["labels", "labels"], ["val", "validation images"],
  ["ipc", "ipc"], ["seeds", "seeds"]];
const RELEVANT = { teacher: ["val"], full: ["arch", "val"] };  // of the FIELDS; all of them for students
const BASELINES = { random: "random images", "equal-bytes": "random images of equal bytes", teacher: "teacher",
  full: "full data" };
const KINDS = ["results", "measurements", "curves"];

const field = (entry, key) => {  // as text; "" where it says nothing of the entry
  const value = entry[key];
  if (value === null || value === undefined || value === "-") return "";
  if (RELEVANT[entry.of] && !RELEVANT[entry.of].includes(key)) return "";
  return Array.isArray(value) ? value.join(", ") : String(value);
};
const identity = (entry, without = "") => JSON.stringify([entry.measure, entry.metric, entry.condition,
  ...FIELDS.map(([key]) => (key === without ? "" : field(entry, key)))]);
const valueOf = (entry) => JSON.stringify([entry.values, entry.total_bytes, entry.losses, entry.accuracies]);

// ------------------------------------------------------------------ subjects

const subjects = sets.map((set, index) => ({ of: "this", name: set.name, sets: [set.name], index }));

const sameBaseline = (known, values) => {
  // Two sets have the same baseline if no value differs, and one of trained networks is common to both.
  let trained = false;
  for (const [key, one] of values) {
    const other = known.get(key);
    if (!other) continue;
    if (other.value !== one.value) return false;
    trained = trained || one.trained;
  }
  return trained;
};
const findBaselines = () => {
  for (const set of sets) for (const of of Object.keys(BASELINES)) {
    const values = new Map();
    for (const kind of KINDS) for (const entry of set[kind].filter((one) => one.of === of)) {
      const trained = kind === "curves" || Boolean((entry.seeds || []).length);
      values.set(kind + identity(entry), { value: valueOf(entry), trained });
    }
    if (!values.size && !set.figures.some((one) => one.of === of)) continue;
    const known = subjects.find((one) => one.of === of && sameBaseline(one.values, values));
    if (known) known.sets.push(set.name);
    else subjects.push({ of, sets: [set.name], values: new Map(), index: subjects.length });
    const mine = known || subjects[subjects.length - 1];
    values.forEach((one, key) => mine.values.set(key, one));
  }
  for (const one of subjects.slice(sets.length)) {
    one.name = BASELINES[one.of] + (one.sets.length < sets.length ? ` for ${one.sets.join(", ")}` : "");
    if (sets.some((set) => set.name === one.name)) one.name += " (baseline)";
  }
};
findBaselines();

const collect = (kind) => {  // the entries of all sets, with their subject; those of a shared baseline once
  const found = [], seen = new Set();
  for (const set of sets) for (const entry of set[kind]) {
    const subject = subjects.find((one) => one.of === entry.of && one.sets.includes(set.name));
    const key = JSON.stringify([subject.index, identity(entry), valueOf(entry)]);
    if (entry.of !== "this" && kind !== "figures" && seen.has(key)) continue;
    seen.add(key);
    found.push({ ...entry, condition: entry.condition || "", subject, own: entry.of === "this" && entry.labels !== "hard" });
  }
  return found;
};

// ------------------------------------------------------------------ what varies

const seedsDiffer = (entries) => {  // whether entries differ in nothing but their seeds
  const seen = new Map();
  return entries.some((entry) => {
    const key = entry.subject.index + identity(entry, "seeds"), other = seen.get(key), seeds = field(entry, "seeds");
    seen.set(key, seeds);
    return other !== undefined && other !== seeds;
  });
};
const varying = (entries) => FIELDS.filter(([key]) => (key === "seeds" ? seedsDiffer(entries)
  : unique(entries.map((entry) => field(entry, key)).filter(Boolean)).length > 1));

const words = (entry, key) => {
  const value = field(entry, key);
  if (!value) return "";
  if (key === "labels") return { stored: "", relabelled: "relabelled" }[value] ?? `${value} labels`;
  return ["ipc", "seeds"].includes(key) ? `${key} ${value}` : value;
};
const variantAmong = (entries) => {  // a function that says what tells an entry from others of its subject
  const keys = [...varying(entries).map(([key]) => key).filter((key) => key !== "labels"), "labels"];
  return (entry) => keys.map((key) => words(entry, key)).filter(Boolean).join(", ");
};
