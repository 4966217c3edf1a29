"use strict";
// Everything shown follows from `chosen`, which is also what the address says.

const DATA = JSON.parse(document.getElementById("data").textContent);
const LAYERS = ["fc1", "fc2"];
const TASKS = 5;
const OPEN = 0.5; // a unit counts as open, and as used by a task, above this
const FROZEN = 0.01; // a weight counts as frozen where its gradient is multiplied by less than this
const LIVE = { e: "0.5", b: "51", top: "400", factor: "0.75", p: "1,1,1,0,0,0,0", m: "1,0,0,1,0,0,0" };
const DEFAULT = {
  c: "0.375", mode: "original", s_max: "400", widths: "12-12", seed: "1", with: "none", task: "1", epoch: "1",
  from: "fc1.1", to: "fc2.1", ...LIVE,
};
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)}%`;

// ---- what was recorded

const runs = new Map();

function runOf(c, mode, { s_max, widths, seed }) {
  const key = [widths, s_max, c, c === "0" ? "original" : mode, seed].join("|");
  if (!runs.has(key)) {
    const run = DATA.runs[key];
    const units = widths.split("-").map(Number);
    const bytes = Uint8Array.from(atob(run.masks), (letter) => letter.charCodeAt(0));
    const size = units[0] + units[1];
    const masks = run.frames.map((_, k) => Array.from(bytes.subarray(k * size, (k + 1) * size), (v) => v / 255));
    const ends = []; // the frame at the end of each task
    run.frames.forEach(([task], k) => { ends[task] = k; });
    runs.set(key, { ...run, units, masks, ends });
  }
  return runs.get(key);
}

/** The cumulative mask before `task`, and which task used each unit first (-1: none). */
function before(run, task) {
  const held = run.masks[0].map(() => 0), first = run.masks[0].map(() => -1);
  for (let earlier = 0; earlier < task; earlier += 1) {
    run.masks[run.ends[earlier]].forEach((mask, unit) => {
      held[unit] = Math.max(held[unit], mask);
      if (first[unit] < 0 && mask > OPEN) first[unit] = earlier;
    });
  }
  return { held, first };
}

// ---- what is chosen, and the address

const chosen = { ...DEFAULT };
const SELECTS = ["c", "mode", "s_max", "widths", "seed", "with"];

function allowed(name) {
  if (name === "from" || name === "to") return ends(name).map(([value]) => value);
  if (name === "with") return DATA.with;
  return SELECTS.includes(name) ? DATA.choices[name] : null;
}

function isNumber(text, low, high) {
  return text.trim() !== "" && Number(text) >= low && Number(text) <= high;
}

function fault(name, value) {
  const values = allowed(name);
  if (values) return values.includes(value) ? "" : `allowed are ${values.join(", ")}`;
  if (name === "p" || name === "m") {
    const parts = value.split(",");
    return parts.length === 7 && parts.every((part) => isNumber(part, 0, 1)) ? "" : "needed are seven numbers from 0 to 1";
  }
  const [low, high] = { task: [1, TASKS], epoch: [1, 1000], e: [-6, 6], b: [1, 101], top: [1, 1000], factor: [0, 1000] }[name];
  return isNumber(value, low, high) ? "" : `allowed is ${low} to ${high}`;
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const faults = [];
  Object.assign(chosen, DEFAULT);
  for (const name of Object.keys(DEFAULT)) { // widths come before from and to, which depend on them
    if (!asked.has(name)) continue;
    const wrong = fault(name, asked.get(name));
    if (wrong) faults.push(`${name} = ${asked.get(name)} in the address: ${wrong}; ${chosen[name]} is shown.`);
    else chosen[name] = asked.get(name);
  }
  for (const name of asked.keys()) if (!(name in DEFAULT)) faults.push(`${name} in the address is not known.`);
  byId("notice").textContent = faults.join(" ");
  frame = frameOf(run(), Number(chosen.task) - 1, Number(chosen.epoch) - 1);
  draw();
}

function address(settings) {
  const told = Object.entries(settings).filter(([name, value]) => value !== DEFAULT[name]);
  return `#${told.length ? new URLSearchParams(told) : "c=" + DEFAULT.c}`.replaceAll("%2C", ",");
}

