// The live page: what the worker sends by server-sent events, drawn anew where it has changed.
import { bins, compact, contribution, el, lines, percent, timeTicks } from "./charts.js";

const $ = (id) => document.getElementById(id);
const WORDS = {
  average_precision: "average precision", roc_auc: "ROC AUC", recall: "recall", precision: "precision", accuracy: "accuracy", log_loss: "log loss",
  calibration_error: "calibration error", macro_f1: "macro F1", kappa: "Cohen's kappa", mae: "mean absolute error", rmse: "RMSE", r2: "R²", bias: "bias",
};
const LOWER_IS_BETTER = new Set(["log_loss", "calibration_error", "mae", "rmse"]);
const word = (key) => WORDS[key] ?? key;
const figure = (v) => (v === null || v === undefined ? "–" : Math.abs(v) >= 100 ? compact(v) : v.toFixed(3));
const whole = (v) => (v === null || v === undefined ? "–" : Math.round(v).toLocaleString("en"));
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = (ms) => new Date(ms).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
function duration(s) {
  if (s === null || s === undefined) return "–";
  if (s < 1) return `${s < 0.01 ? (s * 1e3).toFixed(1) : Math.round(s * 1e3)} ms`;
  const [size, unit] = [[86_400, "days"], [3_600, "h"], [60, "min"]].find(([size]) => s >= 2 * size) ?? [1, "s"];
  return `${(s / size).toFixed(1)} ${unit}`;
}

let state = null, course = null, known = null;
const drawn = new Map();

// Draw a part only when what it is made of has changed: selections and scroll positions stay.
function part(name, data, draw) {
  const now = JSON.stringify(data);
  if (drawn.get(name) === now) return;
  drawn.set(name, now);
  draw();
}

function draw() {
  if (!state) return;
  part("head", [state.pipeline, state.task], () => {
    $("pipeline").textContent = state.pipeline;
    $("task").textContent = state.task;
    document.title = `${state.pipeline} · driftloop`;
  });
  part("trouble", state.trouble, () => {
    $("trouble").hidden = !state.trouble.length;
    $("trouble").replaceChildren(...state.trouble.map((text) => el("p", {}, text)));
  });
  part("tiles", [state.flow, state.learner?.window, state.learner?.drift, state.learner?.trial, state.labels, state.dead.count], tiles);
  part("quality", [course, state.drifts, state.releases, state.key], quality);
  part("figures", [state.learner?.window, state.learner?.overall], figures);
  part("objectives", state.objectives, objectives);
  part("segments", [state.learner?.segments, course?.segments, course?.offset, state.drifts], segments);
  part("slots", [state.learner?.slots, state.learner?.trial, course?.trial, state.drifts], models);
  part("releases", state.releases, releases);
  part("flow", [state.flow], partitions);
  part("course", [course?.at_ms], flowCharts);
  part("labels", [state.labels, state.estimated], labels);
  part("budget", state.budget, budget);
  part("features", state.learner?.features, features);
  part("predictions", state.predictions, predictions);
  part("drifts", state.drifts, drifts);
  part("dead", state.dead, dead);
  part("workers", state.workers.map(({ worker, role, partitions }) => [worker, role, partitions]), () => {
    const alive = state.workers.map((w) => `${w.role} ${w.worker} (${w.partitions.length ? `partitions ${w.partitions.join(", ")}` : "spare"})`);
    $("workers").textContent = alive.length ? `Workers: ${alive.join("; ")}` : "No worker has reported within 10 s";
  });
  announce();
}

function tile(name, big, sub, tone = "") {
  return el("div", { class: `tile ${tone}` }, el("dt", {}, name), el("dd", { class: "big" }, big), el("dd", { class: "sub" }, sub));
}

