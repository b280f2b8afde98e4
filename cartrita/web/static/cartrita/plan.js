// The page of a plan while it runs: each event of its session fetches what the server shows of it now.

import { Stream } from "./stream.js";

const PAUSE_MS = 300;
const place = document.getElementById("plan");
const { session, plan, position } = place.dataset;
const stream = new Stream("/ws");
let timer = null;

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
  if (fresh.innerHTML !== place.innerHTML) place.replaceChildren(...document.adoptNode(fresh).childNodes);
  if ("ended" in fresh.dataset) stream.stop();
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