function change(changes) {
  Object.assign(chosen, changes);
  for (const name of ["from", "to"]) if (fault(name, chosen[name])) chosen[name] = DEFAULT[name];
  history.replaceState(null, "", address(chosen));
  byId("notice").textContent = "";
  draw();
}

// ---- time

let frame = 0;
let timer = 0;
const run = () => runOf(chosen.c, chosen.mode, chosen);

/** The last frame of the run that is not after an epoch of a task. */
function frameOf(of, task, epoch) {
  let found = 0;
  of.frames.forEach(([t, e], k) => { if (t < task || (t === task && (e <= epoch || of.frames[k - 1]?.[0] !== t))) found = k; });
  return found;
}

function go(to) {
  frame = Math.min(Math.max(to, 0), run().frames.length - 1);
  const [task, epoch] = run().frames[frame];
  change({ task: String(task + 1), epoch: String(epoch + 1) });
}

function play(on) {
  clearInterval(timer);
  timer = 0;
  byId("play").textContent = on ? "Stop" : "Play";
  byId("now").setAttribute("aria-live", on ? "off" : "polite");
  if (!on) return;
  if (frame === run().frames.length - 1) go(0);
  const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1500 : 250;
  timer = setInterval(() => { go(frame + 1); if (frame === run().frames.length - 1) play(false); }, pause);
}

// ---- drawing

function svg(parent, name, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return parent.appendChild(element);
}

const HEIGHT = 470, TOP = 34;
const unitName = (units, k) => (k < units[0] ? `fc1.${k + 1}` : `fc2.${k - units[0] + 1}`);

/** Where each unit stands: a layer of more than 20 units in two columns. */
function places(units) {
  return units.flatMap((n, layer) => {
    const columns = n > 20 ? 2 : 1, rows = Math.ceil(n / columns), step = (HEIGHT - TOP) / rows;
    return Array.from({ length: n }, (_, i) => ({
      x: [180, 330][layer] + (columns - 1) * ((i % 2) * 44 - 22), y: TOP + step * (Math.floor(i / columns) + 0.5), r: columns > 1 ? 9 : 13,
    }));
  });
}

const outputPlace = (task) => ({ x: 456, y: TOP + ((HEIGHT - TOP) / TASKS) * (task + 0.5) });

/** The ends that a weight can have: [value, what is shown]. */
function ends(which) {
  const units = chosen.widths.split("-").map(Number);
  const names = (layer) => Array.from({ length: units[layer] }, (_, i) => [`fc${layer + 1}.${i + 1}`, `${LAYERS[layer]}, unit ${i + 1}`]);
  if (which === "from") return [["image", "the image"], ...names(0), ...names(1)];
  const outputs = Array.from({ length: TASKS }, (_, t) => [`output.${t + 1}`, `the output of task ${t + 1}`]);
  return [...names(0), ...names(1), ...outputs];
}

function index(end) {
  const [layer, number] = end.split(".");
  return layer === "fc1" ? Number(number) - 1 : Number(chosen.widths.split("-")[0]) + Number(number) - 1;
}

const layerOf = (end) => ["image", "fc1", "fc2", "output"].indexOf(end.split(".")[0]);

/** What the weight from one end to the other is worth to the earlier tasks, and whether it works now. */
function weightState(of, state, now, from, to) {
  if (layerOf(to) === 3) {
    const task = Number(to.split(".")[1]) - 1, unit = now[index(from)];
    return { factor: task === of.frames[frame][0] ? 1 : 0, owner: task, now: task === of.frames[frame][0] && unit > OPEN };
  }
  const reading = index(to), read = layerOf(from) === 0 ? null : index(from);
  const least = (mask) => (read === null ? mask[reading] : Math.min(mask[reading], mask[read]));
  const owner = of.ends.slice(0, of.frames[frame][0]).findIndex((end) => least(of.masks[end]) > OPEN);
  return { factor: 1 - least(state.held), owner, now: least(now) > OPEN };
}