function tiles() {
  const { flow, learner, labels: its, dead: letters, key } = state;
  const lag = flow.lag_events + flow.lag_labels, drift = learner?.drift, window = learner?.window;
  const late = flow.per_s ? lag / flow.per_s : 0;
  $("tiles").replaceChildren(
    tile("Events per second", compact(flow.per_s), `${whole(flow.events)} in all`),
    tile("Lag", whole(lag), flow.lag_examples === null ? "records" : `records; ${whole(flow.lag_examples)} to learn`, lag > 1000 && late > 10 ? "warm" : ""),
    tile("Latency, median", duration(flow.latency?.p50), flow.latency ? `99 %: ${duration(flow.latency.p99)}, last minute` : "nothing in the last minute"),
    tile(`${word(key)[0].toUpperCase()}${word(key).slice(1)}`, figure(window?.model[key]), window ? `last ${whole(window.labels)} labels` : "no labels yet"),
    tile("Drift", drift?.episode ? "now" : drift ? "none" : "–", drift ? (drift.monitors ? `${drift.episodes} so far; ${drift.ready}/${drift.monitors} monitors ready` : "not watched") : "", drift?.episode ? "bad" : ""),
    tile("On trial", learner?.trial ? `${learner.trial.stage}` : "nobody", learner?.trial ? `answers ${percent(learner.trial.share)}` : "one model answers all"),
    tile("Labelled", percent(its.coverage), `${whole(its.learned)} learned`),
    tile("Dead letters", whole(letters.count), letters.codes[0] ? letters.codes[0].code : "no record was refused", letters.count > 0.01 * (flow.predictions + letters.count) ? "warm" : ""),
  );
}

const driftMark = (d, x, text) => ({ x, cls: "c-red", tone: "t-red", text, title: driftText(d) });

function marks() {
  const found = state.drifts.map((d) => driftMark(d, d.from_offset, "drift"));
  const tone = { promoted: ["c-green", "t-green", "promoted"], rolled_back: ["c-purple", "t-purple", "rolled back"] };
  for (const r of state.releases) {
    const its = tone[r.action];
    if (its) found.push({ x: r.offset, cls: its[0], tone: its[1], text: its[2], title: `${r.base} ${its[2]}: ${r.reason}` });
  }
  return found;
}

function legend(id, entries) {
  $(id).replaceChildren(...entries.map(([text, cls]) => el("span", { class: cls }, text)));
}

const column = (name) => course.offset.map((x, i) => [x, course[name][i]]);

function quality() {
  $("quality-title").textContent = `${word(state.key)[0].toUpperCase()}${word(state.key).slice(1)} in the sliding window, over the examples learned`;
  const systems = [["model", "c-blue", "served"], ["prior", "c-grey", "prior"], ["persistence", "c-orange", "last label"]].filter(([name]) => course?.[name]?.some((v) => v !== null));
  const marked = marks(), told = [["drift", "c-red"], ["promoted", "c-green"], ["rolled back", "c-purple"]].filter(([text]) => marked.some((m) => m.text === text));
  legend("quality-legend", [...systems.map(([, cls, text]) => [text, cls]), ...told]);
  if (!course?.offset?.length) {
    $("quality-chart").replaceChildren(el("p", { class: "note" }, "No figures yet: they come with the first labels."));
    return;
  }
  const series = systems.reverse().map(([name, cls]) => ({ cls, points: column(name) }));
  const last = course.model.filter((v) => v !== null).at(-1);
  lines($("quality-chart"), {
    series, marks: marked, yText: (v) => compact(v), yMax: state.task === "regression" ? null : 1, xTicks: 8,
    label: `${word(state.key)} of served predictions, now ${figure(last)}; ${state.drifts.length} drifts marked`, none: "Not enough points yet.",
  });
}

