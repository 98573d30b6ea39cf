// What both pages share: they ask for views, look from cameras of the capture, and act on the
// controls of the page. A page gives a canvas, and an eye that says where its camera is.

import { Orbit, scaled } from "./camera.js";
import { Screen, standingAt } from "./screen.js";
import { Stream } from "./stream.js";

const AXES = { x: [1, 0, 0], y: [0, 1, 0], z: [0, 0, 1] };

const DISPLAY = [
  "mode", "map", "auto_range", "low", "high", "own_background", "background", "over", "threshold",
];

const hexToRgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);

export class Viewer {
  // `eye.view()` gives {matrix, fov} of the page's own camera; `arrive`, `follow`, `setUp`, `setFov`
  // and `setFlying` change it. `handlers` get all messages of the stream, by their names.
  constructor(canvas, eye, handlers) {
    this.eye = eye;
    this.handlers = handlers;
    this.settings = {
      mode: "color", map: "turbo", auto_range: true, low: 0, high: 1,
      own_background: true, background: "#000000", resolution: 1, up: "scene", fov: 50, fly: false,
      cameras: true, compare: "slider", amount: 0.5, over: 0, threshold: 0,
    };
    this.screen = new Screen(canvas, this.settings);
    this.shown = null;
    this.pixelLabel = null; // shows the numbers under the cursor, see pixel.js
    this.stream = new Stream({
      ...handlers,
      status: (status) => {
        if (status.connected) this.restart();
        handlers.status?.(status);
      },
      state: (state) => this.takeState(state),
      cameras: ({ items }) => this.screen.setCameras(items),
      frame: (frame) => {
        this.screen.take(frame);
        this.pixelLabel?.takeFrame(frame);
        handlers.frame?.(frame);
      },
      stats: (stats) => handlers.stats?.({ ...stats, moving: this.moved() }),
      pixel: (pixel) => this.pixelLabel?.show(pixel),
      photo: (photo) => {
        if (photo.number === this.screen.cameras[this.screen.standing]?.number)
          this.screen.takePhoto(photo);
        else photo.picture.close();
      },
    });
    new ResizeObserver(() => this.move()).observe(canvas);
  }

  restart() {
    this.screen.restart();
    this.sendDisplay();
    this.move();
    this.pixelLabel?.askAgain();
  }

  takeState(state) {
    const shown = state.shown ?? null;
    // When a run that was watched is finished, the view stays where it is.
    const view = JSON.stringify(shown?.first_view);
    const isNew = shown && JSON.stringify(this.shown?.first_view) !== view;
    this.shown = shown ?? this.shown;
    if (isNew) {
      this.screen.forget();
      this.settings.fov = Math.round((shown.first_view.fov * 180) / Math.PI);
      this.settings.up = "scene";
      this.eye.arrive(shown);
      this.move();
      this.handlers.arrived?.(shown);
    }
    this.handlers.state?.(state);
  }

  // Whether a hand has moved the view since the last call, a second ago: a new scene and a new size
  // of the window ask for a few views in this time, a hand for a dozen.
  moved() {
    const views = this.stream.cameraId - (this.counted ?? 0);
    this.counted = this.stream.cameraId;
    return views > 5;
  }

  // The view has changed, or may have.
  move() {
    this.screen.fit(this.settings.resolution);
    this.ask();
  }

  ask() {
    const { canvas } = this.screen;
    let view = this.eye.view();
    this.screen.box = null;
    if (this.screen.standing !== null) {
      const shot = this.screen.cameras[this.screen.standing];
      const stand = standingAt(shot, canvas.width, canvas.height);
      this.screen.box = stand.box;
      view = stand.view;
    }
    const number = this.stream.askView({ ...view, width: canvas.width, height: canvas.height });
    this.screen.asked(number, view);
  }

  // Looks from where a photo was taken, and shows the photo with the picture.
  stand(number) {
    const count = this.screen.cameras.length;
    if (!count) return;
    const at = ((number % count) + count) % count;
    if (this.screen.standing !== at) this.screen.takePhoto(null);
    this.screen.standing = at;
    this.eye.follow?.(this.screen.cameras[at]);
    this.stream.send({ t: "photo", camera: this.screen.cameras[at].number });
    this.move();
    this.handlers.standing?.(this.screen.cameras[at]);
  }

  leave() {
    if (this.screen.standing === null) return;
    this.screen.forget();
    this.move();
    this.handlers.standing?.(null);
  }

  sendDisplay() {
    const s = this.settings;
    this.stream.send({
      t: "display",
      mode: s.mode,
      map: s.map,
      low: s.auto_range ? null : s.low,
      high: s.auto_range ? null : s.high,
      background: s.own_background ? null : hexToRgb(s.background),
      over: s.over,
      threshold: s.threshold,
    });
  }

  // A control of the page was used.
  async set(id, value) {
    const { settings, screen } = this;
    if (id in settings) settings[id] = value;
    if (DISPLAY.includes(id)) {
      this.sendDisplay();
      this.pixelLabel?.askAgain();
    } else if (id === "fov") this.eye.setFov((value * Math.PI) / 180);
    else if (id === "up") this.eye.setUp(this.upOf(value));
    else if (id === "fly") this.eye.setFlying(value);
    else if (id === "reset") {
      this.leave();
      if (this.shown) this.eye.arrive(this.shown);
    } else if (id === "next") this.stand((screen.standing ?? -1) + 1);
    else if (id === "previous") this.stand((screen.standing ?? 0) - 1);
    else if (id === "leave") this.leave();
    else if (id === "screenshot") await this.takePicture();
    screen.draw();
    this.move();
  }

  upOf(name) {
    if (name === "scene") return this.shown?.first_view.up ?? [0, 0, 1];
    return scaled(AXES[name.replace("-", "")], name.startsWith("-") ? -1 : 1);
  }

  // Has the person choose files in a window of the browser, and sends them.
  pickFiles() {
    const input = document.createElement("input");
    input.type = "file";
    input.multiple = true;
    input.addEventListener("change", () => this.uploadAll(input.files));
    input.click();
  }

  async uploadAll(files) {
    for (const file of files)
      await this.stream.upload(file, (part) =>
        this.handlers.sending?.(`Sending ${file.name}: ${Math.round(100 * part)} %`),
      );
    this.handlers.sending?.("");
  }

  async takePicture() {
    const { settings, screen } = this;
    const { cameras } = settings;
    settings.cameras = false;
    screen.draw();
    const blob = await screen.saved();
    settings.cameras = cameras;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${this.shown?.name ?? "lumigraph"}-${this.shown?.step ?? 0}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

// The eye of a page that has no camera of its own.
export class OrbitEye {
  constructor() {
    this.orbit = new Orbit();
  }

  view() {
    return { matrix: this.orbit.matrix, fov: this.orbit.fov };
  }

  arrive(shown) {
    this.orbit.home = shown.first_view;
    this.orbit.up = shown.first_view.up;
    this.orbit.reset();
  }

  setFov(fov) {
    this.orbit.fov = fov;
  }

  setFlying(flying) {
    this.orbit.flying = flying;
  }

  setUp(up) {
    this.orbit.setUp(up);
  }
}