function drawNetwork(of, state, now, task) {
  const canvas = byId("network"), focused = document.activeElement?.dataset?.unit;
  canvas.replaceChildren();
  canvas.setAttribute("viewBox", `0 0 516 ${HEIGHT + 6}`);
  const place = places(of.units), image = { x: 50, y: TOP + (HEIGHT - TOP) / 2 };
  [["image", 30], ["fc1", 180], ["fc2", 330], ["outputs", 470]].forEach(([name, x]) =>
    svg(canvas, "text", { x, y: 18, "text-anchor": "middle" }, name));
  const weights = svg(canvas, "g", { "aria-hidden": "true" }); // the two selections beside it do the same by keyboard
  const line = (from, to, a, b) => {
    const picked = chosen.from === from && chosen.to === to;
    const small = of.units[0] <= 20;
    const touches = [from, to].some((end) => end === chosen.from || end === chosen.to);
    if (!small && !picked && !(layerOf(from) === 1 && touches)) return; // whole only where it can be read
    const is = weightState(of, state, now, from, to);
    const output = layerOf(to) === 3, frozen = is.factor < FROZEN && (!output || is.owner < task);
    const names = ["weight"];
    if (is.now) names.push("now");
    if (frozen) names.push(is.owner < 0 ? "idle" : "frozen");
    if (picked) names.push("picked");
    const group = svg(weights, "g", { class: names.join(" "), "data-weight": `${from} ${to}` });
    const where = { x1: a.x, y1: a.y, x2: b.x, y2: b.y };
    const colour = frozen && is.owner >= 0 ? is.owner : is.now ? task : -1;
    svg(group, "line", { ...where, class: "seen", ...(colour >= 0 && !picked ? { style: `stroke: var(--task${colour})` } : {}) });
    svg(group, "line", { ...where, class: "touch" });
    group.addEventListener("click", () => change({ from, to }));
  };
  for (let i = 0; i < of.units[0]; i += 1) line("image", `fc1.${i + 1}`, image, place[i]);
  for (let j = 0; j < of.units[0]; j += 1)
    for (let i = 0; i < of.units[1]; i += 1) line(`fc1.${j + 1}`, `fc2.${i + 1}`, place[j], place[of.units[0] + i]);
  for (let j = 0; j < of.units[1]; j += 1)
    for (let t = 0; t < TASKS; t += 1) line(`fc2.${j + 1}`, `output.${t + 1}`, place[of.units[0] + j], outputPlace(t));

  const pixels = svg(canvas, "g", { "aria-hidden": "true" });
  for (let k = 0; k < 64; k += 1)
    svg(pixels, "rect", { x: 10 + 5 * (k % 8), y: image.y - 20 + 5 * Math.floor(k / 8), width: 4.4, height: 4.4, class: "axis", fill: "none" });
  svg(pixels, "text", { x: 30, y: image.y + 38, "text-anchor": "middle" }, "8 x 8");
  for (let t = 0; t < TASKS; t += 1) {
    const { x, y } = outputPlace(t);
    svg(canvas, "rect", { x: x - 8, y: y - 12, width: 16, height: 24, rx: 4, style: `fill: var(--task${t}); opacity: ${t <= task ? 1 : 0.3}` });
    svg(canvas, "text", { x: x + 14, y: y + 4 }, `task ${t + 1}`);
  }
  place.forEach(({ x, y, r }, k) => {
    const name = unitName(of.units, k), held = state.first[k] >= 0, open = now[k] > OPEN;
    const picked = [chosen.from, chosen.to].includes(name);
    const names = ["unit", ...(open ? ["open"] : []), ...(held ? ["held"] : []), ...(picked ? ["picked"] : [])];
    const says = `${name}: mask ${now[k].toFixed(2)}, ${held ? `first used by task ${state.first[k] + 1}` : "used by no earlier task"}`;
    const inLayer = k < of.units[0] ? k === 0 : k === of.units[0];
    const group = svg(canvas, "g", { class: names.join(" "), "data-unit": name, role: "button", tabindex: inLayer ? 0 : -1, "aria-label": says });
    svg(group, "title", {}, says);
    const fill = held ? `var(--task${state.first[k]})` : open ? `color-mix(in srgb, var(--task${task}) 30%, var(--ground))` : "var(--ground)";
    svg(group, "circle", { cx: x, cy: y, r, style: `fill: ${fill}` });
    if (held) svg(group, "text", { x, y: y + 4, "text-anchor": "middle", "pointer-events": "none" }, String(state.first[k] + 1));
    group.addEventListener("click", () => pickUnit(name));
    group.addEventListener("keydown", (event) => keyOnUnit(event, of, k));
    if (focused === name) group.focus({ preventScroll: true });
  });
}