function figures() {
  const its = state.learner;
  $("quality-note").textContent = its ? `${its.version}; ${whole(its.overall.labels)} answers judged by their labels` : "No model yet: start a learn worker.";
  if (!its) return $("figures").replaceChildren();
  const systems = ["model", "persistence", "prior"];
  const heading = (text) => el("th", { scope: "col" }, text);
  const rows = its.figures.map((name) => {
    const cells = systems.map((system) => its.window[system][name]);
    const known = cells.filter((v) => v !== null && v !== undefined);
    const best = known.length > 1 && name !== "bias" ? (LOWER_IS_BETTER.has(name) ? Math.min(...known) : Math.max(...known)) : null;
    const all = [...cells.map((v) => el("td", { class: v !== null && v === best ? "best" : "" }, figure(v))), el("td", {}, figure(its.overall.model[name]))];
    return el("tr", {}, el("th", { scope: "row" }, word(name)), ...all);
  });
  $("figures").replaceChildren(
    el("caption", {}, `The last ${whole(its.window.labels)} labels; at the right, all of them`),
    el("thead", {}, el("tr", {}, heading(""), heading("model"), heading("last label"), heading("prior"), heading("model, all"))),
    el("tbody", {}, ...rows),
  );
}

const OBJECTIVES = {
  skill_vs_persistence: ["skill against the last label", figure], latency_p99_ms: ["99 % of the answers, ms", compact],
  label_delay_p50_ms: ["half of the labels came within", (ms) => duration(ms / 1_000)], label_coverage: ["share of events with a label", percent],
};

function objectives() {
  $("promised").hidden = !state.objectives.length;
  $("objectives").replaceChildren(...state.objectives.map((its) => {
    const [text, shown] = OBJECTIVES[its.name] ?? [word(its.name), figure];
    const [tone, verdict] = its.kept === null ? ["", "not known yet"] : its.kept ? ["good", "kept"] : ["bad", "broken"];
    return el("li", {}, el("span", { class: `pill ${tone}` }, verdict),
      el("span", {}, `${text}: ${its.now === null ? "–" : shown(its.now)}, `, el("span", { class: "muted" }, `${its.wanted.startsWith("at most") ? "at most" : "at least"} ${shown(its.target)}${its.basis === "unbiased.window" ? ", of all events" : ""}`)));
  }));
}

function card(title, note, chartClass, moved) {
  const chart = el("div", { class: `chart ${chartClass}` });
  const head = el("div", { class: "multi-title" }, el("span", { title }, title), el("span", { class: moved ? "moved" : "" }, note));
  return [el("figure", { class: "card" }, head, chart), chart];
}

function segments() {
  const shown = (state.learner?.segments ?? []).slice(0, 12), made = [];
  for (const s of shown) made.push([...card(`${s.segment}: ${s.value}`, figure(s.figure), "small"), s]);
  $("segments").replaceChildren(...made.map(([node]) => node));
  const lost = state.drifts.map((d) => driftMark(d, d.from_offset, ""));
  for (const [, chart, s] of made) {
    const values = course?.segments?.[s.segment]?.[s.value];
    const points = values ? course.offset.map((x, i) => [x, values[i]]) : [];
    lines(chart, { series: [{ cls: "c-blue", points }], marks: lost, label: `${word(state.key)} where ${s.segment} is ${s.value}: ${figure(s.figure)}`, none: s.figure === null ? `Undefined over the last ${whole(s.window)} labels.` : `${whole(s.labels)} labels`, xTicks: 3 });
  }
}

