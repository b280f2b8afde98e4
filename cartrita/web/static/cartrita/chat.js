// The chat page: follows one session's channel and shows it. What the server rendered stands; this file adds
// what happens afterwards, by the events of the session and the text while it is written.

import { newCommandId, Refused, Stream } from "./stream.js";

const page = document.getElementById("conversation");
const session = page.dataset.session;
const channel = `session:${session}`;
const messages = document.getElementById("messages");
const composer = document.getElementById("composer");
const content = document.getElementById("content");
const file = document.getElementById("file");
const send = document.getElementById("send");
const phase = document.getElementById("phase");
const problem = document.getElementById("problem");
const connection = document.getElementById("connection");
const documents = document.getElementById("documents");
const template = document.getElementById("message-template");

const PHASES = {
  "tasks_app.PlanProposed": "Planning",
  "tasks_app.TaskStarted": "Working",
  "retrieval.RetrievalPerformed": "Passages found",
  "llm.ModelAnswered": "Checking the answer",
};
const ACTS = { retrieval: "Searching the documents", model_call: "Writing", message_out: "Writing", tool_call: "Using a tool" };

const stream = new Stream("/ws");
const attached = new Set();
let answering = new Set();

const shown = (mid) => messages.querySelector(`[data-mid="${CSS.escape(mid)}"]`);

function place(mid, role) {
  const known = shown(mid);
  if (known) return known;
  const item = template.content.firstElementChild.cloneNode(true);
  item.classList.add(role);
  item.dataset.mid = mid;
  item.querySelector("h2").textContent = role === "user" ? "You" : "Cartrita";
  messages.append(item);
  return item;
}

function write(mid, role, text) {
  const nearEnd = window.innerHeight + window.scrollY >= document.body.offsetHeight - 160;
  const item = place(mid, role);
  const target = item.querySelector(".text");
  const node = target.firstChild;
  // Text only ever grows while it is written, so the page appends; a repeated attempt starts again.
  if (target.childNodes.length === 1 && node.nodeType === Node.TEXT_NODE && text.startsWith(node.data)) {
    node.appendData(text.slice(node.data.length));
  } else {
    target.textContent = text;
  }
  if (nearEnd) item.scrollIntoView({ block: "end" });
  return item;
}

// The server's own rendering of a finished message takes the place of the text that was streamed.
async function finish(item) {
  try {
    const response = await fetch(`${page.dataset.messagesUrl}${item.dataset.mid}/`);
    if (!response.ok) return;
    const holder = document.createElement("template");
    holder.innerHTML = await response.text();
    item.replaceWith(holder.content);
  } catch (error) {
    // Offline: the text that was streamed stands, and the next visit shows the rest.
    if (!(error instanceof TypeError)) throw error;
  }
}

function setAnswering() {
  send.textContent = answering.size ? "Stop" : "Send";
  send.dataset.does = answering.size ? "stop" : "send";
  content.required = !answering.size;
}

function tell(text) {
  if (phase.textContent !== text) phase.textContent = text;
}

function documentStatus(id, title, status, text) {
  let item = documents.querySelector(`[data-document="${CSS.escape(id)}"]`);
  if (!item) {
    item = document.createElement("li");
    item.dataset.document = id;
    const link = document.createElement("a");
    link.href = `/documents/${encodeURIComponent(id)}/?session=${session}`;
    link.textContent = title;
    const state = document.createElement("span");
    state.className = "status";
    item.append(link, " ", state);
    documents.append(item);
  }
  item.dataset.status = status;
  item.querySelector(".status").textContent = text;
}

