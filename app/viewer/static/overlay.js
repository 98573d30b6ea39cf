// What both pages lay over the picture: the legend of its colours, and how fast it comes.

// Draws a legend: the range of the numbers shown, and their colours. box: {root, low, high, ramp}
export function drawLegend(box, legend) {
  box.root.hidden = !legend.colors?.length;
  if (box.root.hidden) return;
  box.low.textContent = legend.low.toPrecision(3);
  box.high.textContent = legend.high.toPrecision(3);
  const context = box.ramp.getContext("2d");
  const row = context.createImageData(legend.colors.length, 1);
  legend.colors.forEach((color, i) => row.data.set([...color, 255], 4 * i));
  context.putImageData(row, 0, 0);
}

// Frames a second, latency and size, in a line.
export function statsLine(stats) {
  const parts = [`${stats.fps.toFixed(0)} fps`];
  if (stats.latency_ms !== null) parts.push(`${stats.latency_ms.toFixed(0)} ms`);
  const scale = stats.scale < 1 ? ` (scale ${stats.scale})` : "";
  return `${parts.join(", ")}, ${stats.width} x ${stats.height}${scale}`;
}

const MODES = ["color", "depth", "opacity", "normals", "centers", "ellipses"];

// Presses the page's buttons by keys; `press(id, value)` uses a control, `more` are further keys.
export function listenToKeys(viewing, press, more) {
  const keys = {
    KeyR: () => viewing.set("reset", true),
    KeyC: () => press("cameras", !viewing.settings.cameras),
    KeyN: () => viewing.set("next", true),
    KeyB: () => viewing.set("previous", true),
    KeyX: () => press("compare", viewing.nextComparison()),
    KeyK: () => viewing.set("screenshot", true),
    Escape: () => viewing.leave(),
    ...more,
  };
  addEventListener("keydown", (event) => {
    const tag = document.activeElement?.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (["INPUT", "SELECT", "TEXTAREA"].includes(tag) && event.code !== "Escape") return;
    if (event.key === "?") keys.Help?.();
    else if (/^Digit[1-6]$/.test(event.code)) press("mode", MODES[Number(event.code[5]) - 1]);
    else keys[event.code]?.();
  });
}