function models() {
  const its = state.learner, trial = its?.trial;
  $("models-note").textContent = its ? `${compact(its.size_bytes)} bytes` : "";
  const share = { champion: trial ? 1 - trial.share : 1, challenger: trial?.stage === "canary" ? trial.share : 0 };
  const words = { champion: "good", challenger: "blue", previous: "" };
  const rows = Object.entries(its?.slots ?? {}).map(([slot, version]) =>
    el("div", { class: "slot" }, el("span", { class: `pill ${words[slot] ?? ""}` }, slot), el("code", {}, version), el("span", { class: "share" }, slot === "previous" ? "kept warm" : `answers ${percent(share[slot] ?? 0)}`)));
  if (trial?.stage === "canary") {
    const bar = el("span");
    bar.style.width = `${trial.share * 100}%`;
    rows.push(el("div", { class: "bar", role: "img", "aria-label": `the model on trial answers ${percent(trial.share)}` }, bar));
  }
  $("slots").replaceChildren(...(rows.length ? rows : [el("p", { class: "note" }, "No model yet.")]));
  $("trial").replaceChildren();
  if (!trial) return rows.length && $("trial").append(el("p", { class: "note" }, "Nobody is on trial. A released candidate is scored beside the champion, then answers a share that follows its labels."));
  const name = "mae_candidate" in trial ? "mae" : "accuracy";
  const pair = (k, v) => [el("dt", {}, k), el("dd", {}, v)];
  const wealth = el("div", { class: "chart wealth" }), rolling = el("div", { class: "chart wealth" });
  $("trial").append(
    el("dl", { class: "pairs" }, ...pair("stage", trial.stage), ...(trial.stage === "canary" ? pair("answers", `${percent(trial.share)} of the entities`) : []),
      ...("gain_confidence" in trial ? pair(`better by, ${percent(trial.gain_confidence)} confidence whenever one looks`, gain(trial)) : []),
      ...pair("labels compared", whole(trial.labels)),
      ...pair(`${word(name)}: on trial, rival`, `${figure(trial[`${name}_candidate`])}, ${figure(trial[`${name}_rival`])}`),
      ...pair("distance of the answers", figure(trial.distribution_shift))),
    el("div", { class: "multi-title" }, el("span", {}, "Evidence, valid at any moment"), el("span", { class: "legend" }, el("span", { class: "c-green" }, "better"), el("span", { class: "c-red" }, "worse"))),
    wealth,
    el("div", { class: "multi-title" }, el("span", {}, `${word(name)}, step by step`), el("span", { class: "legend" }, el("span", { class: "c-blue" }, "on trial"), el("span", { class: "c-grey" }, "rival"))),
    rolling,
  );
  const onTrial = (course?.trial ?? []).map((t, i) => [course.offset[i], t]).filter(([, t]) => t && t[0] === trial.base && (t[1] === "probation") === (trial.stage === "probation"));
  const points = onTrial.map(([, t]) => t);
  // Drifts are told by examples, a trial by the labels it has compared: the first point after the change knows both.
  const lost = state.drifts.filter((d) => onTrial[0]?.[0] <= d.from_offset).flatMap((d) => onTrial.filter(([offset]) => offset >= d.from_offset).slice(0, 1).map(([, t]) => driftMark(d, t[3], "drift")));
  lines(wealth, {
    marks: lost,
    series: [{ cls: "c-green", points: points.map((t) => [t[3], Math.max(1e-3, t[6])]) }, { cls: "c-red", points: points.map((t) => [t[3], Math.max(1e-3, t[7])]) }],
    levels: [{ y: trial.needed, cls: "c-grey", text: `decides: ${compact(trial.needed)}` }], logarithmic: true, none: "The course of the evidence comes with the next labels.",
    label: `evidence that the model on trial is better ${compact(trial.evidence_better)}, worse ${compact(trial.evidence_worse)}, needed ${compact(trial.needed)}`,
  });
  lines(rolling, {
    marks: lost,
    series: [{ cls: "c-grey", points: steps(points, 5) }, { cls: "c-blue", points: steps(points, 4) }], none: "It comes with the next labels.",
    label: `${word(name)} of the model on trial and of its rival, over the labels compared`,
  });
}

// A confidence sequence; it may have one end only.
function gain(trial) {
  const [low, high] = [trial.gain_low, trial.gain_high].map((x) => (x === null ? null : `${x < 0 ? "−" : "+"}${Number(Math.abs(x).toPrecision(3))}`));
  const unit = "mae_rival" in trial ? "of the rival's mean absolute error" : "in loss";
  if (low === null && high === null) return "not known yet";
  return `${low === null ? `at most ${high}` : high === null ? `at least ${low}` : `${low} to ${high}`} ${unit}`;
}

// The figures of a trial are means since its beginning; between two points lies the mean of the labels between them.
function steps(points, at) {
  const found = [];
  let before = [0, 0];
  for (const t of points) {
    if (t[at] === null || t[3] - before[0] < 200) continue;
    const sum = t[at] * t[3];
    found.push([t[3], (sum - before[1]) / (t[3] - before[0])]);
    before = [t[3], sum];
  }
  return found;
}