function take({ type, d }) {
  const name = type.split(".").pop();
  switch (name) {
    case "MessagePosted": {
      const item = write(d.message_id, d.role, d.content);
      item.classList.remove("waiting");
      if (d.role === "user") answering.add(d.message_id);
      break;
    }
    case "ReplyPosted": {
      answering.delete(d.parent);
      const item = write(d.message_id, "assistant", d.content);
      item.dataset.outcome = d.outcome;
      finish(item);
      tell("");
      break;
    }
    case "TurnCancelRequested":
      tell("Stopping");
      break;
    case "ActDecided":
      tell(d.permitted ? (ACTS[d.act] ?? "Working") : "Not allowed");
      break;
    case "DocumentReceived":
      documentStatus(d.document_id, d.title, "received", "being read");
      break;
    case "DocumentChunked":
      documentStatus(d.document_id, "", "chunked", "searchable by words");
      break;
    case "DocumentEmbedded":
      documentStatus(d.document_id, "", "ready", "ready");
      break;
    case "DocumentFailed":
      documentStatus(d.document_id, "", "failed", d.message);
      break;
    case "SessionExpired":
      tell("This session expired; your next message opens it again.");
      break;
    case "SessionErased":
      location.assign("/chat/");
      break;
    default:
      if (PHASES[type]) tell(PHASES[type]);
  }
  setAnswering();
}

async function post(cid, text) {
  const item = write(cid, "user", text);
  item.classList.add("waiting");
  item.scrollIntoView({ block: "end" });
  const args = { message_id: cid, content: text, attachments: [...attached] };
  try {
    await stream.command("post_message", args, { channel, cid });
    attached.clear();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    item.remove();
    content.value ||= text;
    problem.textContent = error.message;
  }
}

async function upload(chosen) {
  problem.textContent = "";
  const form = new FormData();
  form.append("session_id", session);
  form.append("file", chosen);
  tell(`Sending ${chosen.name}`);
  const response = await fetch(page.dataset.documentsUrl, {
    method: "POST",
    body: form,
    headers: {
      "X-CSRFToken": composer.elements.csrfmiddlewaretoken.value,
      "Idempotency-Key": newCommandId(),
    },
  });
  const answer = await response.json();
  tell("");
  if (!response.ok) {
    problem.textContent = `${chosen.name}: ${answer.detail ?? answer.title}`;
    return;
  }
  attached.add(answer.id);
  documentStatus(answer.id, chosen.name, answer.status, answer.status === "ready" ? "ready" : "being read");
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  problem.textContent = "";
  if (send.dataset.does === "stop") {
    for (const mid of answering) {
      stream.command("cancel_turn", { message_id: mid }, { channel }).catch((error) => {
        problem.textContent = error.message;
      });
    }
    return;
  }
  const text = content.value.trim();
  if (!text) return;
  content.value = "";
  post(newCommandId(), text);
});

content.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && send.dataset.does !== "stop") {
    event.preventDefault();
    composer.requestSubmit();
  }
});

file.addEventListener("change", async () => {
  const chosen = [...file.files];
  file.value = "";
  for (const each of chosen) {
    try {
      await upload(each);
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      problem.textContent = `${each.name} was not sent: the server does not answer. Try again.`;
    }
  }
});

stream.addEventListener("status", ({ detail }) => {
  const texts = { connecting: "connecting", connected: "connected", waiting: "reconnecting", ended: detail.reason || "signed out" };
  connection.textContent = texts[detail.status];
  connection.dataset.status = detail.status;
});
stream.addEventListener("event", ({ detail }) => take(detail.event));
stream.addEventListener("text", ({ detail }) => write(detail.mid, "assistant", detail.text));
// Too far behind for single events: the page as the server has it now is the snapshot.
stream.addEventListener("snapshot", () => location.reload());
stream.addEventListener("ended", ({ detail }) => {
  problem.textContent = detail.error?.message ?? "This session can no longer be followed.";
});

for (const item of messages.querySelectorAll(".message.user")) answering.add(item.dataset.mid);
for (const item of messages.querySelectorAll("[data-parent]")) answering.delete(item.dataset.parent);
setAnswering();
stream.subscribe(channel, Number(page.dataset.position));
stream.start();
