// The page without WebGL: its canvas, its controls, its keys.

import { add, forwardOf, positionOf, steer } from "./camera.js";
import { OrbitEye, Viewer } from "./viewer.js";
import { drawLegend, Keys, liveIn } from "./overlay.js";
import { PixelLabel } from "./pixel.js";
import { nameOf } from "./screen.js";

const $ = (id) => document.getElementById(id);
const canvas = $("canvas");
const eye = new OrbitEye();
eye.follow = (shot) => {
  const position = positionOf(shot.matrix);
  const target = add(position, forwardOf(shot.matrix), eye.orbit.distance);
  eye.orbit.lookFrom(position, target);
};

const legend = { root: $("legend") };
for (const id of ["words", "scale", "low", "high", "ramp"]) legend[id] = $(id);
const inputs = new Map();
const NOTE = 15000; // milliseconds until a note other than an error disappears
let role = "view", noted = 0, curves = {};

const viewer = new Viewer(canvas, eye, {
  hello: (hello) => (role = hello.role),
  status: ({ connected, text }) => hint(connected ? "" : text),
  controls: (controls) => {
    keys.learn(controls);
    drawControls(controls.items);
  },
  state: drawState,
  legend: (colors) => drawLegend(legend, colors),
  stats: liveIn($("live")),
  note: ({ kind, text }) => note(kind, text),
  sending: (text) => hint(text),
  arrived: () => {
    for (const id of ["fov", "up"])
      if (inputs.has(id)) inputs.get(id).input.value = viewer.settings[id];
  },
  standing: (shot) => hint(shot ? `${nameOf(shot)}. Press Esc to leave` : ""),
});
window.lumigraph = viewer;
new PixelLabel(viewer, canvas);

steer(canvas, eye.orbit, () => {
  viewer.leave();
  viewer.move();
});

function hint(text) {
  $("hint").textContent = text;
}

// Shows a note above the older ones, once. An error stays until it is closed.
function note(kind, text) {
  const lines = $("notes");
  for (const line of [...lines.children]) if (line.firstChild.textContent === text) line.remove();
  const line = document.createElement("p");
  line.className = `note ${kind}`;
  const [words, close] = [document.createElement("span"), document.createElement("button")];
  words.textContent = text;
  close.type = "button";
  close.textContent = "\u00d7";
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", () => line.remove());
  line.append(words, close);
  lines.prepend(line);
  if (kind !== "error") setTimeout(() => line.remove(), NOTE);
  while (lines.childElementCount > 5) lines.lastChild.remove();
}

// Controls --------------------------------------------------------------------------------------

// Controls that take turns, as Pause and Resume do, have one place on the page.
const slotOf = (item) => item.slot ?? item.id;

function drawControls(items) {
  const known = new Set(items.map(slotOf));
  for (const slot of [...inputs.keys()]) if (!known.has(slot)) inputs.delete(slot);
  for (const item of items) update(inputs.get(slotOf(item)) ?? make(item), item);
  for (const name of new Set(items.map((item) => item.group)))
    layOut(groupOf(name), items.filter((item) => item.group === name));
}

// Puts the controls of a group in their order; neighbouring buttons form a row.
function layOut(group, items) {
  const boxes = [...group.querySelectorAll(".buttons")];
  const places = [group.firstElementChild], within = new Map();
  for (const item of items) {
    const { place } = inputs.get(slotOf(item));
    if (item.kind !== "button") {
      places.push(place);
      continue;
    }
    if (!within.has(places.at(-1))) {
      const box = boxes.shift() ?? document.createElement("div");
      box.className = "buttons";
      places.push(box);
      within.set(box, []);
    }
    within.get(places.at(-1)).push(place);
  }
  arrange(group, places);
  for (const [box, inside] of within) arrange(box, inside);
}

// Makes these the children of an element. A child in its place is not moved: it would lose the focus.
function arrange(parent, wanted) {
  wanted.forEach((child, i) => {
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
  });
  while (parent.childElementCount > wanted.length) parent.lastElementChild.remove();
}

function groupOf(name) {
  let group = document.querySelector(`[data-group="${name}"]`);
  if (!group) {
    group = document.createElement("section");
    group.dataset.group = name;
    const title = document.createElement("h2");
    title.textContent = name;
    group.append(title);
    $("groups").append(group);
  }
  return group;
}