const TONES = { started: "blue", released: "blue", canary: "warm", promoted: "good", confirmed: "good", rolled_back: "bad", rejected: "bad" };

function releases() {
  const rows = [...state.releases].reverse().map((r) => {
    const rest = r.action === "canary" ? ` answers ${percent(r.share)}` : "";
    return el("li", {}, el("span", { class: `pill ${TONES[r.action] ?? ""}` }, r.action.replace("_", " ")), el("code", {}, r.base), rest,
      el("div", { class: "why" }, `${r.reason || "no reason was given"} · ${r.by} · ${day(r.at_ms)} · at example ${whole(r.offset)}`));
  });
  $("releases").replaceChildren(...(rows.length ? rows : [el("li", { class: "note" }, "Nothing has changed yet.")]));
}

function partitions() {
  const { flow } = state, age = flow.age;
  $("flow-note").textContent = age ? `From an event's timestamp to its answer: median ${duration(age.p50)}, 99 % ${duration(age.p99)}` : "";
  const heading = (text) => el("th", { scope: "col" }, text);
  const rows = flow.partitions.map((p) =>
    el("tr", {}, el("th", { scope: "row" }, String(p.partition)), el("td", {}, compact(p.per_s)), el("td", {}, whole(p.lag_events)), el("td", {}, whole(p.lag_labels)),
      el("td", {}, duration(p.latency?.p50)), el("td", {}, duration(p.latency?.p95)), el("td", {}, duration(p.latency?.p99)), el("td", {}, p.worker ?? "nobody")));
  $("partitions").replaceChildren(
    el("caption", {}, "Latency: from an event's fetch to its published prediction, in the last minute"),
    el("thead", {}, el("tr", {}, ...["partition", "events/s", "lag, events", "lag, labels", "median", "95 %", "99 %", "owner"].map(heading))),
    el("tbody", {}, ...rows),
  );
}

function flowCharts() {
  const at = course?.at_ms ?? [];
  const over = (name, by = 1) => at.map((x, i) => [x, course[name][i] === null ? null : course[name][i] * by]);
  const short = at.length > 1 && at.at(-1) - at[0] < 3e5;
  const minute = (ms) => clock(ms).slice(0, short ? 8 : 5);
  lines($("rate-chart"), { series: [{ cls: "c-blue", points: over("per_s") }], yZero: true, xText: minute, xTicks: 3, xMarks: timeTicks, label: "events per second over time" });
  legend("latency-legend", [["median", "c-blue"], ["99 %", "c-purple"]]);
  lines($("latency-chart"), { series: [{ cls: "c-purple", points: over("p99_s", 1e3) }, { cls: "c-blue", points: over("p50_s", 1e3) }], yZero: true, xText: minute, xTicks: 3, xMarks: timeTicks, label: "latency in milliseconds over time, median and 99 %" });
}

function labels() {
  const its = state.labels, bar = el("span");
  bar.style.width = `${(its.coverage ?? 0) * 100}%`;
  const pairs = Object.entries(its.timing).flatMap(([name, count]) => [el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, whole(count))]);
  $("labels").replaceChildren(
    el("p", { class: "note" }, its.coverage === null ? "No predictions yet." : `${percent(its.coverage)} of ${whole(its.predictions)} answers have a label that somebody gave.`),
    el("div", { class: "bar", "aria-hidden": "true" }, bar), el("dl", { class: "pairs" }, ...pairs), ...estimated());
}

// How good the answers are by their scores, while labels are missing, and how earlier estimates turned out.
function estimated() {
  const its = state.estimated, before = its?.turned_out;
  if (!its) return [];
  return [el("p", { class: "note", id: "estimated" },
    `Estimated without labels: accuracy ${figure(its.accuracy)} (90 %: ${figure(its.low)} to ${figure(its.high)}) of the last ${whole(its.predictions)} answers, ${percent(its.coverage)} of them labelled.`,
    before ? ` Before, ${figure(before.expected)} was expected and ${figure(before.accuracy)} turned out, by ${whole(before.labelled)} labels.` : "")];
}

