// The socket to the server: it sends requests, and receives pictures and news. Both pages use it.

const HEADER = 24;
const KINDS = { 1: "frame", 2: "photo" };
const RETRY = [250, 500, 1000, 2000, 4000]; // milliseconds between attempts to connect again
const PATIENCE = 30000; // milliseconds in which the server answers whether it takes a file

// Calls the handler with the name of each message: hello, state, controls, cameras, legend, stats,
// note, pixel (the numbers under the cursor), upload (whether a file is taken), status (whether it is
// connected, and why not), frame and photo (pictures, with their headers).
export class Stream {
  constructor(handlers) {
    this.handlers = handlers;
    this.attempts = 0;
    this.cameraId = 0;
    this.last = "";
    this.open();
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.socket = new WebSocket(`${scheme}//${location.host}/stream`);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.attempts = 0;
      this.last = "";
      this.tell("status", { connected: true, text: "" });
    };
    this.socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.takeText(JSON.parse(data));
      else this.takePicture(data);
    };
    this.socket.onclose = (event) => {
      this.answered?.(false);
      const wait = RETRY[Math.min(this.attempts++, RETRY.length - 1)];
      const reason = event.reason || "The connection to the server is lost";
      this.tell("status", { connected: false, text: `${reason}. Connecting again.` });
      setTimeout(() => this.reopen(), wait);
    };
  }

  // Opens the socket again, unless another server is running by now, which needs another token.
  async reopen() {
    if (this.attempts > 1 && (await isLocked())) {
      const text = "The server was started again: open the address that it printed";
      this.tell("status", { connected: false, text });
    } else {
      this.open();
    }
  }

  tell(name, value) {
    this.handlers[name]?.(value);
  }

  takeText(message) {
    const { t, ...rest } = message;
    if (t === "upload" && rest.name === this.announced) this.answered?.(rest.taken);
    this.tell(t, rest);
  }

  async takePicture(data) {
    const view = new DataView(data);
    if (data.byteLength < HEADER || view.getUint8(0) !== 0x4c) return;
    const flags = view.getUint16(2, true);
    const header = {
      kind: KINDS[view.getUint8(1)],
      final: (flags & 1) !== 0,
      fullScale: (flags & 2) !== 0,
      number: view.getUint32(4, true),
      camera: view.getUint32(8, true),
      width: view.getUint16(12, true),
      height: view.getUint16(14, true),
      step: view.getUint32(16, true),
      scale: view.getFloat32(20, true),
    };
    const { socket } = this;
    const began = performance.now();
    const blob = new Blob([new Uint8Array(data, HEADER)], { type: "image/jpeg" });
    let picture;
    try {
      picture = await createImageBitmap(blob);
    } catch {
      this.complain("A picture from the server could not be decoded.");
    }
    if (socket !== this.socket) picture?.close(); // of a connection before this one
    else if (picture) this.tell(header.kind, { ...header, picture });
    if (header.kind !== "frame") return;
    // The server sends the next frame only when this one is on its way to the screen.
    const done = () =>
      this.send({ t: "ack", frame: header.number, ms: performance.now() - began });
    if (document.hidden) done();
    else requestAnimationFrame(done);
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  // Asks for a view, unless it is the last one asked for; returns the number of the view.
  askView(view) {
    const key = JSON.stringify(view);
    if (key === this.last || this.socket.readyState !== WebSocket.OPEN) return this.cameraId;
    this.last = key;
    this.cameraId = (this.cameraId + 1) % 2 ** 31;
    this.send({ t: "camera", id: this.cameraId, view });
    return this.cameraId;
  }

  // Sends a file in pieces, if the server takes it; `progress` gets the part that is sent.
  async upload(file, progress) {
    const { socket } = this;
    if (socket.readyState !== WebSocket.OPEN) return;
    if (file.size === 0) return this.complain(`${file.name} is empty, so it was not sent.`);
    const taken = new Promise((answered) => (this.answered = answered));
    const timer = setTimeout(() => this.answered(null), PATIENCE);
    this.announced = file.name;
    this.send({ t: "upload", name: file.name, size: file.size });
    const answer = await taken;
    clearTimeout(timer);
    if (answer === null)
      return this.complain(`The server did not answer whether it takes ${file.name}: send it again.`);
    if (!answer) return;
    const PIECE = 1 << 19;
    for (let at = 0; at < file.size && socket.readyState === WebSocket.OPEN; at += PIECE) {
      socket.send(await file.slice(at, at + PIECE).arrayBuffer());
      while (socket.bufferedAmount > 4 * PIECE && socket.readyState === WebSocket.OPEN)
        await new Promise((resume) => setTimeout(resume, 10));
      progress(Math.min(1, (at + PIECE) / file.size));
    }
  }

  complain(text) {
    this.tell("note", { kind: "error", text });
  }
}

// Whether the server answers, but refuses this page.
async function isLocked() {
  try {
    return (await fetch("/light", { cache: "no-store" })).status === 401;
  } catch {
    return false;
  }
}
