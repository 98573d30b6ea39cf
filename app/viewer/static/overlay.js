// What both pages lay over the picture: the legend of its colours, and how fast it comes.

// Draws a legend: what the numbers shown are, their range, and their colours.
// box: {root, words, scale, low, high, ramp}; scale holds the last three
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

const FRESH = 1500; // milliseconds; numbers come once a second while pictures do

// Shows in an element how fast pictures come while a hand moves; what is returned is told the
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

// Frames a second, latency and size, in a line. Of a still view pictures come when the scene is
// another one: how many says nothing of how fast they could.
function statsLine(stats) {
  if (!stats.moving) return `still, ${stats.width} x ${stats.height}`;
  const parts = [`${stats.fps.toFixed(0)} fps`];
  if (stats.latency_ms !== null) parts.push(`${stats.latency_ms.toFixed(0)} ms`);
  const scale = stats.scale < 1 ? ` (scale ${stats.scale})` : "";
  return `${parts.join(", ")}, ${stats.width} x ${stats.height}${scale}`;
}

// Has keys use the page's controls: `press(id, value)` does, `more` are functions by the codes of
// further keys, and "Help" that of the question mark.
export class Keys {
  constructor(viewing, press, more) {
    this.uses = new Map(); // by the name of the key
    this.items = new Map();
    addEventListener("keydown", (event) => {
      const tag = document.activeElement?.tagName;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (["INPUT", "SELECT", "TEXTAREA"].includes(tag) && event.code !== "Escape") return;
      if (event.key === "?") return more.Help();
      const use = this.uses.get(event.code.replace(/^(Key|Digit|Numpad)/, ""));
      if (!use) return more[event.code]?.();
      const item = this.items.get(use.id);
      press(use.id, use.value ?? nextOf(item, viewing.settings[use.id]));
    });
  }

  // Takes the controls and the keys as the server tells them.
  learn({ items, keys }) {
    this.items = new Map(items.map((item) => [item.id, item]));
    this.uses = new Map(keys.map((use) => [use.key, use]));
  }

  // Each key with what it does, in words.
  get words() {
    return [...this.uses.values()].map(({ key, id, value }) => {
      const { label, options } = this.items.get(id);
      return [key, value === undefined ? label : options.find((o) => o.value === value).label];
    });
  }
}

// What a key makes of a control: a check turned, the next of a choice, a button pressed.
function nextOf(item, now) {
  if (item.kind === "check") return !now;
  if (item.kind !== "choice") return true;
  const values = item.options.map((option) => option.value);
  return values[(values.indexOf(now) + 1) % values.length];
}