/** A unit becomes the end of the weight that it can be. */
function pickUnit(name) {
  const layer = layerOf(name);
  if (layer === 1) change(layerOf(chosen.to) === 2 ? { from: name } : { from: name, to: "fc2.1" });
  else change(layerOf(chosen.from) === 1 ? { to: name } : { from: "fc1.1", to: name });
}

function keyOnUnit(event, of, k) {
  const step = { ArrowDown: 1, ArrowUp: -1, ArrowRight: of.units[0], ArrowLeft: -of.units[0] }[event.key];
  if (event.key === "Enter" || event.key === " ") pickUnit(unitName(of.units, k));
  else if (step === undefined || k + step < 0 || k + step >= of.units[0] + of.units[1]) return;
  else document.querySelector(`[data-unit="${unitName(of.units, k + step)}"]`).focus();
  event.preventDefault();
}

function drawLegend(task) {
  const legend = byId("legend");
  legend.replaceChildren();
  const entry = (text, part) => {
    const item = legend.appendChild(document.createElement("li"));
    part(svg(item, "svg", { viewBox: "0 0 26 20", "aria-hidden": "true" }));
    item.append(text);
  };
  const circle = (names, style) => (box) => svg(svg(box, "g", { class: names }), "circle", { cx: 13, cy: 10, r: 8, style });
  const stroke = (names, colour) => (box) =>
    svg(svg(box, "g", { class: names }), "line", { x1: 0, x2: 26, y1: 10, y2: 10, class: "seen", ...(colour ? { style: `stroke: ${colour}` } : {}) });
  entry("colour and number: the task that used the unit first", circle("unit held", "fill: var(--task0)"));
  entry("thick border: open in this task", circle("unit open", `fill: color-mix(in srgb, var(--task${task}) 30%, var(--ground))`));
  entry("frozen, used by the task of its colour", stroke("weight frozen", "var(--task0)"));
  entry("frozen, and no task uses it", stroke("weight idle"));
  entry("thick: used in this task", stroke("weight now", `var(--task${task})`));
  entry("a line from the image is 64 weights, one to an output is two", stroke("weight"));
}

function why(of, state, now, task) {
  const { from, to } = chosen, layer = layerOf(to);
  const held = (end) => `${end} ${state.held[index(end)].toFixed(2)}`;
  const is = (end) => `${end} is ${now[index(end)] > OPEN ? "open" : "shut"}`;
  if (layer !== layerOf(from) + 1) return `There is no weight from ${from} to ${to}: a layer reads the one before it.`;
  if (layer === 3) {
    const own = Number(to.split(".")[1]);
    return `The two weights from ${from} to the output of task ${own} belong to that task alone. They move while task ${own} is learnt, ` +
      `and never again. Task ${task + 1} is being learnt.`;
  }
  const { factor, owner } = weightState(of, state, now, from, to);
  const masks = `The cumulative ${layer === 1 ? "mask" : "masks"} of ${task === 1 ? "task 1" : `tasks 1 to ${task}`}`;
  const all = layer === 1 ? "Each of the 64 weights from the image" : `The weight from ${from}`;
  const rule = layer === 1
    ? `${masks} is ${held(to)}; the image has no gate. So the gradient is multiplied by 1 − ${state.held[index(to)].toFixed(2)} = ${factor.toFixed(2)}.`
    : `${masks} are ${held(from)} and ${held(to)}. So its gradient is multiplied by 1 − min(${state.held[index(from)].toFixed(2)}, ${state.held[index(to)].toFixed(2)}) = ${factor.toFixed(2)}.`;
  const today = layer === 1 ? `In task ${task + 1}, ${is(to)}.` : `In task ${task + 1}, ${is(from)} and ${is(to)}.`;
  if (task === 0) return `${all} to ${to} may move: there is no earlier task. ${today}`;
  let verdict;
  if (factor > 1 - FROZEN) {
    const freeEnd = layer === 1 || state.held[index(to)] < OPEN ? to : from;
    verdict = freeEnd === to
      ? `It may move: no earlier task uses ${to}, so none sees what it computes.`
      : `It may move, although ${to} is used: ${from} is shut in all earlier tasks, so what it sends is 0 there, whatever the weight.`;
  } else if (factor >= FROZEN) verdict = "It may move, but less than its gradient says: its units are partly open in earlier tasks.";
  else if (owner >= 0) verdict = `It may not move: task ${owner + 1} computes with it.`;
  else verdict = "It may not move, although no task computes with it: one task uses the one unit, another task the other. The rule protects more than it has to.";
  return `${all} to ${to}. ${rule} ${verdict} ${today}`;
}