function budget() {
  const its = state.budget;
  $("budget").replaceChildren();
  if (!its) return;
  const bar = el("span"), spent = its.allowed ? Math.min(1, its.spent / its.allowed) : 0;
  bar.style.width = `${spent * 100}%`;
  const pair = (k, v) => [el("dt", {}, k), el("dd", {}, v)];
  $("budget").append(
    el("h4", {}, "Asked of people"),
    el("p", { class: "note" }, `${whole(its.spent)} of ${whole(Math.floor(its.allowed))} label requests that the budget has allowed so far were spent.`),
    el("div", { class: "bar", "aria-hidden": "true" }, bar),
    el("dl", { class: "pairs" }, ...pair("answered", whole(its.answered)), ...pair("budget, of 1,000 events", compact(its.per_1000)),
      ...(its.per_day === null ? [] : pair("today, by event time", `${whole(its.today)} of ${whole(its.per_day)}`))));
}

function features() {
  const all = [...(state.learner?.features ?? [])].sort((a, b) => b.distance - a.distance);
  $("features-note").replaceChildren(
    all.length ? el("span", { class: "legend" }, el("span", { class: "c-then" }, "then: the first 2,048 examples"), el("span", { class: "c-blue" }, "now: the last 2,048"))
      : "They come after 2,048 labels; features over a window of history after that window.");
  const made = all.map((f) => [...card(f.name, f.now.length ? `${percent(f.distance)} moved` : "", "small", f.distance >= 0.25), f]);
  $("distributions").replaceChildren(...made.map(([node]) => node));
  for (const [, chart, f] of made) {
    const values = f.values ?? [], edges = f.edges ?? [];
    const numbers = edges.length > 0, counts = numbers && edges.every((e, i) => Math.abs(e % 1) === 0.5 && (!i || e - edges[i - 1] === 1));
    const [low, high] = counts ? [edges[0] + 0.5, edges.at(-1) - 0.5] : [edges[0], edges.at(-1)];
    const names = counts ? [`below ${low}`, ...edges.slice(1).map((e) => compact(e - 0.5)), `above ${high}`] : numbers ? [`below ${compact(edges[0])}`, ...edges.slice(1).map((e, i) => `${compact(edges[i])} to ${compact(e)}`), `above ${compact(edges.at(-1))}`] : [...values, "all others"];
    const axis = numbers ? [{ at: 1 / names.length, text: compact(low), anchor: "start" }, { at: 1 - 1 / names.length, text: compact(high), anchor: "end" }]
      : [{ at: 0, text: values.slice(0, 2).join(", ").slice(0, 26), anchor: "start" }];
    bins(chart, { names, then: f.then, now: f.now, axis, label: `${f.name}: ${f.now.length ? percent(f.distance) : "0 %"} of the examples lie elsewhere than then` });
  }
}

function predictions() {
  const scale = state.predictions.find((p) => p.scale)?.scale;
  $("predictions-note").textContent = scale ? `Bars: how much each feature speaks for (right) or against (left), in ${scale === "log_odds" ? "log odds" : scale}` : "";
  const rows = state.predictions.map((p) => {
    const answer = typeof p.prediction === "number" ? figure(p.prediction) : String(p.prediction ?? "none yet");
    const sure = p.probability !== null ? percent(p.probability) : p.score !== null ? `score ${figure(p.score)}` : "";
    const largest = Math.max(...p.reasons.map(([, v]) => Math.abs(v)), 1e-12);
    const reasons = p.reasons.map(([name, v]) =>
      el("div", { class: "reason" }, el("dt", { title: name }, name), el("dd", {}, contribution(v, largest)), el("dd", { class: "n" }, `${v >= 0 ? "+" : "−"}${Math.abs(v).toFixed(2)}`)));
    return el("li", {}, el("div", { class: "what" }, el("div", { class: "answer" }, `${answer} `, el("small", {}, sure)), el("div", { title: p.event_id }, p.event_id),
      el("div", { class: "muted small" }, p.slot === "champion" ? p.version : `${p.version}, ${p.slot}`), el("div", { class: "muted small" }, p.where)),
      el("dl", { class: "reasons" }, ...(reasons.length ? reasons : [el("div", { class: "note" }, "no explanation")])));
  });
  $("predictions").replaceChildren(...(rows.length ? rows : [el("li", { class: "note" }, "No prediction yet.")]));
}

