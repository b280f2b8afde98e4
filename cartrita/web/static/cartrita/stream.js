// The browser's client of the protocol cartrita.v1 (docs/protocol.md). The upper half is pure and the twin of
// cartrita/streaming/replica.py: an action goes in, a new state and effects come out; both are tested with the
// same golden frames. The lower half connects it to a WebSocket.

export const SUBPROTOCOL = "cartrita.v1";
const ACK_FRAMES = 8;
const ACK_CHARACTERS = 32 * 1024;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

export const emptyState = () => ({
  channels: {},
  connected: false,
  nextId: 1,
  number: 0,
  acked: 0,
  characters: 0,
  epoch: null,
});

/** The connection stands: subscribe to every wanted channel after what is held. */
export function opened(state) {
  let next = { ...state, connected: true, number: 0, acked: 0, characters: 0 };
  const effects = [];
  for (const name of Object.keys(next.channels)) {
    const [after, sent] = subscribeTo(next, name);
    next = after;
    effects.push(...sent);
  }
  return [next, effects];
}

/** The connection is gone; what is held stays. */
export function closed(state) {
  const channels = {};
  for (const [name, copy] of Object.entries(state.channels)) channels[name] = { ...copy, live: false };
  return [{ ...state, connected: false, channels }, []];
}

/** Follow a channel after a position (null: from a snapshot). */
export function wanted(state, channel, after = null) {
  if (Object.hasOwn(state.channels, channel)) return [state, []];
  const next = withChannel(state, channel, { have: after, subId: "", live: false, messages: {} });
  return next.connected ? subscribeTo(next, channel) : [next, []];
}

/** Try once more to follow a channel, after the pause that `later` asked for. */
export function again(state, channel) {
  const copy = state.channels[channel];
  if (copy === undefined || copy.live || !state.connected) return [state, []];
  return subscribeTo(state, channel);
}

/** Follow a channel no longer. */
export function unwanted(state, channel) {
  if (!Object.hasOwn(state.channels, channel)) return [state, []];
  const next = withoutChannel(state, channel);
  return next.connected ? send(next, { t: "unsub", id: `s${next.nextId}`, ch: channel }) : [next, []];
}

/** Take in a frame of `size` characters; types that are not known are left alone. */
export function received(state, frame, size = 0) {
  const [taken, effects] = take(state, frame);
  if (frame.f === undefined) return [taken, effects];
  const next = {
    ...taken,
    number: Math.max(taken.number, frame.f),
    characters: taken.characters + size,
  };
  if (next.number - next.acked < ACK_FRAMES && next.characters < ACK_CHARACTERS) return [next, effects];
  const acknowledgement = { do: "send", frame: { t: "ack", f: next.number } };
  return [{ ...next, acked: next.number, characters: 0 }, [...effects, acknowledgement]];
}

function take(state, frame) {
  switch (frame.t) {
    case "ev":
      return takeEvent(state, frame);
    case "delta":
      return takeDelta(state, frame);
    case "subbed":
      return takeSubbed(state, frame);
    case "unsubbed":
      if (!Object.hasOwn(state.channels, frame.ch)) return [state, []];
      return [withoutChannel(state, frame.ch), [{ do: "ended", ch: frame.ch, error: frame.error }]];
    case "hb":
      return takeHeartbeat(state, frame);
    case "res":
      return takeAnswer(state, frame);
    case "welcome":
      return [inEpoch(state, frame.epoch ?? null), [{ do: "welcome", frame }]];
    case "bye":
      return [state, [{ do: "bye", frame }]];
    default:
      return [state, []];
  }
}

// Positions and texts of another epoch are forgotten: the server was restored, and gives them anew. A log without
// events has no epoch yet: its name is empty, and no other one than its first.
function inEpoch(state, epoch) {
  if (!epoch || epoch === state.epoch) return state;
  if (!state.epoch) return { ...state, epoch };
  const channels = {};
  for (const [name, copy] of Object.entries(state.channels)) {
    channels[name] = { ...copy, have: null, messages: {} };
  }
  return { ...state, epoch, channels };
}

function subscribeTo(state, channel) {
  const copy = state.channels[channel];
  const id = `s${state.nextId}`;
  const frame = { t: "sub", id, ch: channel, cur: copy.have };
  const texts = {};
  for (const [mid, message] of Object.entries(copy.messages)) {
    if (!message.done) texts[mid] = [message.attempt, message.bytes];
  }
  if (Object.keys(texts).length) frame.have = texts;
  return send(withChannel(state, channel, { ...copy, subId: id, live: false }), frame);
}