const usage = (of, k) => of.used[k] / DATA.weights[chosen.widths];

function drawCurve(of, second) {
  const canvas = byId("curve"), width = 420, height = 190, left = 40, bottom = 24;
  canvas.replaceChildren();
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const x = (task, part) => left + ((task + part) / TASKS) * (width - left - 8);
  const y = (share) => 8 + (1 - share) * (height - bottom - 8);
  for (const share of [0, 0.5, 1]) {
    svg(canvas, "line", { x1: left, x2: width - 8, y1: y(share), y2: y(share), class: "axis" });
    svg(canvas, "text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share}%`);
  }
  for (let task = 0; task < TASKS; task += 1) {
    if (task) svg(canvas, "line", { x1: x(task, 0), x2: x(task, 0), y1: 8, y2: height - bottom, class: "border" });
    svg(canvas, "text", { x: x(task, 0.5), y: height - 6, "text-anchor": "middle" }, `task ${task + 1}`);
  }
  const part = (which, k) => { // a task has the same width, however many epochs it took
    const [task, epoch] = which.frames[k];
    return [task, (epoch + 1) / (which.frames[which.ends[task]][1] + 1)];
  };
  const path = (which) => which.frames.map((_, k) => `${k ? "L" : "M"}${x(...part(which, k)).toFixed(1)} ${y(usage(which, k)).toFixed(1)}`).join("");
  if (second) svg(canvas, "path", { d: path(second), class: "second" });
  svg(canvas, "path", { d: path(of), class: "usage" });
  const at = x(...part(of, frame));
  svg(canvas, "line", { x1: at, x2: at, y1: 8, y2: height - bottom, class: "cursor" });
  svg(canvas, "circle", { cx: at, cy: y(usage(of, frame)), r: 4, class: "cursor" });
  const atEnds = (which) => which.ends.map((k) => percent(usage(which, k))).join(", ");
  const says = `At the ends of the tasks: ${atEnds(of)}.` + (second ? ` Second run, dashed: ${atEnds(second)}.` : "");
  canvas.setAttribute("aria-label", `Capacity usage over all epochs. ${says}`);
  byId("curve-legend").textContent = `Share of the weights, those of the image included, that some task uses. ${says}`;
}

function drawAccuracy(of, second, task, epoch) {
  const done = frame === of.ends[task] ? task : task - 1; // the last task that is learnt
  byId("latest").textContent = done < 0 ? "now" : `after task ${done + 1}`;
  byId("other").hidden = !second;
  byId("accuracy").replaceChildren(...of.names.map((name, t) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = String(t + 1);
    row.append(head);
    const cells = [name.replace("digits ", "").replace(",", ", "), t <= done ? percent(of.after[t][t]) : "", t <= done ? percent(of.after[done][t]) : ""];
    if (second) cells.push(t <= done ? percent(second.after[done][t]) : "");
    for (const text of cells) row.insertCell().textContent = text;
    return row;
  }));
  byId("learning").textContent = `Task ${task + 1} after ${epoch + 1} epoch${epoch ? "s" : ""}: ${percent(of.valid[frame])} of the images held out from training. Chance is 50%.`;
}

function fill(select, options, value) {
  if (select.options.length !== options.length || options.some(([key], k) => select.options[k].value !== key))
    select.replaceChildren(...options.map(([key, text]) => new Option(text, key)));
  select.value = value;
}