function make(item) {
  const place = document.createElement(item.kind === "button" ? "span" : "label");
  const input = document.createElement(
    { choice: "select", button: "button", progress: "progress" }[item.kind] ?? "input",
  );
  const made = { item, place, input, options: "" };
  const text = document.createElement("span");
  const why = document.createElement("small");
  if (item.kind === "button") {
    input.type = "button";
    place.append(input);
    input.addEventListener("click", () => use(made.item, true));
  } else if (item.kind === "progress") {
    input.max = 1;
    place.append(text, input, why);
  } else {
    const types = { number: "number", slider: "range", check: "checkbox", color: "color" };
    if (item.kind !== "choice") input.type = { ...types, upload: "file" }[item.kind] ?? "text";
    if (item.kind === "check") place.className = "check";
    if (item.kind === "upload") input.multiple = true;
    place.append(...(item.kind === "check" ? [input, text, why] : [text, input, why]));
    const live = item.kind === "slider" && item.where === "page";
    input.addEventListener(live ? "input" : "change", () => changed(made.item, input));
  }
  Object.assign(made, { text, why });
  inputs.set(slotOf(item), made);
  return made;
}

// Greys a control if the server disables it, if guests may not use it, or if the page's settings have
// none of the values that it needs.
function enable({ item, input }) {
  const allowed = item.where === "page" || role === "control";
  const needs = Object.entries(item.when ?? {});
  const idle = needs.some(([id, values]) => !values.includes(viewer.settings[id]));
  input.disabled = item.enabled === false || !allowed || idle;
}

// An option of a choice, greyed if it cannot be chosen now.
function optionOf({ value, label, why }) {
  const made = new Option(label, value);
  made.disabled = Boolean(why);
  made.title = why ?? "";
  return made;
}

function update(made, item) {
  const { input, text, why } = made;
  made.item = item;
  input.dataset.id = item.id;
  enable(made);
  if (item.kind === "button") {
    input.textContent = item.label;
    input.title = item.hint ?? "";
    return;
  }
  text.textContent = item.label;
  why.textContent = item.why ?? (item.kind === "progress" ? item.hint : "");
  input.title = item.why ?? item.hint ?? "";
  for (const [name, key] of [["min", "low"], ["max", "high"], ["step", "step"]])
    if (key in item) input[name] = item[key];
  const options = JSON.stringify(item.options ?? []);
  if (item.kind === "choice" && options !== made.options) {
    made.options = options;
    const chosen = made.set ? input.value : null;
    input.replaceChildren(...item.options.map(optionOf));
    if (chosen !== null) input.value = chosen;
  }
  // The page keeps the values of its own controls, and a value that is being typed.
  if (item.kind === "upload" || document.activeElement === input) return;
  if (item.where === "page" && made.set) return;
  made.set = true;
  const value = item.where === "page" ? viewer.settings[item.id] ?? item.value : item.value;
  if (item.kind === "check") input.checked = value;
  else if (value !== undefined && value !== null) input.value = value;
}

async function changed(item, input) {
  if (item.kind === "upload") {
    await viewer.uploadAll(input.files);
    input.value = "";
    return;
  }
  // The step is for the arrow keys; a number need not be a multiple of it.
  const { badInput, rangeUnderflow, rangeOverflow } = input.validity;
  if (item.kind === "number" && (badInput || rangeUnderflow || rangeOverflow || !input.value)) {
    note("error", `${item.label}: expected a number from ${item.low.toLocaleString("en")} to ${item.high.toLocaleString("en")}`);
    return;
  }
  const value = { check: input.checked, number: input.valueAsNumber, slider: input.valueAsNumber }[
    item.kind
  ] ?? input.value;
  if (!Number.isNaN(value)) use(item, value);
}

function use(item, value) {
  if (item.where === "page") set(item.id, value);
  else viewer.stream.send({ t: "control", id: item.id, value });
}

function set(id, value) {
  viewer.set(id, value);
  for (const made of inputs.values()) enable(made);
}

// Sets a control of the page, and shows it.
function press(id, value) {
  const made = inputs.get(id);
  if (made && typeof value === "boolean" && made.input.type === "checkbox")
    made.input.checked = value;
  else if (made && made.input.tagName !== "BUTTON") made.input.value = value;
  set(id, value);
}

