// The camera of a page without WebGL: it orbits around a point or flies, moved by mouse and keys.
// Axes are those of OpenCV (x right, y down, z forward), lengths are in units of the scene.

export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [
  a[1] * b[2] - a[2] * b[1],
  a[2] * b[0] - a[0] * b[2],
  a[0] * b[1] - a[1] * b[0],
];
export const add = (a, b, s = 1) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
export const scaled = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
export const length = (a) => Math.hypot(a[0], a[1], a[2]);
export const unit = (a) => {
  const l = length(a);
  return l > 0 ? scaled(a, 1 / l) : [0, 0, 1];
};

// The upper three rows of world_to_camera of a camera at `position` that looks along `forward`.
export function matrixOf(position, forward, up) {
  const z = unit(forward);
  let x = cross(z, up);
  if (length(x) < 1e-6) x = cross(z, Math.abs(z[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0]);
  x = unit(x);
  const y = cross(z, x);
  return [x, y, z].flatMap((row) => [...row, -dot(row, position)]);
}

export const positionOf = (m) =>
  [0, 1, 2].map((i) => -(m[i] * m[3] + m[4 + i] * m[7] + m[8 + i] * m[11]));
export const forwardOf = (m) => [m[8], m[9], m[10]];

const STEEPEST = 1.55; // radians: straight up or down the yaw would be undefined

// An upright camera, which looks from `target - distance * forward` at `target`.
export class Orbit {
  constructor() {
    this.up = [0, 0, 1];
    this.home = { position: [0, -3, 0], target: [0, 0, 0], fov: 0.9 };
    this.flying = false; // the mouse turns the camera in place instead of around the target
    this.reset();
  }

  reset() {
    this.fov = this.home.fov;
    this.lookFrom(this.home.position, this.home.target);
    this.reach = this.distance; // the first distance: scenes come in any unit
  }

  setUp(up) {
    const { position, target } = this;
    this.up = unit(up);
    this.lookFrom(position, target);
  }

  // Two directions across `up`; the yaw is counted from the first to the second.
  get axes() {
    const any = Math.abs(this.up[0]) < 0.9 ? [1, 0, 0] : [0, 1, 0];
    const first = unit(cross(any, this.up));
    return [first, cross(this.up, first)];
  }

  get forward() {
    const [a, b] = this.axes;
    const level = add(scaled(a, Math.cos(this.yaw)), b, Math.sin(this.yaw));
    return add(scaled(level, Math.cos(this.pitch)), this.up, Math.sin(this.pitch));
  }

  get position() {
    return this.target === undefined ? [0, 0, 0] : add(this.target, this.forward, -this.distance);
  }

  get matrix() {
    return matrixOf(this.position, this.forward, this.up);
  }

  lookFrom(position, target) {
    const toward = add(target, position, -1);
    this.distance = Math.max(length(toward), 1e-30);
    const forward = scaled(toward, 1 / this.distance);
    const [a, b] = this.axes;
    this.yaw = Math.atan2(dot(forward, b), dot(forward, a));
    this.pitch = Math.asin(Math.max(-1, Math.min(1, dot(forward, this.up))));
    this.pitch = Math.max(-STEEPEST, Math.min(STEEPEST, this.pitch));
    this.target = target;
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.max(-STEEPEST, Math.min(STEEPEST, this.pitch + pitch));
  }

  // Turns the camera in place, where `turn` moves it around the target.
  turnInPlace(yaw, pitch) {
    const position = this.position;
    this.turn(yaw, pitch);
    this.target = add(position, this.forward, this.distance);
  }

  // Moves sideways and upwards, in parts of the picture's height.
  pan(right, up) {
    const m = this.matrix;
    const reach = this.distance * Math.tan(this.fov / 2) * 2;
    this.target = add(this.target, [m[0], m[1], m[2]], -right * reach);
    this.target = add(this.target, [m[4], m[5], m[6]], -up * reach);
  }

  zoom(factor) {
    const [least, most] = [1e-4 * this.reach, 1e4 * this.reach];
    this.distance = Math.max(least, Math.min(most, this.distance * factor));
  }

  // Moves by lengths along the camera's own axes and `up`.
  fly(right, up, ahead) {
    const m = this.matrix;
    this.target = add(this.target, [m[0], m[1], m[2]], right);
    this.target = add(this.target, this.up, up);
    this.target = add(this.target, this.forward, ahead);
  }
}

const KEYS = {
  KeyW: [0, 0, 1], KeyS: [0, 0, -1], KeyA: [-1, 0, 0], KeyD: [1, 0, 0], KeyQ: [0, -1, 0],
  KeyE: [0, 1, 0], ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], ArrowLeft: [-1, 0, 0],
  ArrowRight: [1, 0, 0],
};
const SPEED = 0.8; // distances to the target per second

const typing = () =>
  ["INPUT", "SELECT", "TEXTAREA", "BUTTON"].includes(document.activeElement?.tagName);

// Lets mouse, fingers and keys move an orbit; `moved` is called after each change.
export function steer(element, orbit, moved) {
  const pointers = new Map();
  const held = new Set();
  const turn = (dx, dy) => (orbit.flying ? orbit.turnInPlace(dx, dy) : orbit.turn(dx, dy));

  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    document.activeElement?.blur();
  });
  const release = (event) => pointers.delete(event.pointerId);
  for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, release);
  element.addEventListener("contextmenu", (event) => event.preventDefault());
  element.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
    const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const height = element.clientHeight || 1;
    if (others.length) {
      // Two fingers: moving apart goes nearer, moving together goes sideways.
      const other = others[0][1];
      const was = Math.hypot(before[0] - other[0], before[1] - other[1]);
      const is = Math.hypot(event.clientX - other[0], event.clientY - other[1]);
      if (was > 0 && is > 0) orbit.zoom(was / is);
      orbit.pan(dx / height / 2, dy / height / 2);
    } else if (event.buttons & 2 || event.shiftKey) {
      orbit.pan(dx / height, dy / height);
    } else {
      turn((-dx / height) * 3, (-dy / height) * 3);
    }
    moved();
  });
  element.addEventListener("wheel", (event) => {
    event.preventDefault();
    orbit.zoom(Math.exp(Math.max(-100, Math.min(100, event.deltaY)) * 0.002));
    moved();
  }, { passive: false });

  let last = 0;
  const step = (now) => {
    if (!held.size) return;
    const seconds = Math.min(0.1, (now - last) / 1000);
    last = now;
    const way = [0, 0, 0];
    for (const code of held) KEYS[code].forEach((s, i) => (way[i] += s));
    const speed = SPEED * orbit.distance * seconds * (steer.fast ? 4 : 1);
    orbit.fly(way[0] * speed, way[1] * speed, way[2] * speed);
    moved();
    requestAnimationFrame(step);
  };
  addEventListener("keydown", (event) => {
    steer.fast = event.shiftKey;
    if (!KEYS[event.code] || event.ctrlKey || event.metaKey || event.altKey || typing()) return;
    event.preventDefault();
    if (!held.size) {
      last = performance.now();
      requestAnimationFrame(step);
    }
    held.add(event.code);
  });
  addEventListener("keyup", (event) => {
    steer.fast = event.shiftKey;
    held.delete(event.code);
  });
  addEventListener("blur", () => held.clear());
}
