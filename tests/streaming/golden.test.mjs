// The browser's client against the frames that the Python client is tested with.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  Stream,
  again,
  closed,
  emptyState,
  newCommandId,
  opened,
  received,
  sha256,
  unwanted,
  wanted,
} from "../../cartrita/web/static/cartrita/stream.js";

const cases = JSON.parse(readFileSync(new URL("golden/client.json", import.meta.url)));

function act(state, step) {
  if (step.want !== undefined) return wanted(state, step.want, step.after ?? null);
  if (step.unwant !== undefined) return unwanted(state, step.unwant);
  if (step.again !== undefined) return again(state, step.again);
  if (step.opened) return opened(state);
  if (step.closed) return closed(state);
  return received(state, step.frame, step.size ?? 0);
}

function view({ connected, number, acked, channels }) {
  const shown = {};
  for (const [name, { have, live, messages }] of Object.entries(channels)) {
    const texts = {};
    for (const [mid, { attempt, text, bytes, done }] of Object.entries(messages)) {
      texts[mid] = { attempt, text, bytes, done };
    }
    shown[name] = { have, live, messages: texts };
  }
  return { connected, number, acked, channels: shown };
}

for (const { name, steps, state: expected } of cases) {
  test(name, () => {
    let state = emptyState();
    for (const step of steps) {
      const [next, effects] = act(state, step);
      assert.deepEqual(effects, step.effects);
      state = next;
    }
    assert.deepEqual(view(state), expected);
  });
}

test("hashes like everybody else", () => {
  for (let length = 0; length < 200; length += 1) {
    const bytes = randomBytes(length);
    assert.equal(sha256(bytes), createHash("sha256").update(bytes).digest("hex"));
  }
});

test("makes UUIDs of version 4", () => {
  assert.match(newCommandId(), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});

class FakeSocket extends EventTarget {
  static made = [];
  readyState = 1;
  sent = [];
  constructor(url, protocols) {
    super();
    Object.assign(this, { url, protocols });
    FakeSocket.made.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close() {
    this.readyState = 3;
  }
  hear(frame) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: JSON.stringify(frame) }));
  }
  drop(code) {
    this.readyState = 3;
    this.dispatchEvent(Object.assign(new Event("close"), { code, reason: "" }));
  }
}

const until = async (condition) => {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
};

test("a stream resumes after a cut and sends an unanswered command again", async () => {
  FakeSocket.made = [];
  const stream = new Stream("http://cartrita.test/ws", { WebSocket: FakeSocket });
  const events = [];
  stream.addEventListener("event", ({ detail }) => events.push(detail.event.pos));
  stream.start();
  stream.subscribe("session:1", 0);
  const answer = stream.command("post_message", { content: "Hello" }, { channel: "session:1" });
  const [first] = FakeSocket.made;
  assert.equal(first.url, "ws://cartrita.test/ws");
  assert.deepEqual(first.protocols, ["cartrita.v1"]);
  first.hear({ t: "welcome", v: 1 });
  assert.deepEqual(
    first.sent.map(({ t }) => t),
    ["sub", "cmd"],
  );
  first.hear({ t: "subbed", id: "s1", ch: "session:1", recovered: true, head: 0 });
  first.hear({ t: "ev", f: 1, prev: 0, ch: "session:1", pos: 4, d: {} });
  first.hear({ t: "bye", code: 4503, reason: "again", retry_ms: 1 });
  first.drop(4503);
  await until(() => FakeSocket.made.length === 2);
  const second = FakeSocket.made[1];
  second.hear({ t: "welcome", v: 1 });
  assert.equal(second.sent[0].cur, 4);
  assert.deepEqual(second.sent[1], first.sent[1]);
  second.hear({ t: "res", id: second.sent[1].id, ok: true, d: { message_id: "m" } });
  assert.deepEqual(await answer, { message_id: "m" });
  assert.deepEqual(events, [4]);
  stream.stop();
});

test("a stream ends when it is not signed in", async () => {
  FakeSocket.made = [];
  const stream = new Stream("http://cartrita.test/ws", { WebSocket: FakeSocket });
  const seen = [];
  stream.addEventListener("status", ({ detail }) => seen.push(detail.status));
  stream.start();
  const answer = stream.command("post_message");
  FakeSocket.made[0].hear({ t: "bye", code: 4401, reason: "Sign in." });
  FakeSocket.made[0].drop(4401);
  await assert.rejects(answer, { name: "Refused", message: "Sign in." });
  assert.deepEqual(seen, ["connecting", "ended"]);
});
