// The page of a plan while it runs: each event of its session fetches what the server shows of it now.

import { Stream } from "./stream.js";

const PAUSE_MS = 300;
const place = document.getElementById("plan");
const { session, plan, position } = place.dataset;
const stream = new Stream("/ws");
let timer = null;

// Changes as little as may be: focus, selection and scrolling stay where they are.
function become(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (!(old instanceof Element) || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(fresh);
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((child, place) => (place < before.length ? become(before[place], child) : old.append(child)));
  for (const child of before.slice(after.length)) child.remove();
}

async function refresh() {
  timer = null;
  let text;
  try {
    const response = await fetch(location.pathname);
    if (!response.ok || response.redirected) return;
    text = await response.text();
  } catch (error) {
    // Offline: the next event, or the next connection, asks again.
    if (error instanceof TypeError) return;
    throw error;
  }
  const fresh = new DOMParser().parseFromString(text, "text/html").getElementById("plan");
  if (!fresh) return;
  const ended = "ended" in fresh.dataset;
  become(place, document.adoptNode(fresh));
  if (ended) stream.stop();
}

function soon() {
  timer ??= setTimeout(refresh, PAUSE_MS);
}

stream.addEventListener("event", ({ detail: { event } }) => {
  const ofPlan = event.stream === plan || event.type === "tasks_app.ActDecided";
  if (ofPlan || event.type.startsWith("governance.Approval")) soon();
});
stream.addEventListener("snapshot", soon);
stream.addEventListener("status", ({ detail }) => {
  if (detail.status === "connected") soon();
});
stream.subscribe(`session:${session}`, Number(position));
stream.start();
