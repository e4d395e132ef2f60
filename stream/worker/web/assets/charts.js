// Small charts as SVG. Text from records is only ever set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes = {}, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function canvas(container, label) {
  const width = Math.max(120, container.clientWidth), height = Math.max(50, container.clientHeight);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  container.replaceChildren(root);
  return [root, width, height];
}

export function ticks(low, high, count) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

const STEPS_S = [5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];

export function timeTicks(low, high, count) {
  const step = 1e3 * (STEPS_S.find((s) => (high - low) / 1e3 / s <= count) ?? 86400 * Math.ceil((high - low) / 864e5 / count));
  const zone = new Date(low).getTimezoneOffset() * 6e4, found = [];
  for (let t = Math.ceil((low - zone) / step) * step + zone; t <= high; t += step) found.push(t);
  return found;
}

export function compact(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return String(+value.toPrecision(3));
}

function empty(container, text) {
  container.replaceChildren(el("p", { class: "note" }, text));
}

// series: [{name, cls, points: [[x, y|null], ...]}]; marks: [{x, cls, title, to}]; levels: [{y, cls, text}]
export function lines(container, { series, marks = [], levels = [], label, xText = compact, yText = compact, yZero = false, yMax = null, logarithmic = false, none = "No figures yet.", xTicks = 5, xMarks = ticks }) {
  const shown = series.flatMap((s) => s.points.filter(([, y]) => y !== null && y !== undefined && Number.isFinite(y)));
  if (shown.length < 2) return empty(container, none);
  const [root, width, height] = canvas(container, label);
  const scale = logarithmic ? Math.log10 : (y) => y;
  const ys = [...shown.map(([, y]) => scale(y)), ...levels.map(({ y }) => scale(y))];
  let low = Math.min(...ys), high = Math.max(...ys);
  if (yZero) low = Math.min(0, low);
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  if (!(yZero && low === 0)) low -= room;
  high += room;
  if (!logarithmic && yMax !== null) high = Math.min(high, yMax + room * 0.2);
  if (!logarithmic && low < 0 && Math.min(...ys) >= 0) low = 0;
  const xs = shown.map(([x]) => x), first = Math.min(...xs), last = Math.max(...xs);
  const yTicks = logarithmic ? ticks(Math.ceil(low), Math.floor(high), 4).filter(Number.isInteger) : ticks(low, high, height > 200 ? 5 : 3);
  const texts = yTicks.map((t) => (logarithmic ? compact(+(10 ** t).toPrecision(3)) : yText(t)));
  const left = 10 + 6.4 * Math.max(...texts.map((t) => t.length), 1), right = width - 8, top = marks.length ? 16 : 8, bottom = height - 20;
  const X = (x) => left + ((x - first) / (last - first || 1)) * (right - left);
  const Y = (y) => bottom - ((scale(y) - low) / (high - low || 1)) * (bottom - top);
  yTicks.forEach((t, i) => {
    const y = bottom - ((t - low) / (high - low || 1)) * (bottom - top);
    root.append(svg("line", { x1: left, x2: right, y1: y, y2: y, class: "grid-line" }), svg("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, texts[i]));
  });
  root.append(svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }));
  const inner = xMarks(first, last, Math.max(2, Math.min(xTicks, Math.floor(width / 90))));
  for (const t of inner) {
    const at = X(t), anchor = at > right - 20 ? "end" : at < left + 12 ? "start" : "middle";
    root.append(svg("text", { x: at, y: height - 5, "text-anchor": anchor }, xText(t)));
  }
  for (const { y, cls, text } of levels) {
    root.append(svg("line", { x1: left, x2: right, y1: Y(y), y2: Y(y), class: `mark ${cls}` }), svg("text", { x: right, y: Y(y) - 4, "text-anchor": "end" }, text));
  }
  let free = -1e9;
  for (const { x, cls, title, text, tone } of [...marks].sort((a, b) => a.x - b.x)) {
    if (x < first || x > last) continue;
    const group = svg("g", {});
    group.append(svg("title", {}, title), svg("line", { x1: X(x), x2: X(x), y1: top, y2: bottom, class: `mark ${cls}` }));
    const wide = 6.2 * text.length;
    if (X(x) - wide / 2 > free && wide < right - left) {
      const at = Math.min(Math.max(X(x), left + wide / 2), right - wide / 2);
      group.append(svg("text", { x: at, y: 10, "text-anchor": "middle", class: tone }, text));
      free = at + wide / 2 + 4;
    }
    root.append(group);
  }
  for (const { cls, points } of series) {
    let path = "", open = false;
    for (const [x, y] of points) {
      if (y === null || y === undefined || !Number.isFinite(y)) { open = false; continue; }
      path += `${open ? "L" : "M"}${X(x).toFixed(1)} ${Y(y).toFixed(1)}`;
      open = true;
    }
    if (path) root.append(svg("path", { d: path, class: `line ${cls}` }));
  }
}

// Two distributions over the same bins, back to back: then as outline bars behind, now in front.
export function bins(container, { names, then, now, label, axis }) {
  const [root, width, height] = canvas(container, label);
  const bottom = height - 16, top = 4, left = 1, right = width - 1;
  const high = Math.max(...then, ...(now.length ? now : [0]), 0.01), step = (right - left) / names.length;
  names.forEach((name, i) => {
    const group = svg("g", {}), x = left + i * step, wide = Math.max(1, step - 2);
    const H = (share) => Math.max(share > 0 ? 1 : 0, (share / high) * (bottom - top));
    group.append(svg("title", {}, `${name}: ${percent(then[i])} then, ${now.length ? percent(now[i]) : "–"} now`));
    group.append(svg("rect", { x, y: bottom - H(then[i]), width: wide / 2, height: H(then[i]), class: "f-then" }));
    if (now.length) group.append(svg("rect", { x: x + wide / 2, y: bottom - H(now[i]), width: wide / 2, height: H(now[i]), class: "f-blue" }));
    root.append(group);
  });
  root.append(svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" }));
  for (const { at, text, anchor } of axis) root.append(svg("text", { x: left + at * (right - left), y: height - 3, "text-anchor": anchor }, text));
}

// One additive contribution: to the right it speaks for, to the left against.
export function contribution(value, largest) {
  const root = svg("svg", { viewBox: "-100 0 200 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const length = largest > 0 ? Math.min(100, (Math.abs(value) / largest) * 100) : 0;
  root.append(svg("line", { x1: 0, x2: 0, y1: 0, y2: 10, class: "axis", "vector-effect": "non-scaling-stroke" }));
  root.append(svg("rect", { x: value < 0 ? -length : 0, y: 1, width: length, height: 8, class: value < 0 ? "f-blue" : "f-orange" }));
  return root;
}

export function percent(share, digits = 0) {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  return `${value.toFixed(value > 0 && value < 1 && digits === 0 ? 1 : digits)} %`;
}