function draw() {
  const of = run(), [task, epoch] = of.frames[frame], now = of.masks[frame], state = before(of, task);
  const second = chosen.with === "none" ? null : runOf(...chosen.with.split(",").reverse(), chosen);
  for (const name of SELECTS) {
    const shown = (value) => name === "with" ? (value === "none" ? value : `${value.split(",")[0]}, c = ${value.split(",")[1]}`) : value.replace("-", " and ");
    fill(byId("choices").elements[name], allowed(name).map((value) => [value, shown(value)]), chosen[name]);
  }
  byId("choices").elements.mode.disabled = chosen.c === "0";
  fill(byId("ends").elements.from, ends("from"), chosen.from);
  fill(byId("ends").elements.to, ends("to"), chosen.to);
  const slider = byId("frame"), frozen = frozenShare(of, state);
  slider.max = of.frames.length - 1;
  slider.value = frame;
  slider.setAttribute("aria-valuetext", `task ${task + 1}, epoch ${epoch + 1}`);
  byId("now").textContent = `Task ${task + 1} of ${TASKS}, epoch ${epoch + 1}: ${now.filter((mask) => mask > OPEN).length} of ${now.length} units are open, ` +
    `${percent(usage(of, frame))} of the weights are used, ${percent(frozen)} are frozen.`;
  drawNetwork(of, state, now, task);
  drawLegend(task);
  byId("why").textContent = why(of, state, now, task);
  drawCurve(of, second);
  drawAccuracy(of, second, task, epoch);
  drawPresets();
  drawGate();
  drawRegularizer();
}

/** The share of the weights that are frozen. */
function frozenShare(of, { held }) {
  const one = held.slice(0, of.units[0]).filter((mask) => 1 - mask < FROZEN).length;
  const two = held.slice(of.units[0]).filter((mask) => 1 - mask < FROZEN).length;
  return (64 * one + one * two) / (64 * of.units[0] + of.units[0] * of.units[1]);
}

function drawPresets() {
  const list = byId("presets");
  if (!list.children.length) {
    for (const preset of DATA.presets) {
      const link = list.appendChild(document.createElement("li")).appendChild(document.createElement("a"));
      link.textContent = preset.name;
      link.href = address(preset.settings);
    }
  }
  const settings = (preset) => ["c", "mode", "s_max", "widths", "seed", "with"].every((name) => chosen[name] === (preset.settings[name] ?? DEFAULT[name]));
  const current = DATA.presets.find(settings);
  [...list.querySelectorAll("a")].forEach((link, k) => {
    if (DATA.presets[k] === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  });
  const text = current ? `${current.says} ${current.question}` : "";
  if (byId("task-of-preset").textContent !== text) byId("task-of-preset").textContent = text;
}

// ---- by hand

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const slope = (x) => sigmoid(x) * sigmoid(-x); // without the difference 1 - sigmoid, which is 0 where x is large
const slopeIn = (b, top) => 1 / top + (top - 1 / top) * ((b - 1) / 100);

function rows(body, entries) {
  body.replaceChildren(...entries.map(([text, value]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = text;
    row.append(head);
    row.insertCell().textContent = value;
    return row;
  }));
}

const short = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(2) : value.toFixed(4));

function drawGate() {
  const form = byId("gate").elements, e = Number(chosen.e), top = Number(chosen.top), s = slopeIn(Number(chosen.b), top);
  for (const name of ["e", "b", "top"]) if (document.activeElement !== form[name] || form[name].type === "range") form[name].value = chosen[name];
  form.e_is.textContent = chosen.e;
  form.b_is.textContent = `${chosen.b}: s = ${short(s)}`;
  let plain = 0;
  for (let b = 1; b <= 101; b += 1) plain += (slopeIn(b, top) * slope(slopeIn(b, top) * e)) / 101;
  const values = [
    ["s", s], ["mask a = σ(s e)", sigmoid(s * e)], ["gradient of the mask by e, s σ′(s e)", s * slope(s * e)],
    ["its mean over the epoch", plain], ["compensated, in every batch: s_max σ′(e)", top * slope(e)],
  ];
  rows(byId("gate-values"), values.map(([text, value]) => [text, short(value)]));
  const canvas = byId("gate-curve"), x = (at) => 30 + ((at + 6) / 12) * 260, y = (a) => 10 + (1 - a) * 100;
  canvas.replaceChildren();
  canvas.setAttribute("viewBox", "0 0 300 135");
  for (const a of [0, 1]) {
    svg(canvas, "line", { x1: 30, x2: 290, y1: y(a), y2: y(a), class: "axis" });
    svg(canvas, "text", { x: 24, y: y(a) + 4, "text-anchor": "end" }, String(a));
  }
  for (const at of [-6, 0, 6]) svg(canvas, "text", { x: x(at), y: 128, "text-anchor": "middle" }, `${at === 0 ? "e = " : ""}${at}`);
  const steps = Array.from({ length: 241 }, (_, k) => -6 + k / 20);
  svg(canvas, "path", { d: steps.map((at, k) => `${k ? "L" : "M"}${x(at).toFixed(1)} ${y(sigmoid(s * at)).toFixed(1)}`).join(""), class: "usage" });
  svg(canvas, "circle", { cx: x(e), cy: y(sigmoid(s * e)), r: 5, class: "cursor" });
  canvas.setAttribute("aria-label", `The mask over the embedding at s = ${short(s)}: ${short(sigmoid(s * e))} at e = ${e}`);
}

