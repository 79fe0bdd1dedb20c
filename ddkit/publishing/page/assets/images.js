// Section: the images by class, the views of an image with their soft labels, and what a class is taken for.

const card = document.getElementById("card");
const CONFUSIONS = 3;  // shown of a class

const svg = (name, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  element.append(...children);
  return element;
};

// ------------------------------------------------------------------ views

const stored = (set, image, patches) => {  // the stored image as SVG elements, its patches in the order of a view
  const all = () => svg("image", { href: image.src, width: set.size, height: set.size, style: "image-rendering:pixelated" });
  if (!patches.length) return [all()];
  const side = Math.sqrt(patches.length), step = Math.floor(set.size / side);
  const corner = (i) => [(i % side) * step, Math.floor(i / side) * step];
  return patches.map((patch, position) => {
    const [x, y] = corner(position);
    return svg("svg", { x, y, width: step, height: step, viewBox: `${corner(patch).join(" ")} ${step} ${step}`, class: "patch" }, all());
  });
};
const unmixed = (set, image, view) => {  // a view without mixing
  const [top, left, height, width] = view.box, size = set.view_size;
  return svg("g", view.flip ? { transform: `translate(${size} 0) scale(-1 1)` } : {},
    svg("svg", { width: size, height: size, viewBox: `${left} ${top} ${width} ${height}`, preserveAspectRatio: "none" },
      ...stored(set, image, view.patches)));
};
const mixedIn = (set, { image, region, share }, i) => {  // what is mixed into view i, as SVG elements
  const other = image === null ? null : set.images[image], parts = [];
  const theirs = other && unmixed(set, other, other.views[i]);
  if (!region) return theirs ? [svg("g", { opacity: share }, theirs)] : [];
  const [y, x, height, width] = region;
  if (theirs) parts.push(svg("svg", { x, y, width, height, viewBox: `${x} ${y} ${width} ${height}` }, theirs));
  const stroke = { stroke: "#ffffff", "stroke-width": set.view_size / 64, "stroke-dasharray": set.view_size / 20 };
  return [...parts, svg("rect", { x, y, width, height, class: "region", fill: theirs ? "none" : "#808080", ...stroke })];
};
const viewText = (set, view, i) => {
  const parts = [`view ${i}`, view.flip ? "mirrored" : "", view.patches.length ? "patches shuffled" : ""];
  if (view.mixed) {
    const { c, image, region, share } = view.mixed;
    parts.push(`${region ? "CutMix" : "Mixup"}: ${percent(share)} is another image, of ${set.classes[c]}`
      + (image === null ? ", not shown" : ""));
  }
  return parts.filter(Boolean).join(", ");
};
const viewNode = (set, image, view, i) => {
  const [top, left, height, width] = view.box, box = `0 0 ${set.size} ${set.size}`, size = set.view_size;
  const crop = svg("rect", { x: left, y: top, width, height, class: "crop", fill: "none", stroke: "#ff3b6b",
    "stroke-width": set.size / 32 });
  const before = svg("svg", { viewBox: box, role: "img", "aria-label": `crop of view ${i}` },
    ...stored(set, image, view.patches), crop);
  const after = svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": `pixels of view ${i}` },
    unmixed(set, image, view), ...(view.mixed ? mixedIn(set, view.mixed, i) : []));
  const list = make("ol", {}, ...view.top.map(({ c, sharp, soft }) => make("li", {},
    make("span", { class: "bar", style: `width:${(2.2 * sharp).toFixed(2)}em` }),
    `${set.classes[c]} ${percent(sharp)} (${percent(soft)})`)));
  return make("div", { class: "view" }, make("div", { class: "pair" }, before, after),
    make("div", { class: "quiet" }, viewText(set, view, i)), list);
};
const showCard = (set, image, target) => {
  card.replaceChildren(make("strong", {}, set.classes[image.c]),
    ` · crop, pixels and soft label of each view (at temperature 1 and ${set.temperature})`,
    make("div", { class: "views" }, ...image.views.map((view, i) => viewNode(set, image, view, i))));
  card.hidden = false;
  const box = target.getBoundingClientRect(), mine = card.getBoundingClientRect();
  card.style.left = `${Math.max(4, Math.min(box.left, innerWidth - mine.width - 8))}px`;
  const below = box.bottom + 6;
  card.style.top = `${below + mine.height < innerHeight ? below : Math.max(4, box.top - mine.height - 6)}px`;
};
const hideCard = () => { card.hidden = true; };

// ------------------------------------------------------------------ classes

const confusionsOf = (set, title, mine) => {
  // Conditions are "CLASS" for accuracies and "CLASS > OTHER" for confusions; both names must be those of classes.
  const names = new Set(set.classes), start = `${title} > `;
  const other = (m) => (m.condition.startsWith(start) ? m.condition.slice(start.length) : "");
  const own = mine.find((m) => m.metric === "accuracy" && m.condition === title);
  const taken = mine.filter((m) => m.metric === "confusion" && names.has(other(m)))
    .sort((a, b) => mean(b) - mean(a)).slice(0, CONFUSIONS);
  if (!own && !taken.length) return "";
  const list = taken.map((m) => `${other(m)} (${number(mean(m))} %)`).join(", ");
  return `accuracy ${own ? `${number(mean(own))} %` : "–"}; ${list ? `taken for ${list}` : "taken for no other class"}.`;
};
const confusions = (button, line, set, title, all) => {
  const open = line.querySelector(".confusions");
  button.setAttribute("aria-expanded", open ? "false" : "true");
  if (open) { open.remove(); return; }
  const mine = all.filter((m) => m.own && m.subject.name === set.name && m.measure === "per-class");
  const variant = variantAmong(mine), found = [];
  for (const [words, some] of groupBy(mine, variant)) {
    const text = confusionsOf(set, title, some);
    if (text) found.push(make("p", {}, words ? `${words}: ${text}` : text[0].toUpperCase() + text.slice(1)));
  }
  line.append(make("div", { class: "confusions" }, ...(found.length ? found
    : [make("p", {}, "Not measured: ddkit evaluate --measure per-class.")])));
};

const images = (all) => {
  const place = section("images", "Images", "Hover or focus an image for its first views and their soft labels; a class name "
    + "for what it is taken for.");
  const list = make("div"), bar = make("div", { class: "filters" });
  const draw = (name) => {
    const set = sets.find((one) => one.name === name), byClass = groupBy(set.images, (image) => image.c);
    list.replaceChildren(...[...byClass].sort(([a], [b]) => a - b).map(([label, mine]) => {
      const title = set.classes[label], row = make("div", { class: "row" });
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
