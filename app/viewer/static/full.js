// The page with WebGL: viser's page, with our frames on a canvas below its own, which is transparent.
// Our views follow viser's camera; its panel uses our controls through `window.lumigraph`.

import { add, cross, dot, forwardOf, length, positionOf, scaled, unit } from "./camera.js";
import { Viewer } from "./viewer.js";
import { drawLegend, liveIn } from "./overlay.js";
import { PixelLabel } from "./pixel.js";
import { nameOf } from "./screen.js";

const wait = (seconds) => new Promise((resume) => setTimeout(resume, seconds * 1000));

async function viserReady() {
  for (;;) {
    const inside = window.__viserMutable;
    if (inside?.camera && inside?.cameraControl && inside?.canvas) return inside;
    await wait(0.05);
  }
}

const HOME = 3; // distance of the first view in viser's world: its keys move at a speed for this
const NEAREST = 0.01; // viser's smallest distance to the point that its camera turns around

// viser's camera in the frame of the scene. The second axis of viser's world points up.
class ViserEye {
  constructor(inside) {
    this.inside = inside;
    this.unit = 1; // lengths of the scene in one of viser's world
    this.distance = HOME; // to the target when it does not fly, in the scene
    this.flying = false;
    this.axes = axesOf([0, 1, 0]);
  }

  // Makes another direction of the scene point up, and keeps place and target.
  setUp(up) {
    const { position, target } = this.placed();
    this.axes = axesOf(up);
    this.lookAt(position, target);
  }

  // The place of the camera in the scene, and the point that it looks at.
  placed() {
    const { camera, cameraControl } = this.inside;
    const [from, to] = [camera.position.clone(), camera.position.clone()];
    cameraControl.getPosition(from);
    cameraControl.getTarget(to);
    const [position, target] = [from, to].map(({ x, y, z }) => this.toScene([x, y, z]));
    if (!this.flying) return { position, target };
    return { position, target: add(position, unit(add(target, position, -1)), this.distance) };
  }

  setFlying(flying) {
    const { position, target } = this.placed();
    this.flying = flying;
    this.lookAt(position, target);
  }

  // A direction of viser's world in the scene.
  turned(p) {
    return [0, 1, 2].map((i) => dot([this.axes[0][i], this.axes[1][i], this.axes[2][i]], p));
  }

  toScene(p) {
    return scaled(this.turned(p), this.unit);
  }

  toViser(p) {
    return this.axes.map((axis) => dot(axis, p) / this.unit);
  }

  view() {
    const { camera } = this.inside;
    const e = camera.matrixWorld.elements; // columns: right, up, back, position
    const column = (i) => this.turned([e[4 * i], e[4 * i + 1], e[4 * i + 2]]);
    const position = scaled(column(3), this.unit);
    const rows = [unit(column(0)), scaled(unit(column(1)), -1), scaled(unit(column(2)), -1)];
    const matrix = rows.flatMap((row) => [...row, -dot(row, position)]);
    return { matrix, fov: (camera.fov * Math.PI) / 180 };
  }

  lookAt(position, target) {
    const ahead = add(target, position, -1);
    this.distance = length(ahead);
    // To turn in place it turns around a point just before the eye: viser knows only orbits.
    const end = this.flying ? add(position, unit(ahead), NEAREST * this.unit) : target;
    this.inside.cameraControl.setLookAt(...this.toViser(position), ...this.toViser(end), false);
  }

  arrive(shown) {
    const { position, target, up, fov } = shown.first_view;
    this.axes = axesOf(up);
    this.unit = length(add(target, position, -1)) / HOME;
    this.setFov(fov);
    this.lookAt(position, target);
  }

  // Goes to the place of a camera of the capture; viser keeps its own camera upright.
  follow(shot) {
    const position = positionOf(shot.matrix);
    this.lookAt(position, add(position, forwardOf(shot.matrix), this.distance));
    this.followed = performance.now();
  }

  setFov(fov) {
    this.inside.camera.fov = (fov * 180) / Math.PI;
    this.inside.camera.updateProjectionMatrix();
  }
}

