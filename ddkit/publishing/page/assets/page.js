"use strict";
(() => {
  const sets = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main"), contents = document.getElementById("contents");
  const card = document.getElementById("card");
  const baselines = { random: "random images", "equal-bytes": "random images of equal bytes", teacher: "teacher", full: "full data" };
  const charts = [];  // [element, specification], drawn when they come into view and again in the other theme

  // ------------------------------------------------------------------ elements

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
  const number = (value) => {
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= 100000) return value.toLocaleString("en", { maximumFractionDigits: 0 });
    return size >= 1 ? value.toFixed(2) : Number(value.toPrecision(3)).toString();
  };
  const bytes = (value) => (value >= 1e6 ? `${(value / 1e6).toFixed(2)} MB` : `${(value / 1e3).toFixed(1)} kB`);
  const signed = (value) => (value >= 0 ? "+" : "−") + number(Math.abs(value));
  const interval = (d) => (d ? `${signed(d.mean)} [${signed(d.low)}, ${signed(d.high)}]` : "–");
  const count = (values) => (values || []).reduce((sum, one) => sum + one.length, 0);
  const soft = (labels) => labels !== "hard";
  const what = (one, name) => {
    if (one.of === "teacher" || one.of === "full") return baselines[one.of];
    const whose = one.of === "this" ? name : baselines[one.of] + (sets.length > 1 ? ` for ${name}` : "");
    return soft(one.labels) ? whose : `${whose}, hard labels`;
  };

  // ------------------------------------------------------------------ tables

  const table = (columns, rows, label) => {
    // columns: [title, value of a row for sorting, text or node of a row, numeric?]
    const body = make("tbody"), heads = [];
    let order = rows.slice(), by = -1, up = true;
    const draw = () => body.replaceChildren(...order.map((row) => make("tr", { class: row.own ? "own" : "" },
      ...columns.map(([, , cell, numeric], i) => {
        const found = cell(row);
        const made = make(i ? "td" : "th", { class: numeric ? "n" : "" }, found instanceof Node ? found : String(found));
        if (!i) made.setAttribute("scope", "row");
        return made;
      }))));
    columns.forEach(([title, value, , numeric], i) => {
      const head = make("th", { class: numeric ? "n" : "", scope: "col" }, make("button", {
        type: "button", onclick: () => {
          up = by === i ? !up : !numeric;
          by = i;
          order.sort((a, b) => {
            const [x, y] = [value(a), value(b)];
            return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
          });
          heads.forEach((one, j) => (j === i ? one.setAttribute("aria-sort", up ? "ascending" : "descending")
            : one.removeAttribute("aria-sort")));
          draw();
        } }, title));
      heads.push(head);
    });
    draw();
    const made = make("table", { "aria-label": label }, make("thead", {}, make("tr", {}, ...heads)), body);
    return { node: make("div", { class: "wide", tabindex: "0" }, made), show: (some) => { order = some.slice(); draw(); } };
  };
  const difference = (d) => {
    const clear = d && (d.low > 0 || d.high < 0);
    return make("span", { class: clear ? (d.mean > 0 ? "good" : "bad") : "" }, interval(d));
  };

  // ------------------------------------------------------------------ charts

  const theme = () => {
    const style = getComputedStyle(document.documentElement), of = (name) => style.getPropertyValue(name).trim();
    const [ink, line, softer] = [of("--ink"), of("--line"), of("--soft")];
    return {
      background: "transparent", font: "system-ui, sans-serif", view: { stroke: line },
      axis: { labelColor: softer, titleColor: softer, gridColor: line, domainColor: line, tickColor: line, labelLimit: 220 },
      legend: { labelColor: ink, titleColor: softer, labelLimit: 240, symbolLimit: 60, symbolBaseFillColor: softer,
        symbolBaseStrokeColor: softer }, title: { color: ink },
      text: { color: ink }, header: { labelColor: ink, titleColor: softer },
      range: { category: ["#3a6fd8", "#e0822d", "#3a9a63", "#c2453f", "#8a63c7", "#8c6d4f", "#d070ad", "#7d8695", "#b0a52c",
        "#37a7b8"] },
    };
  };
  const drawChart = async ([place, spec]) => {
    const whole = { ...spec, config: { ...theme(), ...(spec.config || {}) } };
    if (!whole.width && !whole.facet) whole.width = Math.max(Math.min(place.clientWidth - 150, 640), 180);
    try {
      const view = new vega.View(vega.parse(vegaLite.compile(whole, { logger: quiet }).spec), { renderer: "svg", hover: true });
      await view.initialize(place).runAsync();
      place.dataset.drawn = "yes";
    } catch (error) {
      place.textContent = `This chart cannot be drawn: ${error.message}`;
      place.dataset.drawn = "failed";
    }
  };
  const quiet = { level() { return this; }, error() { return this; }, warn() { return this; }, info() { return this; },
    debug() { return this; } };
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    watcher.unobserve(entry.target);
    drawChart(charts.find(([place]) => place === entry.target));
  }), { rootMargin: "300px" });
  const chart = (spec, label) => {
    const place = make("div", { class: "chart", role: "img", "aria-label": label });
    charts.push([place, spec]);
    watcher.observe(place);
    return place;
  };
  const q = (field, title, more = {}) => ({ field, type: "quantitative", title, ...more });
  const n = (field, title, more = {}) => ({ field, type: "nominal", title, ...more });
  const free = { scale: { zero: false } };

  // ------------------------------------------------------------------ sections

  const overview = () => {
    const place = section("sets", sets.length > 1 ? "Sets" : "Set");
    const rows = sets[0].facts.map(([key], i) => ({ key, values: sets.map((one) => one.facts[i][1]) }));
    const columns = [["", (r) => r.key, (r) => r.key],
      ...sets.map((one, i) => [one.name, (r) => r.values[i], (r) => r.values[i]])];
    place.append(table(columns, rows, "Facts of the sets").node);
  };

  const allResults = () => {
    const found = [], seen = new Set();
    for (const set of sets) for (const r of set.results) {
      const key = r.of === "this" ? null
        : JSON.stringify([r.of, r.arch, r.protocol, r.labels, r.ipc, r.val, r.values, r.total_bytes]);
      if (key && seen.has(key)) continue;  // the same baseline of several sets
      seen.add(key);
      found.push({ ...r, set: set.name, name: what(r, set.name), own: r.of === "this" && soft(r.labels) });
    }
    return found;
  };

  const results = (rows) => {
    const place = section("results", "Results", "Top-1 accuracy in percent after the last epoch: mean ± standard "
      + "deviation over all students. Differences are paired by set and seed, with their 95 % interval; green and red: "
      + "the interval excludes 0.");
    const made = table([
      ["trained on", (r) => r.name, (r) => r.name],
      ["network", (r) => r.arch, (r) => r.arch], ["protocol", (r) => r.protocol, (r) => r.protocol],
      ["labels", (r) => r.labels, (r) => r.labels], ["ipc", (r) => r.ipc, (r) => r.ipc, true],
      ["accuracy", (r) => r.mean, (r) => number(r.mean) + (r.n_students > 1 ? ` ± ${number(r.std)}` : ""), true],
      ["sets × students", (r) => r.n_students, (r) => `${r.n_sets} × ${r.n_students / r.n_sets}`, true],
      ["minus random", (r) => (r.difference ? r.difference.mean : -999), (r) => difference(r.difference), true],
      ["minus hard labels", (r) => hardOf(r), (r) => difference((r.differences || []).find((d) => d.to === "hard")), true],
      ["bytes", (r) => r.total_bytes, (r) => bytes(r.total_bytes), true],
      ["seconds", (r) => r.seconds, (r) => (r.seconds ? r.seconds.toFixed(0) : "–"), true],
    ], rows, "Results");
    const chosen = {}, bar = make("div", { class: "filters" });
    for (const [key, words] of [["arch", "network"], ["protocol", "protocol"], ["labels", "labels"]]) {
      const options = unique(rows.map((r) => r[key]));
      if (options.length < 2) continue;
      bar.append(select(words, ["all", ...options], (value) => {
        chosen[key] = value;
        made.show(rows.filter((r) => Object.entries(chosen).every(([k, v]) => v === "all" || r[k] === v)));
      }));
    }
    place.append(bar, made.node);
    const points = rows.map((r) => ({ name: r.name, network: r.arch, accuracy: r.mean, bytes: r.total_bytes,
      kind: r.own ? "set" : "baseline", low: r.mean - r.std, high: r.mean + r.std }));
    const byBytes = { data: { values: points }, height: 300, encoding: {
      x: q("bytes", "bytes to ship for the training", { scale: { type: "log" }, axis: { format: "~s" } }),
      y: q("accuracy", "accuracy, %", free), color: n("name", "trained on"),
      tooltip: [n("name", "trained on"), n("network", "network"), q("accuracy", "%"), q("bytes", "bytes")] },
    layer: [{ mark: { type: "rule" }, encoding: { y: q("low", "accuracy, %", free), y2: { field: "high" } } },
      { mark: { type: "point", filled: true, size: 90 }, encoding: { shape: n("kind", "") } }] };
    place.append(make("h3", {}, "Accuracy against bytes"), chart(byBytes, "Accuracy of every row against its bytes"));
    const archs = unique(rows.map((r) => r.arch));
    if (archs.length > 1) {
      const bars = rows.filter((r) => r.of !== "teacher").map((r) => ({ network: r.arch, name: r.name, accuracy: r.mean,
        low: r.mean - r.std, high: r.mean + r.std }));
      place.append(make("h3", {}, "Across architectures"), chart({ data: { values: bars }, height: { step: 12 }, encoding: {
        y: n("network", "network"), yOffset: { field: "name" }, color: n("name", "trained on") },
      layer: [{ mark: "bar", encoding: { x: q("accuracy", "accuracy, %"), tooltip: [n("name"), n("network"), q("accuracy")] } },
        { mark: "rule", encoding: { x: q("low", "accuracy, %"), x2: { field: "high" }, color: { value: "#888" } } }] },
      "Accuracy by network"));
    }
  };
  const hardOf = (r) => {
    const found = (r.differences || []).find((d) => d.to === "hard");
    return found ? found.mean : -999;
  };

  const allMeasurements = () => {
    const found = [], seen = new Set();
    for (const set of sets) for (const m of set.measurements) {
      const key = m.of === "this" ? null
        : JSON.stringify([m.measure, m.metric, m.condition, m.of, m.arch, m.protocol, m.labels, m.val, m.values]);
      if (key && seen.has(key)) continue;
      seen.add(key);
      found.push({ ...m, condition: m.condition || "", set: set.name, name: what(m, set.name),
        own: m.of === "this" && soft(m.labels) });
    }
    return found;
  };

  const measures = (all) => {
    if (!all.length) return;
    const place = section("measures", "Measures", "The summary of each measure. ↑: higher is better, ↓: lower is better.");
    const names = unique(all.filter((m) => !m.condition).map((m) => m.name)), rows = new Map();
    for (const m of all) {
      if (m.condition) continue;
      const networks = m.of === "teacher" || m.of === "full" ? [] : [m.arch];
      const key = JSON.stringify([m.measure, m.metric]), row = rows.get(key) || { m, cells: {}, networks: new Set() };
      networks.forEach((one) => one && row.networks.add(one));
      row.cells[m.name] = m;
      rows.set(key, row);
    }
    const list = [...rows.values()], arrow = { higher: " ↑", lower: " ↓" };
    const shown = (m) => (m.unit === "bytes" ? bytes(m.mean) : number(m.mean) + (count(m.values) > 1 ? ` ± ${number(m.std)}` : ""));
    const made = table([
      ["metric", (r) => r.m.title, (r) => r.m.title + (r.m.unit && r.m.unit !== "bytes" ? ` (${r.m.unit})` : "")
        + (arrow[r.m.better] || "")],
      ["measure", (r) => r.m.measure, (r) => r.m.measure],
      ...names.map((name) => [name, (r) => (r.cells[name] ? r.cells[name].mean : -Infinity), (r) => {
        const m = r.cells[name];
        if (!m) return "–";
        const d = (m.differences || []).find((one) => one.to === "random");
        return make("span", { title: `n = ${m.n || "–"}${d ? `; minus random ${interval(d)}` : ""}` }, shown(m));
      }, true]),
    ], list, "Measures");
    const options = unique(list.map((r) => r.m.measure));
    place.append(make("div", { class: "filters" }, select("measure", ["all", ...options], (value) =>
      made.show(list.filter((r) => value === "all" || r.m.measure === value)))), made.node);
    conditions(place, all.filter((m) => m.condition && m.metric !== "confusion"));
  };

  const conditions = (place, rows) => {
    for (const key of unique(rows.map((m) => `${m.measure}\u0000${m.metric}`))) {
      const [measure, metric] = key.split("\u0000"), mine = rows.filter((m) => m.measure === measure && m.metric === metric);
      const values = mine.map((m) => ({ name: m.name, value: m.mean, std: m.std, condition: m.condition }));
      const title = mine[0].unit || mine[0].metric, label = `${measure}: ${mine[0].title} by condition`;
      place.append(make("h3", {}, `${measure}: ${mine[0].title}`));
      const every = values.map((v) => v.condition);
      if (every.some((c) => /, severity \d+$/.test(c))) place.append(heatMap(values, title, label));
      else if (every.every((c) => /\d/.test(c)) && every.every((c) => /^(step|temperature|epoch|ipc)\b/.test(c))) {
        const points = values.map((v) => ({ ...v, at: Number(v.condition.match(/[\d.]+/)[0]) }));
        place.append(chart({ data: { values: points }, height: 240, mark: { type: "line", point: true }, encoding: {
          x: q("at", values[0].condition.match(/^\w+/)[0], { axis: { tickMinStep: 1 } }), y: q("value", title, free),
          color: n("name", "trained on"), tooltip: [n("name", "trained on"), n("condition", "condition"), q("value", title)] } },
        label));
      } else place.append(bars(values, title, label));
    }
  };
  const heatMap = (values, title, label) => {
    const cells = values.filter((v) => / severity /.test(v.condition)).map((v) => {
      const [corruption, severity] = v.condition.split(", severity ");
      return { ...v, corruption: corruption.replaceAll("_", " "), severity };
    });
    const names = unique(cells.map((v) => v.name)), figure = make("figure");
    const area = make("div");
    const draw = (name) => area.replaceChildren(chart({ data: { values: cells.filter((v) => v.name === name) },
      width: { step: 46 }, height: { step: 17 }, encoding: { x: n("severity", "severity", { axis: { labelAngle: 0 } }),
        y: n("corruption", "", { sort: null }) },
      layer: [{ mark: "rect", encoding: { color: q("value", title, { scale: { scheme: "viridis" } }),
        tooltip: [n("corruption"), n("severity"), q("value", title)] } },
      { mark: { type: "text", fontSize: 10 }, encoding: { text: q("value", "", { format: ".1f" }), color: { value: "#fff" } } }] },
    `${label}, ${name}`));
    figure.append(make("div", { class: "filters" }, select("trained on", names, draw)), area);
    draw(names[0]);
    return figure;
  };
  const bars = (values, title, label) => {
    const first = values[0].name, own = values.filter((v) => v.name === first).sort((a, b) => a.value - b.value);
    const order = unique([...own, ...values].map((v) => v.condition)), names = unique(values.map((v) => v.name));
    const figure = make("figure"), area = make("div");
    const draw = (name) => area.replaceChildren(chart({
      data: { values: values.filter((v) => name === "all" || v.name === name) }, height: { step: name === "all" ? 7 : 15 },
      mark: { type: "bar" }, encoding: {
        y: n("condition", "", { sort: order }), x: q("value", title), color: n("name", "trained on"),
        ...(name === "all" ? { yOffset: { field: "name" } } : {}),
        tooltip: [n("condition", "condition"), n("name", "trained on"), q("value", title)] } }, `${label}, ${name}`));
    const options = names.length > 1 ? ["all", ...names] : names;
    const start = names.length * order.length > 240 ? names[0] : options[0];
    const field = select("trained on", options, draw);
    field.querySelector("select").value = start;
    figure.append(make("div", { class: "filters" }, field), area);
    draw(start);
    return figure;
  };

  const curves = () => {
    const values = { loss: [], accuracy: [] }, best = [];
    for (const set of sets) for (const c of set.curves) {
      const name = what(c, set.name) + (unique(set.curves.map((one) => one.arch)).length > 1 ? `, ${c.arch}` : "");
      const step = Math.max(Math.floor(c.epochs.length / 120), 1);
      c.epochs.forEach((epoch, i) => {
        const mean = (lists) => {
          const some = lists.map((one) => one[i]).filter((v) => v !== null && v !== undefined);
          return some.length ? some.reduce((a, b) => a + b, 0) / some.length : null;
        };
        if (i % step === 0 || i === c.epochs.length - 1) values.loss.push({ name, epoch, value: mean(c.losses) });
        const accuracy = mean(c.accuracies);
        if (accuracy !== null) values.accuracy.push({ name, epoch, value: accuracy });
      });
      const tops = c.best.filter((v) => v !== null && v !== undefined);
      const last = c.accuracies.map((one) => one[one.length - 1]).filter((v) => v !== null && v !== undefined);
      const mean = (some) => some.reduce((a, b) => a + b, 0) / some.length;
      if (tops.length) best.push({ name, best: mean(tops), last: mean(last) });
    }
    if (!values.loss.length) return;
    const place = section("curves", "Learning curves", "Means over students.");
    const grid = make("div", { class: "grid" });
    for (const [key, title] of [["accuracy", "accuracy, %"], ["loss", "loss (of different labels: not comparable)"]]) {
      if (!values[key].length) continue;
      grid.append(make("figure", {}, make("figcaption", {}, key === "loss" ? "Training loss" : "Validation accuracy"),
        chart({ data: { values: values[key] }, height: 260, mark: { type: "line" }, encoding: { x: q("epoch", "epoch"),
          y: q("value", title, { scale: { zero: false, type: key === "loss" ? "log" : "linear" } }),
          color: n("name", "trained on"), tooltip: [n("name"), q("epoch"), q("value")] } }, `${title} by epoch`)));
    }
    place.append(grid);
    if (best.length) {
      place.append(make("p", {}, "The best accuracy of a curve is shown here and used nowhere: choosing it would choose by "
        + "the validation images."), table([["trained on", (r) => r.name, (r) => r.name],
        ["last epoch", (r) => r.last, (r) => number(r.last), true], ["best of the curve (not used)", (r) => r.best,
          (r) => number(r.best), true]], best, "Last and best accuracy").node);
    }
  };

  const figures = () => {
    const found = sets.flatMap((set) => set.figures.map((one) => ({ ...one, set: set.name })));
    if (!found.length) return;
    const place = section("figures", "Figures"), grid = make("div", { class: "grid" });
    for (const one of found) {
      const of = what({ of: one.of, labels: "stored" }, one.set);
      if (one.of !== "this" && one.set !== sets[0].name) continue;  // a baseline is shown once
      grid.append(make("figure", {}, make("h3", {}, `${one.measure}: ${of}`),
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
      x: q("seconds", "seconds"), color: n("part", "part"), tooltip: [n("set"), n("part"), q("seconds")] } }, "Seconds by part"));
  };

  // ------------------------------------------------------------------ images

  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    return element;
  };
  const showCard = (set, image, target) => {
    const views = image.views.map((view, i) => {
      const picture = svg("svg", { viewBox: `0 0 ${set.size} ${set.size}`, role: "img", "aria-label": `view ${i}` });
      const [top, left, height, width] = view.box;
      picture.append(svg("image", { href: image.src, width: set.size, height: set.size, style: "image-rendering:pixelated" }),
        svg("rect", { x: left, y: top, width, height, fill: "none", stroke: "#ff3b6b", "stroke-width": set.size / 48 }));
      const list = make("ol", {}, ...view.top.map(([c, sharp, even]) => make("li", {},
        make("span", { class: "bar", style: `width:${(2.2 * sharp).toFixed(2)}em` }),
        `${set.classes[c]} ${(100 * sharp).toFixed(1)} % (${(100 * even).toFixed(1)} %)`)));
      return make("div", { class: "view" }, picture,
        make("div", { class: "quiet" }, `view ${i}${view.flip ? ", mirrored" : ""}${view.mixed ? ", mixed" : ""}`), list);
    });
    card.replaceChildren(make("strong", {}, set.classes[image.c]), ` · crops and soft labels (at temperature ${set.temperature})`,
      make("div", { class: "views" }, ...views));
    card.hidden = false;
    const box = target.getBoundingClientRect(), mine = card.getBoundingClientRect();
    card.style.left = `${Math.max(4, Math.min(box.left, innerWidth - mine.width - 8))}px`;
    const below = box.bottom + 6;
    card.style.top = `${below + mine.height < innerHeight ? below : Math.max(4, box.top - mine.height - 6)}px`;
  };
  const hideCard = () => { card.hidden = true; };

  const images = (all) => {
    const place = section("images", "Images", "Hover or focus an image for its first views and their soft labels; a class name "
      + "for what it is taken for.");
    const list = make("div"), bar = make("div", { class: "filters" });
    const draw = (name) => {
      const set = sets.find((one) => one.name === name);
      const byClass = set.classes.map((title, label) => [title, set.images.filter((image) => image.c === label)]);
      list.replaceChildren(...byClass.filter(([, mine]) => mine.length).map(([title, mine]) => {
        const row = make("div", { class: "row" });
        const line = make("div", { class: "class" }, make("button", { type: "button", "aria-expanded": "false", title,
          onclick: (event) => confusions(event.currentTarget, line, set, title, all) }, title), row);
        row.append(...mine.map((image, i) => {
          const shown = make("img", { alt: `${title}, image ${i}`, tabindex: "0", loading: "lazy", decoding: "async",
            src: image.src });
          for (const enter of ["mouseenter", "focus"]) shown.addEventListener(enter, () => showCard(set, image, shown));
          for (const leave of ["mouseleave", "blur"]) shown.addEventListener(leave, hideCard);
          return shown;
        }));
        return line;
      }));
    };
    if (sets.length > 1) bar.append(select("set", sets.map((one) => one.name), draw));
    place.append(bar, list);
    draw(sets[0].name);
  };
  const confusions = (button, line, set, title, all) => {
    const open = line.querySelector(".confusions");
    button.setAttribute("aria-expanded", open ? "false" : "true");
    if (open) { open.remove(); return; }
    const mine = all.filter((m) => m.set === set.name && m.own && m.metric === "confusion" && m.condition.startsWith(`${title} > `))
      .sort((a, b) => b.mean - a.mean);
    const own = all.find((m) => m.set === set.name && m.own && m.measure === "per-class" && m.metric === "accuracy"
      && m.condition === title);
    const words = mine.map((m) => `${m.condition.slice(title.length + 3)} (${number(m.mean)} %)`).join(", ");
    line.append(make("p", { class: "confusions" }, mine.length
      ? `Accuracy ${own ? number(own.mean) : "–"} %; taken for ${words}.`
      : "Not measured: ddkit evaluate --measure per-class."));
  };

  // ------------------------------------------------------------------ theme and keys

  const button = document.getElementById("theme");
  const setTheme = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light" : "Dark";
    button.setAttribute("aria-pressed", String(dark));
    charts.filter(([place]) => place.dataset.drawn === "yes" && place.isConnected).forEach((one) => {
      one[0].replaceChildren();
      drawChart(one);
    });
  };
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  button.addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideCard(); });

  const rows = allResults(), measured = allMeasurements();
  overview();
  if (rows.length) results(rows);
  measures(measured);
  curves();
  figures();
  costs();
  images(measured);
  document.documentElement.dataset.ready = "yes";
})();