function send(state, frame) {
  return [{ ...state, nextId: state.nextId + 1 }, [{ do: "send", frame }]];
}

function takeSubbed(state, frame) {
  const copy = state.channels[frame.ch];
  if (copy === undefined || copy.subId !== frame.id) return [state, []];
  if (frame.recovered) return [withChannel(state, frame.ch, { ...copy, live: true }), []];
  const fresh = { ...copy, live: true, have: frame.head, messages: {} };
  const shown = { do: "snapshot", ch: frame.ch, head: frame.head, snapshot: frame.snapshot };
  return [withChannel(state, frame.ch, fresh), [shown]];
}

function takeAnswer(state, frame) {
  const name = Object.keys(state.channels).find((channel) => state.channels[channel].subId === frame.id);
  if (name === undefined || frame.ok) return [state, [{ do: "answer", frame }]];
  const { error } = frame;
  if (error.status === 429 || error.status >= 500) {
    return [state, [{ do: "later", ch: name, pause_ms: error.retry_ms ?? 1000 }]];
  }
  return [withoutChannel(state, name), [{ do: "ended", ch: name, error }]];
}

function takeHeartbeat(state, frame) {
  const effects = [{ do: "send", frame: { t: "pong" } }];
  for (const [name, head] of Object.entries(frame.heads)) {
    const copy = state.channels[name];
    if (copy === undefined || !copy.live) continue;
    const messages = {};
    for (const [mid, message] of Object.entries(copy.messages)) messages[mid] = { ...message, filling: false };
    state = withChannel(state, name, { ...copy, messages });
    if (copy.have === null || head > copy.have) {
      const [after, sent] = subscribeTo(state, name);
      state = after;
      effects.push(...sent);
    }
  }
  return [state, effects];
}

function takeEvent(state, frame) {
  const copy = state.channels[frame.ch];
  if (copy === undefined || (copy.have !== null && frame.pos <= copy.have)) return [state, []];
  // A gap: what is missing comes again after the position held. One request for it is enough.
  if (copy.have === null || frame.prev > copy.have) {
    return copy.live ? subscribeTo(state, frame.ch) : [state, []];
  }
  let next = { ...copy, have: frame.pos };
  const effects = [{ do: "event", ch: frame.ch, event: frame }];
  if (frame.d.completed !== undefined) {
    const [healed, shown] = complete(next, frame.ch, frame.d.completed);
    next = healed;
    effects.push(...shown);
  }
  return [withChannel(state, frame.ch, next), effects];
}

function complete(copy, channel, completed) {
  const { mid, text } = completed;
  const encoded = encoder.encode(text);
  const effects = [];
  if (encoded.length !== completed.bytes || sha256(encoded) !== completed.sha256) {
    effects.push({ do: "corrupt", ch: channel, mid });
  }
  const known = copy.messages[mid];
  const attempt = known === undefined ? 0 : known.attempt;
  const done = { attempt, text, bytes: encoded.length, done: true, filling: false };
  const healed = known !== undefined && known.text !== text;
  effects.push({ do: "text", ch: channel, mid, att: attempt, text, done: true, healed });
  return [{ ...copy, messages: { ...copy.messages, [mid]: done } }, effects];
}

function takeDelta(state, frame) {
  const { ch, mid } = frame;
  const copy = state.channels[ch];
  if (copy === undefined) return [state, []];
  const known = copy.messages[mid];
  if (known !== undefined && (known.done || frame.att < known.attempt)) return [state, []];
  const restarted = known === undefined || frame.att > known.attempt;
  let message = restarted ? { attempt: frame.att, text: "", bytes: 0, done: false, filling: false } : known;
  const effects = [];
  if (frame.off > message.bytes) {
    if (!message.filling) {
      effects.push({ do: "send", frame: { t: "fill", ch, mid, from: message.bytes } });
    }
    message = { ...message, filling: true };
  } else if (frame.end > message.bytes) {
    // Pieces may overlap after a resume; both ends lie between characters, so the cut does too.
    const fresh =
      message.bytes === frame.off
        ? frame.text
        : decoder.decode(encoder.encode(frame.text).subarray(message.bytes - frame.off));
    message = { ...message, text: message.text + fresh, bytes: frame.end, filling: false };
    effects.push(shown(ch, mid, message));
  }
  // The screen starts a repeated message again even before its first piece is there.
  if (restarted && known !== undefined && !message.text) effects.unshift(shown(ch, mid, message));
  const messages = { ...copy.messages, [mid]: message };
  return [withChannel(state, ch, { ...copy, messages }), effects];
}

function shown(ch, mid, message) {
  return { do: "text", ch, mid, att: message.attempt, text: message.text, done: false, healed: false };
}

