// The numbers under the cursor: asked for where it rests on the canvas, shown in a label beside it.

const PROBED = ["uncertainty", "depth"];
const PAUSE = 100; // milliseconds from one question to the next, as the server answers
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

// A reading in a few lines, by what is looked at.
export function wordsOf(reading, mode) {
  if (mode === "depth") {
    if (reading.depth === null) return ["Nothing here"];
    return [`Depth ${short(reading.depth)} ± ${short(reading.depth_std)}`];
  }
  const { color, std, low, high } = reading;
  const lines = [`Colour ${color.map(part).join("  ")}  ± ${mean(std).toFixed(3)}`];
  if (!reading.calibrated) return [...lines, "Not calibrated: no range is known"];
  const ranges = low.map((from, i) => `${part(from)}–${part(high[i])}`);
  lines.push(`Photos would show ${ranges.join("  ")}`);
  const within = percent(reading.within);
  lines.push(`in ${percent(reading.level)} of views, for ${within} of their colour values`);
  return lines;
}

const short = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());

export class Probe {
  // `surface` is what the hand touches, over the viewing's canvas and as large.
  constructor(viewing, surface) {
    this.viewing = viewing;
    this.place = null; // under the cursor, in parts of the canvas
    this.asked = "";
    this.label = document.createElement("div");
    this.label.className = "probe";
    this.label.style.cssText = STYLE;
    this.label.hidden = true;
    viewing.screen.canvas.parentElement.append(this.label);
    viewing.probe = this;
    const at = (event) => {
      const box = viewing.screen.canvas.getBoundingClientRect();
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
    return PROBED.includes(this.viewing.settings.mode);
  }

  // The cursor is there now, or nowhere.
  point(place) {
    this.place = place;
    if (!place) this.hide();
    this.ask();
  }

  // Asks for what is under the cursor, soon after the last question.
  ask() {
    if (this.timer) return;
    const place = this.wanted ? this.place : null;
    const key = JSON.stringify(place);
    if (key === (this.asked || "null")) return;
    this.asked = key;
    const [x, y] = place ?? [null, null];
    this.viewing.stream.send({ t: "probe", x, y });
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.ask();
    }, PAUSE);
  }

  // What is looked at, or the connection, is another one: asks anew.
  again() {
    this.hide();
    this.asked = "";
    this.ask();
  }

  // A frame came: what was read of another view is read again by the server.
  frame({ final }) {
    if (!final) this.hide();
  }

  hide() {
    this.label.hidden = true;
  }

  show(reading) {
    if (!this.place || !this.wanted) return;
    this.label.textContent = wordsOf(reading, this.viewing.settings.mode).join("\n");
    this.label.hidden = false;
    const { clientWidth: width, clientHeight: height } = this.viewing.screen.canvas;
    const { offsetWidth: w, offsetHeight: h } = this.label;
    const [x, y] = [reading.x * width, reading.y * height];
    // To the right and below, unless it would not fit; inside in any case.
    const left = x + GAP + w <= width ? x + GAP : x - GAP - w;
    const top = y + GAP + h <= height ? y + GAP : y - GAP - h;
    const within = (value, most) => Math.max(0, Math.min(value, most));
    this.label.style.transform =
      `translate(${within(left, width - w)}px, ${within(top, height - h)}px)`;
  }
}
