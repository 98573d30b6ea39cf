// The canvas: the newest frame, over it the cameras of the capture, or a photo to compare with.

import { add, dot, positionOf } from "./camera.js";

const CLICK = 14; // pixels: a click within this distance selects a camera
const FADED = "rgba(127, 127, 127, 0.55)";
const COLORS = { train: "#4f9dde", test: "#e8833a", calibration: "#b98be0" };

// The name of a camera: that of its photo, and the split that the photo belongs to.
export const nameOf = (shot) => `${shot.name} (${shot.split})`;

// The place of a point of the scene on an image of `width` x `height` pixels; null behind the camera.
export function onImage(view, point, width, height) {
  const m = view.matrix;
  const row = (i) => dot([m[4 * i], m[4 * i + 1], m[4 * i + 2]], point) + m[4 * i + 3];
  const depth = row(2);
  if (depth <= 1e-6) return null;
  const focal = height / 2 / Math.tan(view.fov / 2);
  const [u, v] = view.center ?? [0.5, 0.5];
  const across = focal * (view.stretch ?? 1);
  return [u * width + (across * row(0)) / depth, v * height + (focal * row(1)) / depth];
}

// The view through a camera of the capture that shows its whole photo on a canvas, and its place.
export function standingAt(shot, width, height) {
  const scale = Math.min(width / shot.width, height / shot.height);
  const focal = shot.focal[1] * scale;
  const left = (width - shot.width * scale) / 2;
  const top = (height - shot.height * scale) / 2;
  const center = [(left + shot.center[0] * scale) / width, (top + shot.center[1] * scale) / height];
  const fov = 2 * Math.atan(height / 2 / focal);
  const view = { matrix: shot.matrix, fov, center, stretch: shot.focal[0] / shot.focal[1] };
  return { view, box: [left, top, shot.width * scale, shot.height * scale] };
}

export class Screen {
  // `show` has the settings: whether `cameras` are drawn, and how (`compare`, `amount`) a photo is.
  constructor(canvas, show) {
    this.canvas = canvas;
    this.show = show;
    this.context = canvas.getContext("2d", { alpha: false });
    this.views = new Map(); // by their numbers
    this.frame = null;
    this.photo = null;
    this.box = null; // of the photo, in parts of the canvas
    this.cameras = [];
    this.standing = null; // the number of the camera that the view looks from
    this.drawn = 0;
  }

  // Fits the canvas to its place on the page; returns whether its size changed.
  fit(resolution) {
    const ratio = Math.min(devicePixelRatio || 1, 2) * resolution;
    const width = Math.max(16, Math.min(8192, Math.round(this.canvas.clientWidth * ratio)));
    const height = Math.max(16, Math.min(8192, Math.round(this.canvas.clientHeight * ratio)));
    if (width === this.canvas.width && height === this.canvas.height) return false;
    this.canvas.width = width;
    this.canvas.height = height;
    this.draw();
    return true;
  }

  asked(number, view) {
    this.views.set(number, view);
  }

  // Shows a frame, unless a later one was decoded before it.
  take(frame) {
    if (frame.number < this.frame?.number) {
      frame.picture.close();
      return;
    }
    this.frame?.picture.close();
    this.frame = frame;
    // Frames of older views will not come any more.
    for (const old of this.views.has(frame.camera) ? this.views.keys() : []) {
      if (old === frame.camera) break;
      this.views.delete(old);
    }
    this.drawn += 1;
    this.draw();
  }

  // Frames are counted from the first again.
  restart() {
    if (this.frame) this.frame.number = 0;
  }

  takePhoto(photo) {
    this.photo?.picture.close();
    this.photo = photo;
    this.draw();
  }

  forget() {
    this.takePhoto(null);
    this.standing = this.box = null;
  }