function withChannel(state, name, copy) {
  return { ...state, channels: { ...state.channels, [name]: copy } };
}

function withoutChannel(state, name) {
  const { [name]: _, ...channels } = state.channels;
  return { ...state, channels };
}

// SHA-256 (FIPS 180-4). crypto.subtle is missing on plain HTTP outside localhost and is asynchronous.
const ROUND_CONSTANTS = new Uint32Array(64);
const INITIAL_HASH = new Uint32Array(8);
{
  const fraction = (root) => Math.floor((root - Math.floor(root)) * 2 ** 32);
  let found = 0;
  for (let candidate = 2; found < 64; candidate += 1) {
    let prime = true;
    for (let divisor = 2; divisor * divisor <= candidate; divisor += 1) prime &&= candidate % divisor !== 0;
    if (!prime) continue;
    if (found < 8) INITIAL_HASH[found] = fraction(Math.sqrt(candidate));
    ROUND_CONSTANTS[found] = fraction(Math.cbrt(candidate));
    found += 1;
  }
}

/** Return the SHA-256 of bytes, in hex. */
export function sha256(bytes) {
  const rotate = (word, by) => (word >>> by) | (word << (32 - by));
  const padded = new Uint8Array((((bytes.length + 8) >> 6) + 1) << 6);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, (bytes.length << 3) >>> 0);
  const hash = INITIAL_HASH.slice();
  const words = new Uint32Array(64);
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i += 1) words[i] = view.getUint32(block + 4 * i);
    for (let i = 16; i < 64; i += 1) {
      const early = words[i - 15];
      const late = words[i - 2];
      const sigma0 = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3);
      const sigma1 = rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10);
      words[i] = words[i - 16] + sigma0 + words[i - 7] + sigma1;
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let i = 0; i < 64; i += 1) {
      const sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
      const first = (h + sum1 + ((e & f) ^ (~e & g)) + ROUND_CONSTANTS[i] + words[i]) | 0;
      const sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
      const second = (sum0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => {
      hash[i] += word;
    });
  }
  return Array.from(hash, (word) => word.toString(16).padStart(8, "0")).join("");
}

// Who meets one of these cannot be helped by trying again: sign in, update, or look elsewhere.
const FINAL_CODES = new Set([4400, 4401, 4403, 4404, 4410, 4413, 4426]);
const SILENCE_MS = 40_000;
const LONGEST_PAUSE_MS = 30_000;

/** A command that the server refused; `code`, `field` and `details` as in its problem answers. */
export class Refused extends Error {
  constructor(error) {
    super(error.message);
    this.name = "Refused";
    Object.assign(this, { code: error.code, status: error.status, field: error.field, details: error.details });
  }
}

/**
 * Keeps one connection, resumes every subscription after a cut, and sends unanswered commands again.
 *
 * Dispatches CustomEvents: `status` {status: connecting|connected|waiting|ended, code?, reason?, retryAt?},
 * `welcome` {frame}, `event` {ch, event}, `text` {ch, mid, att, text, done, healed}, `snapshot` {ch, head,
 * snapshot}, `ended` {ch, error}, `corrupt` {ch, mid}.
 */
export class Stream extends EventTarget {
  #url;
  #state = emptyState();
  #socket = null;
  #commands = new Map();
  #tries = 0;
  #timer = null;
  #watch = null;
  #bye = null;
  #stopped = true;
  #WebSocket;
  #wakeUp = () => this.#reconnectNow();

  /** `url` may be a path of this page's server; `WebSocket` may be another implementation. */
  constructor(url = "/ws", { WebSocket = globalThis.WebSocket } = {}) {
    super();
    this.#url = url;
    this.#WebSocket = WebSocket;
  }