function drawRegularizer() {
  const form = byId("regularizer"), p = chosen.p.split(",").map(Number), m = chosen.m.split(",").map(Number);
  const [head, ...body] = form.querySelectorAll("tr");
  if (head.children.length === 1) {
    for (let k = 0; k < 7; k += 1) {
      const cell = head.appendChild(document.createElement("th"));
      cell.scope = "col";
      cell.textContent = `unit ${k + 1}`;
      ["p", "m"].forEach((name, row) => {
        const input = document.createElement("input");
        Object.assign(input, { type: "number", min: 0, max: 1, step: "any", name: `${name}${k}` });
        input.setAttribute("aria-label", `${name} of unit ${k + 1}`);
        body[row].insertCell().append(input);
      });
    }
  }
  const set = (name, value) => { const input = form.elements[name]; if (document.activeElement !== input) input.value = value; };
  p.forEach((value, k) => set(`p${k}`, value));
  m.forEach((value, k) => set(`m${k}`, value));
  set("factor", chosen.factor);
  const c = Number(chosen.factor), sum = (of) => p.reduce((total, _, k) => total + of(k), 0);
  const free = sum((k) => 1 - p[k]), used = sum((k) => p[k]);
  const r1 = free > 0 ? sum((k) => m[k] * (1 - p[k])) / free : 0, r2 = used > 0 ? 1 - sum((k) => m[k] * p[k]) / used : 0;
  rows(byId("regularizer-values"), [
    ["R1, share of the free units that the task takes", short(r1)],
    ["R2, share of the used units that the task does not reuse", short(r2)],
    ["original, c R1", short(c * r1)], ["cross, c (R1 + R2) / 2", short((c * (r1 + r2)) / 2)],
    ["one free unit more: original, cross", free > 0 ? `${short(c / free)}, ${short(c / free / 2)}` : "no unit is free"],
    ["one used unit more: original, cross", used > 0 ? `0, ${short(-c / used / 2)}` : "no unit is used"],
  ]);
}

// ---- what a visitor does

byId("choices").addEventListener("change", (event) => {
  const { task, epoch } = chosen;
  Object.assign(chosen, { [event.target.name]: event.target.value });
  frame = frameOf(run(), Number(task) - 1, Number(epoch) - 1);
  change({});
});
byId("ends").addEventListener("change", (event) => change({ [event.target.name]: event.target.value }));
byId("frame").addEventListener("input", (event) => { play(false); go(Number(event.target.value)); });
byId("play").addEventListener("click", () => play(!timer));
byId("earlier").addEventListener("click", () => { play(false); go((run().ends[run().frames[frame][0] - 2] ?? -1) + 1); });
byId("later").addEventListener("click", () => {
  play(false);
  const end = run().ends[run().frames[frame][0]];
  go(end === run().frames.length - 1 ? end : end + 1);
});
function byHand(event) {
  const name = event.target.name, one = name.match(/^([pm])(\d)$/);
  const values = one ? chosen[one[1]].split(",").map((value, k) => (k === Number(one[2]) ? event.target.value : value)).join(",") : event.target.value;
  const field = one ? one[1] : name, wrong = fault(field, values);
  if (wrong) byId("notice").textContent = `${field} = ${values}: ${wrong}.`;
  else change({ [field]: values });
}
byId("gate").addEventListener("input", byHand);
byId("regularizer").addEventListener("input", byHand);
document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
addEventListener("hashchange", () => { play(false); readAddress(); });
readAddress();