// The axes, in the scene's frame, of a world with `up` as its second axis.
function axesOf(up) {
  const y = unit(up);
  const x = unit(cross(y, Math.abs(y[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0]));
  return [x, y, cross(x, y)];
}

const LABEL =
  "position:absolute;margin:0;padding:2px 8px;border-radius:4px;background:rgba(16,17,20,.65);" +
  "color:#eee;font:13px system-ui;z-index:5;pointer-events:none;";

// Adds a label over the picture, at a place in CSS.
function label(place, where, name = "p") {
  const made = document.createElement(name);
  made.style.cssText = LABEL + where;
  made.hidden = true;
  place.append(made);
  return made;
}

// Adds the legend's elements in the bottom left corner.
function legendIn(place) {
  const root = label(place, "left:84px;bottom:8px;max-width:min(440px,50%)", "div");
  const [words, scale] = [document.createElement("div"), document.createElement("div")];
  const [low, high] = [document.createElement("span"), document.createElement("span")];
  const ramp = document.createElement("canvas");
  [ramp.width, ramp.height] = [256, 1];
  ramp.style.cssText = "width:140px;height:10px;margin:0 6px;image-rendering:pixelated";
  scale.append(low, ramp, high);
  root.append(words, scale);
  return { root, words, scale, low, high, ramp };
}

// Closes viser's notice that WebGL runs in software: our pictures do not need it.
function hush() {
  for (const notice of document.querySelectorAll(".mantine-Notification-root"))
    if (notice.textContent.includes("Software WebGL")) notice.querySelector("button")?.click();
}

// Makes the page dark if it was dark last, or else if the system is, by the check in the panel. The
// browser remembers when a person clicks it.
async function theme() {
  const check = (input) => input.type === "checkbox" && input.labels?.[0]?.textContent === "Dark";
  document.addEventListener("click", ({ isTrusted, target }) => {
    if (isTrusted && target instanceof HTMLInputElement && check(target))
      localStorage.setItem("theme", target.checked ? "dark" : "light");
  });
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  if ((localStorage.getItem("theme") ?? system) !== "dark") return;
  let dark;
  while (!(dark = [...document.querySelectorAll("input")].find(check))) await wait(0.1);
  if (!dark.checked) dark.click();
}

async function start() {
  hush();
  theme();
  const inside = await viserReady();
  hush();
  const above = inside.canvas;
  const place = above.parentElement;
  const canvas = document.createElement("canvas");
  canvas.id = "canvas";
  canvas.style.cssText = "position:absolute;inset:0;width:100%;height:100%;z-index:0";
  above.style.position = "relative";
  above.style.zIndex = 1;
  place.prepend(canvas);
  const hint = label(place, "left:50%;top:12px;transform:translateX(-50%)");
  const note = label(place, "left:50%;bottom:44px;transform:translateX(-50%)");
  const live = liveIn(label(place, "right:8px;bottom:8px"));
  const legend = legendIn(place);
  const say = (text) => {
    hint.textContent = text;
    hint.hidden = !text;
  };

  const eye = new ViserEye(inside);
  const viewer = new Viewer(canvas, eye, {
    // viser's panel is for clients in control; guests have all that they can use on the light page.
    hello: ({ role }) => role === "view" && location.replace("/light"),
    status: ({ connected, text }) => say(connected ? "" : text),
    sending: (text) => say(text),
    legend: (colors) => drawLegend(legend, colors),
    stats: live,
    note: ({ text }) => {
      note.textContent = text;
      note.hidden = false;
      clearTimeout(note.timer);
      note.timer = setTimeout(() => (note.hidden = true), 8000);
    },
    standing: (shot) => say(shot ? `${nameOf(shot)}. Move the view to leave` : ""),
  });
  window.lumigraph = viewer;
  new PixelLabel(viewer, above);

  let before = "";
  const watch = () => {
    const now = JSON.stringify(eye.view());
    if (now !== before) {
      before = now;
      // The move to a camera of the capture is not a hand that leaves the camera.
      if (performance.now() - (eye.followed ?? -1e9) > 500) viewer.leave();
      viewer.move();
    }
    requestAnimationFrame(watch);
  };
  watch();

  let pressed = null;
  above.addEventListener("pointerdown", (event) => (pressed = [event.offsetX, event.offsetY]));
  above.addEventListener("pointerup", (event) => {
    const still = pressed && Math.hypot(event.offsetX - pressed[0], event.offsetY - pressed[1]) < 4;
    const number = still ? viewer.screen.cameraAt(event.offsetX, event.offsetY) : null;
    if (number !== null) viewer.stand(number);
  });
}

if (!window.lumigraph) start();