function driftText(d) {
  const where = d.segment ? ` where ${d.segment.replace("=", " is ")}` : "";
  return `${d.signal}${where} ${d.after > d.before ? "rose" : "fell"} from ${figure(d.before)} to ${figure(d.after)} since example ${whole(d.from_offset)}`;
}

function drifts() {
  const rows = [...state.drifts].reverse().map((d) => {
    const moved = d.moved.map((m) => `${m.feature} ${m.how.replaceAll("_", " ")} ${m.shift >= 0 ? "+" : "−"}${Math.abs(m.shift).toFixed(2)} sd`).join(", ");
    return el("li", {}, driftText(d), el("div", { class: "why" }, `noticed ${whole(d.to_offset - d.from_offset)} examples later · ${d.severity.toFixed(2)} sd${moved ? ` · ${moved}` : ""}`));
  });
  $("drifts").replaceChildren(...(rows.length ? rows : [el("li", { class: "note" }, "No drift so far.")]));
}

function dead() {
  const rows = state.dead.codes.map((c) =>
    el("li", {}, el("code", {}, c.code), ` ${whole(c.count)}`, c.message ? el("div", { class: "why" }, `${c.message} · ${c.where}`) : null));
  $("dead").replaceChildren(...(rows.length ? rows : [el("li", { class: "note" }, "Every record could be read.")]));
}

// For screen readers: only what a person would want to be told.
function announce() {
  const broken = state.objectives.filter((o) => o.kept === false).map((o) => o.name);
  const now = new Set([...state.drifts.map((d) => d.drift_id), ...state.releases.map((r) => r.release_id), ...broken]);
  if (known) {
    const news = [...state.drifts.filter((d) => !known.has(d.drift_id)).map((d) => `Drift: ${driftText(d)}`), ...state.releases.filter((r) => !known.has(r.release_id)).map((r) => `Model ${r.base} ${r.action.replace("_", " ")}`),
      ...broken.filter((name) => !known.has(name)).map((name) => `A promise is broken: ${OBJECTIVES[name]?.[0] ?? word(name)}`)];
    if (news.length) $("news").textContent = news.join(". ");
  }
  known = now;
}

function connection(text, tone) {
  $("connection").textContent = text;
  $("connection").className = `pill ${tone}`;
}

function listen() {
  const source = new EventSource("/stream");
  source.onopen = () => connection("live", "good");
  source.onerror = () => connection(source.readyState === EventSource.CLOSED ? "closed: reload" : "reconnecting", "bad");
  source.addEventListener("state", (event) => { state = JSON.parse(event.data); requestAnimationFrame(draw); });
  source.addEventListener("course", (event) => { course = JSON.parse(event.data); requestAnimationFrame(draw); });
}

const THEMES = [["", "Auto", "as the system"], ["light", "Light", "light"], ["dark", "Dark", "dark"]];

function theme(name) {
  const [value, text, words] = THEMES.find(([its]) => its === name) ?? THEMES[0];
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  $("theme").textContent = text;
  $("theme").setAttribute("aria-label", `Colours: ${words}`);
}

function stored() {
  try { return localStorage.getItem("driftloop.theme") ?? ""; } catch { return ""; }
}

$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.findIndex(([value]) => value === stored()) + 1) % THEMES.length][0];
  try { localStorage.setItem("driftloop.theme", next); } catch { /* not kept, then */ }
  theme(next);
});
for (const list of document.querySelectorAll(".log")) { list.tabIndex = 0; list.setAttribute("aria-label", list.parentElement.querySelector("h3").textContent); }
let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === wide) return; // a phone's address bar comes and goes
  wide = innerWidth;
  drawn.clear();
  requestAnimationFrame(draw);
});
theme(stored());
listen();
