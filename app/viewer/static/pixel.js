// The numbers of the pixel under the cursor, in a label beside it.

const PROBED = ["uncertainty", "depth"];
const PAUSE = 100; // milliseconds from one request to the next: the server answers no faster
const GAP = 14; // pixels from the cursor to the label
const SLOP = 10; // pixels that a finger may stray in a tap

const STYLE =
  "position:absolute;left:0;top:0;margin:0;padding:5px 9px;border-radius:5px;z-index:6;" +
  "background:rgba(16,17,20,.88);color:#eee;border:1px solid rgba(255,255,255,.25);" +
  "font:12px/1.45 system-ui,sans-serif;font-variant-numeric:tabular-nums;" +
  "white-space:pre;pointer-events:none;";

const part = (value) => value.toFixed(2);
const percent = (share) => `${+(100 * share).toFixed(1)} %`;
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// The numbers of a pixel as a few lines of text, by the mode.
export function wordsOf(pixel, mode) {
  if (mode === "depth") {
    if (pixel.depth === null) return ["No splats here"];
    return [`Depth ${short(pixel.depth)} ± ${short(pixel.depth_std)}`];
  }
  const { color, std, low, high } = pixel;
  const lines = [`Colour ${color.map(part).join("  ")}  ± ${mean(std).toFixed(3)}`];
  if (!pixel.calibrated) return [...lines, "Not calibrated: the range is not known"];
  const ranges = low.map((from, i) => `${part(from)}–${part(high[i])}`);
  lines.push(`Photos would show ${ranges.join("  ")}`);
  const within = percent(pixel.within);
  lines.push(`in ${percent(pixel.level)} of views, for ${within} of their colour values`);
  return lines;
}

const short = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());

export class PixelLabel {
  // `surface` is the element that gets the pointer's events; it covers the viewer's canvas.
  constructor(viewer, surface) {
    this.viewer = viewer;
    this.place = null; // of the cursor, in parts of the canvas
    this.asked = "";
    this.label = document.createElement("div");
    this.label.className = "pixel";
    this.label.style.cssText = STYLE;
    this.label.hidden = true;
    viewer.screen.canvas.parentElement.append(this.label);
    viewer.pixelLabel = this;
    const at = (event) => {
      const box = viewer.screen.canvas.getBoundingClientRect();
      const inside = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      return inside.every((part) => part >= 0 && part <= 1) ? inside : null;
    };
    let pressed = null;
    surface.addEventListener("pointerdown", (event) => {
      pressed = [event.clientX, event.clientY];
      this.point(null);
    });
    surface.addEventListener("pointerup", (event) => {
      const [x, y] = pressed ?? [NaN, NaN];
      const tapped = Math.hypot(event.clientX - x, event.clientY - y) < SLOP;
      if (tapped || event.pointerType === "mouse") this.point(at(event));
    });
    surface.addEventListener("pointermove", (event) => {
      if (event.pointerType === "mouse" && !event.buttons) this.point(at(event));
    });
    surface.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.point(null);
    });
  }

  get wanted() {
    return PROBED.includes(this.viewer.settings.mode);
  }

  // The cursor has moved to a place, or has left the canvas.
  point(place) {
    this.place = place;
    if (!place) this.hide();
    this.ask();
  }

  // Asks for the pixel under the cursor, at most once in each pause.
  ask() {
    if (this.timer) return;
    const place = this.wanted ? this.place : null;
    const key = JSON.stringify(place);
    if (key === (this.asked || "null")) return;
    this.asked = key;
    const [x, y] = place ?? [null, null];
    this.viewer.stream.send({ t: "pixel", x, y });
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.ask();
    }, PAUSE);
  }

  // Asks again, when the mode or the connection has changed.
  askAgain() {
    this.hide();
    this.asked = "";
    this.ask();
  }

  // A frame of another view came: the server reads the pixel again when the view is still.
  takeFrame({ final }) {
    if (!final) this.hide();
  }

  hide() {
    this.label.hidden = true;
  }

  show(pixel) {
    if (!this.place || !this.wanted) return;
    this.label.textContent = wordsOf(pixel, this.viewer.settings.mode).join("\n");
    this.label.hidden = false;
    const { clientWidth: width, clientHeight: height } = this.viewer.screen.canvas;
    const { offsetWidth: w, offsetHeight: h } = this.label;
    const [x, y] = [pixel.x * width, pixel.y * height];
    // To the right and below if it fits, and inside the canvas in any case.
    const left = x + GAP + w <= width ? x + GAP : x - GAP - w;
    const top = y + GAP + h <= height ? y + GAP : y - GAP - h;
    const within = (value, most) => Math.max(0, Math.min(value, most));
    this.label.style.transform =
      `translate(${within(left, width - w)}px, ${within(top, height - h)}px)`;
  }
}