// Numbers and plots ------------------------------------------------------------------------------


function drawState(state) {
  if (!state.shown && !viewer.shown) hint("Choose a capture and press Start");
  else if ($("hint").textContent.startsWith("Choose")) hint("");
  for (const { id, kind, text } of state.notes ?? []) {
    if (id <= noted) continue;
    noted = id;
    note(kind, text);
  }
  readouts(state.numbers ?? []);
  // All curves at first, and of another training; later only their new ends.
  if (state.history) curves = state.history;
  for (const [name, points] of Object.entries(state.more ?? {})) curves[name].push(...points);
  plot("Loss", curves.seconds, curves.loss, 4);
  plot("PSNR, dB", curves.psnr_seconds, curves.psnr, 2);
  plot("Splats", curves.seconds, curves.splats, 0);
}

function readouts(values) {
  const parts = values.flatMap(([name, value]) => {
    const [term, place] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, place.textContent, place.dataset.number] = [name, value, name];
    return [term, place];
  });
  $("readouts").replaceChildren(...parts);
}

function plot(name, xs = [], ys = [], digits) {
  let figure = document.querySelector(`[data-plot="${name}"]`);
  if (!figure) {
    figure = document.createElement("figure");
    figure.dataset.plot = name;
    figure.innerHTML =
      "<figcaption><span></span><span></span></figcaption>" +
      '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img"><polyline/></svg>';
    figure.querySelector("span").textContent = name;
    $("plots").append(figure);
  }
  figure.hidden = ys.length < 2;
  if (figure.hidden) return;
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const [from, to] = [xs[0], xs[xs.length - 1]];
  const points = ys.map((y, i) => [
    (100 * (xs[i] - from)) / (to - from || 1),
    96 - (92 * (y - low)) / (high - low || 1),
  ]);
  figure.querySelector("polyline").setAttribute("points", points.join(" "));
  const range = `${low.toFixed(digits)} to ${high.toFixed(digits)}`;
  figure.querySelector("span + span").textContent = range;
  figure.querySelector("svg").setAttribute("aria-label", `${name}: ${range}`);
}

// Keys, clicks, the page itself ------------------------------------------------------------------

const keys = new Keys(viewer, press, { KeyH: () => $("fold").click(), Help: showKeys });

function showKeys() {
  const rows = keys.words.flatMap(([key, does]) => {
    const pair = ["dt", "dd"].map((name) => document.createElement(name));
    [pair[0].textContent, pair[1].textContent] = [key, does];
    return pair;
  });
  $("uses").replaceChildren(...rows);
  $("keys").showModal();
}

let pressed = null;
canvas.addEventListener("pointerdown", (event) => (pressed = [event.offsetX, event.offsetY]));
canvas.addEventListener("pointerup", (event) => {
  const still = pressed && Math.hypot(event.offsetX - pressed[0], event.offsetY - pressed[1]) < 4;
  const number = still ? viewer.screen.cameraAt(event.offsetX, event.offsetY) : null;
  if (number !== null) viewer.stand(number);
});
canvas.addEventListener("pointermove", (event) => {
  const { screen } = viewer;
  const over = event.buttons ? null : screen.cameraAt(event.offsetX, event.offsetY);
  if (over === (screen.hovered ?? null)) return;
  screen.hovered = over;
  canvas.style.cursor = over === null ? "" : "pointer";
  canvas.title = over === null ? "" : nameOf(screen.cameras[over]);
  screen.draw();
});

$("help").addEventListener("click", showKeys);
$("fold").addEventListener("click", () => {
  const folded = document.body.classList.toggle("folded");
  $("fold").textContent = folded ? "Show" : "Hide";
  $("fold").setAttribute("aria-expanded", String(!folded));
});
const setTheme = (name) => (document.documentElement.style.colorScheme = name ?? "");
setTheme(localStorage.getItem("theme"));
$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.body).colorScheme === "dark" ||
    (!localStorage.getItem("theme") && matchMedia("(prefers-color-scheme: dark)").matches);
  const name = dark ? "light" : "dark";
  localStorage.setItem("theme", name);
  setTheme(name);
});