  /** Connect, and stay connected until `stop`. */
  start() {
    if (!this.#stopped) return;
    this.#stopped = false;
    globalThis.addEventListener?.("online", this.#wakeUp);
    globalThis.addEventListener?.("pageshow", this.#wakeUp);
    this.#connect();
  }

  /** Close the connection for good; commands without an answer are rejected. */
  stop() {
    this.#end(null);
    this.#socket?.close(1000);
  }

  /** Follow a channel after position `after`, or from a snapshot. */
  subscribe(channel, after = null) {
    this.#do(wanted(this.#state, channel, after));
  }

  /** Follow a channel no longer. */
  unsubscribe(channel) {
    this.#do(unwanted(this.#state, channel));
  }

  /** Return what is known of a channel, or undefined. */
  channel(channel) {
    return this.#state.channels[channel];
  }

  /**
   * Send a command; the promise settles with the server's answer, however often the connection is cut before.
   * `cid` makes a repetition harmless: pass the same one when the page itself tries again.
   */
  command(name, args = {}, { channel = null, expectedVersion = null, cid = newCommandId() } = {}) {
    const id = `c${cid}`;
    const frame = { t: "cmd", id, cid, name, args };
    if (channel !== null) frame.ch = channel;
    if (expectedVersion !== null) frame.exp_ver = expectedVersion;
    return new Promise((resolve, reject) => {
      this.#commands.set(id, { frame, resolve, reject });
      if (this.#state.connected) this.#send(frame);
    });
  }

  #connect() {
    this.#timer = null;
    this.#bye = null;
    this.#report({ status: "connecting" });
    const base = globalThis.location?.href;
    const url = new URL(this.#url, base);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new this.#WebSocket(url.href, [SUBPROTOCOL]);
    this.#socket = socket;
    socket.addEventListener("message", (message) => {
      if (socket === this.#socket) this.#receive(message.data);
    });
    socket.addEventListener("close", (close) => {
      if (socket === this.#socket) this.#lost(close);
    });
    this.#listenForLife();
  }

  #receive(text) {
    this.#listenForLife();
    this.#do(received(this.#state, JSON.parse(text), text.length));
  }

  #do([state, effects]) {
    this.#state = state;
    for (const effect of effects) this.#carryOut(effect);
  }

  #carryOut(effect) {
    if (effect.do === "send") {
      this.#send(effect.frame);
    } else if (effect.do === "answer") {
      this.#settle(effect.frame);
    } else if (effect.do === "later") {
      setTimeout(() => this.#do(again(this.#state, effect.ch)), effect.pause_ms);
    } else if (effect.do === "bye") {
      this.#bye = effect.frame;
    } else {
      if (effect.do === "welcome") this.#welcomed();
      else this.#tries = 0;
      this.dispatchEvent(new CustomEvent(effect.do, { detail: effect }));
    }
  }

  #welcomed() {
    this.#report({ status: "connected" });
    this.#do(opened(this.#state));
    for (const { frame } of this.#commands.values()) this.#send(frame);
  }

  #settle(answer) {
    const waiting = this.#commands.get(answer.id);
    if (waiting === undefined) return;
    if (!answer.ok && answer.error.code === "too_fast") {
      setTimeout(() => this.#state.connected && this.#send(waiting.frame), answer.error.retry_ms ?? 1000);
      return;
    }
    this.#commands.delete(answer.id);
    this.#tries = 0;
    if (answer.ok) waiting.resolve(answer.d);
    else waiting.reject(new Refused(answer.error));
  }

  #send(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #lost(close) {
    this.#socket = null;
    clearTimeout(this.#watch);
    this.#do(closed(this.#state));
    if (this.#stopped) return;
    const code = this.#bye?.code ?? close.code;
    const reason = this.#bye?.reason ?? close.reason;
    if (FINAL_CODES.has(code)) {
      this.#end({ code, reason });
      return;
    }
    const longest = Math.min(LONGEST_PAUSE_MS, 500 * 2 ** this.#tries);
    const pause = this.#bye?.retry_ms ?? longest * (0.5 + Math.random() / 2);
    this.#tries += 1;
    this.#report({ status: "waiting", code, reason, retryAt: Date.now() + pause });
    this.#timer = setTimeout(() => this.#connect(), pause);
  }

  #end(ended) {
    this.#stopped = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#watch);
    globalThis.removeEventListener?.("online", this.#wakeUp);
    globalThis.removeEventListener?.("pageshow", this.#wakeUp);
    const message = ended?.reason || "The connection has ended.";
    for (const { reject } of this.#commands.values()) reject(new Refused({ code: "connection_ended", message }));
    this.#commands.clear();
    this.#report({ status: "ended", ...ended });
  }

  // A network that vanished without a word shows by missing heartbeats.
  #listenForLife() {
    clearTimeout(this.#watch);
    const socket = this.#socket;
    this.#watch = setTimeout(() => {
      if (socket !== this.#socket) return;
      socket.close(4000, "silent");
      this.#lost({ code: 4000, reason: "The server was silent." });
    }, SILENCE_MS);
  }

  #reconnectNow() {
    if (this.#timer === null || this.#stopped) return;
    clearTimeout(this.#timer);
    this.#tries = 0;
    this.#connect();
  }

  #report(detail) {
    this.dispatchEvent(new CustomEvent("status", { detail }));
  }
}

/** Return a new id for a command (UUID version 4); crypto.randomUUID is missing on plain HTTP. */
export function newCommandId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
