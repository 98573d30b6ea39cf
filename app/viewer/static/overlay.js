// What both pages lay over the picture: the legend of its colours, the frame rate, and the keys.

// Draws a legend: the name of the quantity, its range, and its colours.
// box: the elements {root, words, scale, low, high, ramp}; scale holds the last three
export function drawLegend(box, legend) {
  box.words.textContent = legend.text;
  box.scale.hidden = !legend.colors?.length;
  box.root.hidden = box.scale.hidden && !legend.text;
  if (box.scale.hidden) return;
  box.low.textContent = legend.low.toPrecision(3);
  box.high.textContent = legend.high.toPrecision(3);
  const context = box.ramp.getContext("2d");
  const row = context.createImageData(legend.colors.length, 1);
  legend.colors.forEach((color, i) => row.data.set([...color, 255], 4 * i));
  context.putImageData(row, 0, 0);
}

const FRESH = 1500; // milliseconds; numbers come once a second as long as pictures come

// Shows the frame rate in an element while a hand moves the view. Returns a function that takes the
// numbers.
export function liveIn(element) {
  let timer;
  return (stats) => {
    element.textContent = statsLine(stats);
    element.hidden = false;
    clearTimeout(timer);
    timer = setTimeout(() => (element.textContent = statsLine({ ...stats, moving: false })), FRESH);
  };
}

// Frames per second, latency and size, in a line. A still view gets a picture only when the scene has
// changed, so its number of frames says nothing.
function statsLine(stats) {
  if (!stats.moving) return `still, ${stats.width} x ${stats.height}`;
  const parts = [`${stats.fps.toFixed(0)} fps`];
  if (stats.latency_ms !== null) parts.push(`${stats.latency_ms.toFixed(0)} ms`);
  const scale = stats.scale < 1 ? ` (scale ${stats.scale})` : "";
  return `${parts.join(", ")}, ${stats.width} x ${stats.height}${scale}`;
}

// The keys of the page's controls: `press(id, value)` uses a control, `more` has functions by the
// codes of further keys, and under "Help" the one for the question mark.
export class Keys {
  constructor(viewer, press, more) {
    this.uses = new Map(); // what a key does, by its name
    this.items = new Map();
    addEventListener("keydown", (event) => {
      const tag = document.activeElement?.tagName;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (["INPUT", "SELECT", "TEXTAREA"].includes(tag) && event.code !== "Escape") return;
      if (event.key === "?") return more.Help();
      const use = this.uses.get(event.code.replace(/^(Key|Digit|Numpad)/, ""));
      if (!use) return more[event.code]?.();
      const item = this.items.get(use.id);
      press(use.id, use.value ?? nextOf(item, viewer.settings[use.id]));
    });
  }

  // Takes the controls and the keys from the server.
  learn({ items, keys }) {
    this.items = new Map(items.map((item) => [item.id, item]));
    this.uses = new Map(keys.map((use) => [use.key, use]));
  }

  // The keys, and the labels of what they do.
  get words() {
    return [...this.uses.values()].map(({ key, id, value }) => {
      const { label, options } = this.items.get(id);
      return [key, value === undefined ? label : options.find((o) => o.value === value).label];
    });
  }
}

// The value that a key gives a control: a check toggled, the next option, or a button pressed.
function nextOf(item, now) {
  if (item.kind === "check") return !now;
  if (item.kind !== "choice") return true;
  const values = item.options.map((option) => option.value);
  return values[(values.indexOf(now) + 1) % values.length];
}