  draw() {
    const { context, canvas } = this;
    if (!this.frame) {
      context.fillStyle = "#101114";
      context.fillRect(0, 0, canvas.width, canvas.height);
      return;
    }
    context.imageSmoothingQuality = "low";
    context.drawImage(this.frame.picture, 0, 0, canvas.width, canvas.height);
    if (this.photo && this.box) this.compare();
    if (this.show.cameras && this.standing === null) this.drawCameras();
  }

  // Draws the photo over the frame: up to a line, blended, or as their difference.
  compare() {
    const { context, canvas, show } = this;
    const [x, y, w, h] = this.box;
    if (show.compare === "off") return;
    context.save();
    if (show.compare === "slider") {
      context.beginPath();
      context.rect(x, y, w * show.amount, h);
      context.clip();
    } else if (show.compare === "blend") {
      context.globalAlpha = show.amount;
    } else {
      context.globalCompositeOperation = "difference";
    }
    context.drawImage(this.photo.picture, x, y, w, h);
    context.restore();
    if (show.compare === "error") {
      // Four times as bright: a difference of a quarter of the range is white.
      context.save();
      context.beginPath();
      context.rect(x, y, w, h);
      context.clip();
      context.globalCompositeOperation = "lighter";
      for (let i = 0; i < 2; ++i) context.drawImage(canvas, 0, 0);
      context.restore();
    } else if (show.compare === "slider") {
      context.fillStyle = "#fff";
      context.fillRect(x + w * show.amount - 1, y, 2, h);
    }
  }

  // Draws each camera as a pyramid.
  drawCameras() {
    const view = this.views.get(this.frame.camera);
    if (!view) return;
    const { context, canvas } = this;
    const place = (point) => onImage(view, point, canvas.width, canvas.height);
    context.lineWidth = Math.max(1, canvas.height / 720);
    this.places = [];
    for (const [number, shot] of this.cameras.entries()) {
      const apex = positionOf(shot.matrix);
      const corners = cornersOf(shot, this.size);
      const points = [apex, ...corners].map(place);
      if (points[0]) this.places.push([number, points[0]]);
      if (points.some((p) => p === null)) continue;
      context.strokeStyle = number === this.hovered ? "#fff" : COLORS[shot.split] ?? FADED;
      context.beginPath();
      for (let i = 1; i <= 4; ++i) {
        context.moveTo(...points[0]);
        context.lineTo(...points[i]);
        context.lineTo(...points[(i % 4) + 1]);
      }
      context.stroke();
    }
  }

  // The number of the camera at a place of the canvas, in pixels of the page; null if none is there.
  cameraAt(x, y) {
    if (!this.show.cameras || this.standing !== null || !this.places) return null;
    const ratio = this.canvas.width / this.canvas.clientWidth;
    let best = null, least = CLICK * ratio;
    for (const [number, [px, py]] of this.places) {
      const distance = Math.hypot(px - x * ratio, py - y * ratio);
      if (distance < least) [best, least] = [number, distance];
    }
    return best;
  }

  setCameras(cameras) {
    this.cameras = cameras;
    // Half the distance of neighbours: large enough to see, too small to overlap.
    const places = cameras.map((shot) => positionOf(shot.matrix));
    const gaps = places.map((p, i) =>
      Math.min(...places.map((q, k) => (i === k ? Infinity : Math.hypot(...add(p, q, -1))))),
    );
    gaps.sort((x, y) => x - y);
    const gap = gaps[gaps.length >> 1];
    this.size = 0.5 * (Number.isFinite(gap) && gap > 0 ? gap : 0.2);
    this.draw();
  }

  async saved() {
    return await new Promise((give) => this.canvas.toBlob(give, "image/png"));
  }
}

function cornersOf(shot, size) {
  const m = shot.matrix;
  const apex = positionOf(m);
  const [w, h] = [shot.width / 2 / shot.focal[0], shot.height / 2 / shot.focal[1]];
  return [[-w, -h], [w, -h], [w, h], [-w, h]].map(([x, y]) =>
    [0, 1, 2].map((i) => apex[i] + size * (x * m[i] + y * m[4 + i] + m[8 + i])),
  );
}
