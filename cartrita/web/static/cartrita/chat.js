// The chat page: follows one session's channel and shows it. What the server rendered stands; this file adds
// what happens afterwards, by the events of the session and the text while it is written.

import { newCommandId, Refused, Stream } from "./stream.js";

const element = (id) => document.getElementById(id);
const page = element("conversation");
const session = page.dataset.session;
const channel = `session:${session}`;
const messages = element("messages");
const phase = element("phase");
const announce = element("announce");
const notice = element("notice");
const problem = element("problem");
const glass = element("break-glass");
const connection = element("connection");
// Who reads another person's session has none of these.
const composer = element("composer");
const content = element("content");
const file = element("file");
const send = element("send");
const documents = element("documents");
const say = JSON.parse(element("texts").textContent);

const stream = new Stream("/ws");
const answering = new Set(); // messages of people that have no reply yet
const attached = new Map(); // documents that go with the next message: id to title
const unfinished = new Set(); // replies whose final rendering could not be fetched
const cards = new Map(); // requests for approval whose card is being fetched: id to whether to fetch again
const stale = new Set(); // requests for approval whose card could not be fetched
const plans = new Map(); // plans under way: id to their tasks and the list that shows them
const runs = new Map(); // attempts under way: id to plan and task
const TASK_STATUS = {
  TaskStarted: "running",
  TaskRetried: "retried",
  TaskCompleted: "done",
  TaskFailed: "failed",
  TaskPruned: "skipped",
  TaskAborted: "stopped",
};
const LOOK_AGAIN_MS = 60_000;
let looking = false; // for what is said of break-glass
let lookedAt = Date.now();
let held = ""; // what the turn waits for, which a further message does not change
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const shown = (mid) => messages.querySelector(`[data-mid="${CSS.escape(mid)}"]`);

function tell(text, { aloud = text } = {}) {
  const line = element("phase-text");
  if (line.textContent !== text) line.textContent = text;
  phase.hidden = !text;
  if (aloud && announce.textContent !== aloud) announce.textContent = aloud;
}

const clock = (time) =>
  new Date(time).toLocaleTimeString(document.documentElement.lang, {
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hourCycle: "h23",
  });

// What a turn that has to wait is waiting for: people, or a time; empty for a turn that goes on.
function waitOf({ permitted, act, approval_id, retry_after }) {
  if (permitted) return "";
  if (approval_id) return act === "message_out" ? say.waits_for.review : say.waits_for.approval;
  return retry_after ? fill(say.slowed_down, { time: clock(retry_after) }) : "";
}

// Keeps the newest text in view for who reads there, and leaves alone who has scrolled up to read.
function keepingEnd(change) {
  const room = document.scrollingElement;
  const atEnd = room.scrollHeight - room.scrollTop - room.clientHeight < 120;
  change();
  if (atEnd) room.scrollTop = room.scrollHeight;
}

function toEnd() {
  const room = document.scrollingElement;
  room.scrollTop = room.scrollHeight;
}

function place(mid, role) {
  const known = shown(mid);
  if (known) return known;
  const item = element("message-template").content.firstElementChild.cloneNode(true);
  item.classList.add(role);
  item.dataset.mid = mid;
  item.querySelector("h2").textContent = role === "user" ? say.you : say.agent;
  messages.append(item);
  return item;
}

function write(mid, role, text) {
  const item = place(mid, role);
  if (item.dataset.outcome && item.dataset.rendered) return item;
  const target = item.querySelector(".text");
  const node = target.firstChild;
  keepingEnd(() => {
    // Text only ever grows while it is written, so the page appends; a repeated attempt starts again.
    if (target.childNodes.length === 1 && node.nodeType === Node.TEXT_NODE && text.startsWith(node.data)) {
      node.appendData(text.slice(node.data.length));
    } else {
      target.textContent = text;
    }
  });
  return item;
}

// The server's own rendering of a finished message takes the place of the text that was streamed.
async function finish(mid) {
  unfinished.add(mid);
  let response;
  let text;
  try {
    response = await fetch(`${page.dataset.messagesUrl}${encodeURIComponent(mid)}/`);
    text = await response.text();
  } catch (error) {
    // Offline: the text that was streamed stands; the next connection asks again.
    if (error instanceof TypeError) return;
    throw error;
  }
  if (!response.ok || response.redirected) return;
  const holder = document.createElement("template");
  holder.innerHTML = text;
  const item = holder.content.firstElementChild;
  item.dataset.rendered = "yes";
  unfinished.delete(mid);
  keepingEnd(() => shown(mid).replaceWith(item));
}

function until(time) {
  const seconds = Math.round((new Date(time) - Date.now()) / 1000);
  if (seconds <= 0) return say.over;
  const [size, unit] = [
    [86_400, "day"],
    [3600, "hour"],
    [60, "minute"],
    [1, "second"],
  ].find(([length]) => seconds >= 2 * length || length === 1);
  return new Intl.RelativeTimeFormat(document.documentElement.lang).format(Math.floor(seconds / size), unit);
}

function countDown(room = messages) {
  for (const time of room.querySelectorAll("time[data-left]")) {
    const text = until(time.dateTime);
    if (time.textContent !== text) time.textContent = text;
  }
}

// What somebody is writing or has chosen in a card goes on in the card that takes its place.
function carryOver(old, fresh) {
  for (const field of old.querySelectorAll("textarea")) {
    const next = fresh.querySelector(`#${CSS.escape(field.id)}`);
    if (next) next.value = field.value;
  }
  const chosen = old.querySelector("input[type=radio]:checked");
  const same = chosen && fresh.querySelector(`input[type=radio][value="${CSS.escape(chosen.value)}"]`);
  if (same) same.checked = true;
}

function focusAgain(active, fresh) {
  if (active.id) {
    const next = fresh.querySelector(`#${CSS.escape(active.id)}`);
    next?.focus();
    if (next && active.selectionStart !== undefined) {
      next.setSelectionRange(active.selectionStart, active.selectionEnd);
    }
    if (next) return;
  }
  const button = active.name && fresh.querySelector(`[name="${active.name}"][value="${CSS.escape(active.value)}"]`);
  if (button) {
    button.focus();
  } else {
    fresh.tabIndex = -1;
    fresh.focus();
  }
}

// Keeps the place of a card in what happens until the card itself is there.
function cardOf(id) {
  const known = messages.querySelector(`[data-approval="${CSS.escape(id)}"]`);
  if (known) return known;
  const item = document.createElement("li");
  item.dataset.approval = id;
  item.hidden = true;
  messages.append(item);
  return item;
}

function showCard(fresh) {
  const old = cardOf(fresh.dataset.approval);
  countDown(fresh);
  const active = old.contains(document.activeElement) ? document.activeElement : null;
  carryOver(old, fresh);
  keepingEnd(() => old.replaceWith(fresh));
  if (active) focusAgain(active, fresh);
  if (old.dataset.status && old.dataset.status !== fresh.dataset.status) {
    announce.textContent = fresh.querySelector("[data-words]").textContent.replace(/\s+/g, " ").trim();
  }
}

// A request for approval is shown as the server renders it for this person; each event on it fetches it anew.
async function fetchCard(id) {
  if (cards.has(id)) {
    cards.set(id, true);
    return;
  }
  const place = cardOf(id);
  stale.add(id);
  do {
    cards.set(id, false);
    try {
      const response = await fetch(`${page.dataset.approvalsUrl}${encodeURIComponent(id)}/`);
      const text = await response.text();
      // Not found: the request is none of this person's.
      if (response.status === 404) {
        stale.delete(id);
        place.remove();
      }
      if (!response.ok || response.redirected) continue;
      const holder = document.createElement("template");
      holder.innerHTML = text;
      stale.delete(id);
      showCard(holder.content.firstElementChild);
    } catch (error) {
      // Offline: the next connection asks again.
      if (!(error instanceof TypeError)) throw error;
    }
  } while (cards.get(id));
  cards.delete(id);
}

// Break-glass that is in force for the session is told as the server tells it to this person: anew with each act
// under it, and while it is told, each minute and when its time is over.
async function lookAtGlass() {
  if (looking) return;
  looking = true;
  lookedAt = Date.now();
  try {
    const response = await fetch(glass.dataset.url);
    const text = await response.text();
    if (!response.ok || response.redirected || text.trim() === glass.innerHTML.trim()) return;
    const before = glass.textContent.trim();
    keepingEnd(() => {
      glass.innerHTML = text;
    });
    const now = glass.textContent.replace(/\s+/g, " ").trim();
    if (now || before) announce.textContent = now || say.glass_over;
  } catch (error) {
    // Offline: what is said stands until the next look.
    if (!(error instanceof TypeError)) throw error;
  } finally {
    looking = false;
  }
}

function watchGlass() {
  const times = [...glass.querySelectorAll("time[data-until]")];
  if (!times.length || document.hidden) return;
  const since = Date.now() - lookedAt;
  const over = times.some((time) => new Date(time.dateTime) <= Date.now());
  if (since > LOOK_AGAIN_MS || (over && since > 1000)) lookAtGlass();
}

async function decide(form, act) {
  const id = form.closest("[data-approval]").dataset.approval;
  const args = { approval_id: id, text: form.elements.text.value.trim() };
  problem.textContent = "";
  if (act === "deny" && !args.text) {
    problem.textContent = say.why_not;
    form.elements.text.focus();
    return;
  }
  if (act === "approve" && form.elements.scope) args.scope = form.elements.scope.value;
  const buttons = form.querySelectorAll("button");
  for (const button of buttons) button.setAttribute("aria-disabled", "true");
  try {
    await stream.command(act, args);
    form.elements.text.value = "";
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    problem.textContent = error.message;
  }
  for (const button of buttons) button.removeAttribute("aria-disabled");
  // Also where another person was faster, or the request ended meanwhile.
  fetchCard(id);
}

function setAnswering() {
  if (!send) return;
  const busy = answering.size > 0;
  send.textContent = busy ? say.stop : say.send;
  send.dataset.does = busy ? "stop" : "send";
  page.dataset.answering = busy ? "yes" : "no";
}

function nameSession(text) {
  const link = document.querySelector('.sessions a[aria-current="page"][data-untitled]');
  if (!link) return;
  const line = text.split(/\s+/).join(" ").trim();
  const title = line.length <= 80 ? line : `${line.slice(0, 79).trimEnd()}…`;
  delete link.dataset.untitled;
  link.textContent = title;
  element("session-title").textContent = title;
  document.title = document.title.replace(/^.* · /, () => `${title} · `);
}

function showAttachments(item, titles) {
  if (!titles.length || item.querySelector(".attached")) return;
  const list = document.createElement("ul");
  list.className = "attached";
  for (const title of titles) {
    const entry = document.createElement("li");
    entry.textContent = title;
    list.append(entry);
  }
  item.append(list);
}

const documentItem = (id) => documents?.querySelector(`[data-document="${CSS.escape(id)}"]`);

// A file of that name that is still being sent: its event may be faster than the answer to its sending.
const sendingItem = (title) =>
  [...documents.querySelectorAll('[data-status="sending"]')].find(
    (item) => item.querySelector(".name")?.textContent === title,
  );

function newDocumentItem(title) {
  const item = element("document-template").content.firstElementChild.cloneNode(true);
  item.querySelector(".name").textContent = title;
  documents.append(item);
  return item;
}

// Takes away a document that could not be used; one that the server has is removed there first.
async function dismiss(item) {
  const id = item.dataset.document;
  if (id) {
    const headers = { "X-CSRFToken": composer.elements.csrfmiddlewaretoken.value };
    const url = `${page.dataset.documentsUrl}/${encodeURIComponent(id)}?session_id=${session}`;
    let answer;
    try {
      const response = await fetch(url, { method: "DELETE", headers });
      answer = { status: response.status, body: await response.text() };
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      answer = { status: 0, body: "" };
    }
    if (answer.status !== 204 && answer.status !== 404) {
      problem.textContent = reasonOf(answer);
      return;
    }
  }
  item.remove();
  content.focus();
}

function identify(item, id, title) {
  item.dataset.document = id;
  const link = item.querySelector("a");
  link.href = `/documents/${encodeURIComponent(id)}/?session=${session}`;
  link.textContent = title;
  item.querySelector(".name")?.remove();
}

function documentStatus(item, status, text = say.documents[status]) {
  if (!item) return;
  item.dataset.status = status;
  item.querySelector(".status").textContent = text;
  const progress = item.querySelector("progress");
  if (progress) progress.hidden = status !== "sending";
  item.querySelector(".dismiss").hidden = status !== "failed";
  const title = (item.querySelector(".name") ?? item.querySelector("a")).textContent;
  if (status !== "sending") announce.textContent = `${title}: ${text}`;
}

function takeDocument(name, d) {
  if (!documents) return;
  let item = documentItem(d.document_id);
  switch (name) {
    case "DocumentReceived":
      if (!item) {
        item = sendingItem(d.title) ?? newDocumentItem(d.title);
        identify(item, d.document_id, d.title);
        documentStatus(item, "received");
      }
      break;
    case "DocumentHeld":
      documentStatus(item, "held");
      break;
    case "DocumentReleased":
      documentStatus(item, "received");
      break;
    case "DocumentChunked":
      if (item?.dataset.status === "received") documentStatus(item, "chunked");
      break;
    case "DocumentEmbedded":
      documentStatus(item, "ready");
      break;
    case "DocumentFailed":
      attached.delete(d.document_id);
      documentStatus(item, "failed", d.message);
      break;
    case "DocumentRemoved":
      attached.delete(d.document_id);
      item?.remove();
  }
}

// Plans of several tasks are shown as a list while they run; the reply's own line takes its place.
function planOf(id) {
  if (!plans.has(id)) plans.set(id, { tasks: new Map(), list: null, bill: null });
  return plans.get(id);
}

function planList(id, known) {
  const item = element("plan-template").content.firstElementChild.cloneNode(true);
  item.dataset.plan = id;
  item.querySelector("a").href = `/plans/${encodeURIComponent(id)}/`;
  keepingEnd(() => messages.append(item));
  known.list = item.querySelector("ul");
  showBill(known);
  for (const task of known.tasks.values()) showTask(known, task);
}

// What the plan is expected to use, told before it runs.
function showBill({ list, bill }) {
  if (list === null || bill === null) return;
  const number = new Intl.NumberFormat(document.documentElement.lang, { maximumFractionDigits: 6 });
  const counted = ([one, several], count) => (count === 1 ? one : fill(several, { count: number.format(count) }));
  const facts = [counted(say.bill.tasks, bill.tasks)];
  if (bill.tokens.p90) facts.push(counted(say.bill.tokens, bill.tokens.p50));
  else facts.push(say.bill.no_tokens);
  for (const { p50, p90, currency } of bill.costs) {
    if (p90) facts.push(`${number.format(p50 / 1e6)} ${currency}`);
  }
  for (const kind of ["approvals", "throttles", "denials"]) {
    if (bill[kind]) facts.push(counted(say.bill[kind], bill[kind]));
  }
  const line = list.parentElement.querySelector(".bill");
  keepingEnd(() => {
    line.textContent = facts.join(", ");
    line.hidden = false;
  });
}

function showTask(known, task) {
  if (known.list === null || task.kind === "goal") return;
  let line = known.list.querySelector(`[data-task="${CSS.escape(task.id)}"]`);
  if (line === null) {
    line = document.createElement("li");
    line.dataset.task = task.id;
    const intent = document.createElement("bdi");
    intent.textContent = task.intent;
    line.append(intent, " ", document.createElement("span"));
    keepingEnd(() => known.list.append(line));
  }
  line.dataset.status = task.status;
  line.querySelector("span").textContent = fill(say.tasks[task.status] ?? task.reason, task);
}

function takePlan(name, d) {
  const known = planOf(d.plan_id);
  if (name === "TaskAdded") {
    const { task_id: id, kind, intent, agent } = d;
    if (!known.tasks.has(id)) known.tasks.set(id, { id, kind, intent, agent, status: "waiting", reason: "" });
    if (known.list === null && known.tasks.size > 1) planList(d.plan_id, known);
    showTask(known, known.tasks.get(id));
    return;
  }
  if (name === "PlanBilled") {
    known.bill ??= d;
    showBill(known);
    return;
  }
  const task = known.tasks.get(d.task_id);
  if (!task || !TASK_STATUS[name]) return;
  task.status = TASK_STATUS[name];
  task.reason = d.reason ?? "";
  if (d.run_id) runs.set(d.run_id, { known, task });
  showTask(known, task);
}

// What the server knows of plans under way; events that come again after it change nothing more.
function seedPlans(found) {
  for (const { id, tasks, bill } of found) {
    const known = planOf(id);
    known.bill = bill;
    for (const task of tasks) {
      known.tasks.set(task.id, task);
      if (task.run_id) runs.set(task.run_id, { known, task });
    }
    planList(id, known);
  }
}

// An act of a task that has to wait, or may go on.
function takeAct(run, d) {
  const found = runs.get(run);
  if (!found || !["running", "held"].includes(found.task.status)) return;
  found.task.status = waitOf(d) ? "held" : "running";
  found.task.reason = waitOf(d);
  showTask(found.known, found.task);
}

function endPlan(id) {
  messages.querySelector(`[data-plan="${CSS.escape(id ?? "")}"]`)?.remove();
  plans.delete(id);
}

function take({ type, d, stream: origin }) {
  const name = type.split(".").pop();
  if (d.plan_id && (name.startsWith("Task") || name.startsWith("Plan"))) takePlan(name, d);
  if (name === "ActDecided") takeAct(origin, d);
  if (name.startsWith("Document")) {
    takeDocument(name, d);
    return;
  }
  if (type.startsWith("governance.Approval")) {
    fetchCard(d.approval_id);
    if (name === "ApprovalGranted") {
      held = "";
      tell(say.going_on);
    }
    return;
  }
  switch (type) {
    case "governance.DecisionMade":
      lookAtGlass();
      break;
    case "sessions_app.MessagePosted": {
      const item = write(d.message_id, d.role, d.content);
      item.classList.remove("waiting");
      if (d.role !== "user") break;
      answering.add(d.message_id);
      nameSession(d.content);
      showAttachments(item, d.attachments.map((id) => documentItem(id)?.querySelector("a")?.textContent).filter(Boolean));
      tell(held || say.phases[type]);
      break;
    }
    case "sessions_app.ReplyPosted": {
      answering.delete(d.parent);
      const item = write(d.message_id, "assistant", d.completed.text);
      item.dataset.parent = d.parent;
      item.dataset.outcome = d.outcome;
      finish(d.message_id);
      endPlan(d.plan_id);
      held = "";
      tell("", { aloud: say[d.outcome] });
      break;
    }
    case "tasks_app.ActDecided":
      held = waitOf(d);
      if (d.permitted) tell(say.acts[d.act] ?? say.phases["tasks_app.TaskStarted"]);
      else tell(held || say.not_allowed);
      break;
    case "tasks_app.PlanHeldBack":
      held = waitOf(d);
      tell(held);
      break;
    case "sessions_app.SessionExpired":
      notice.textContent = say.expired;
      notice.hidden = false;
      break;
    case "sessions_app.SessionReopened":
      notice.hidden = true;
      break;
    case "sessions_app.SessionErased":
      location.assign("/chat/");
      break;
    default:
      if (say.phases[type]) tell(say.phases[type]);
  }
  setAnswering();
}

async function post(cid, text) {
  const item = write(cid, "user", text);
  const sent = new Map(attached);
  attached.clear();
  item.classList.add("waiting");
  showAttachments(item, [...sent.values()]);
  toEnd();
  const args = { message_id: cid, content: text, attachments: [...sent.keys()] };
  try {
    await stream.command("post_message", args, { channel, cid });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    item.remove();
    for (const [id, title] of sent) attached.set(id, title);
    content.value ||= text;
    grow();
    problem.textContent ||= fill(say.unsent, { reason: error.message });
  }
}

function stop() {
  tell(say.stopping);
  for (const mid of answering) {
    stream.command("cancel_turn", { message_id: mid }, { channel }).catch((error) => {
      if (!(error instanceof Refused)) throw error;
      problem.textContent = error.message;
    });
  }
}

// Sends one file and returns the server's answer; fetch would not tell how far the sending is.
function sendFile(chosen, onProgress) {
  const form = new FormData();
  form.append("session_id", session);
  form.append("file", chosen);
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("POST", page.dataset.documentsUrl);
    request.responseType = "text";
    request.setRequestHeader("X-CSRFToken", composer.elements.csrfmiddlewaretoken.value);
    request.setRequestHeader("Idempotency-Key", newCommandId());
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    request.addEventListener("load", () => resolve({ status: request.status, body: request.responseText }));
    request.addEventListener("error", () => resolve({ status: 0, body: "" }));
    request.send(form);
  });
}

function reasonOf({ status, body }) {
  if (status === 0) return say.no_server;
  if (status === 401) return say.signed_out;
  try {
    const answer = JSON.parse(body);
    return answer.detail ?? answer.title;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return fill(say.unreadable_answer, { status });
  }
}

async function upload(chosen) {
  const item = newDocumentItem(chosen.name);
  documentStatus(item, "sending");
  const answer = await sendFile(chosen, (done) => {
    item.querySelector("progress").value = done;
  });
  if (answer.status < 200 || answer.status >= 300) {
    documentStatus(item, "failed", reasonOf(answer));
    return;
  }
  const { id, status } = JSON.parse(answer.body);
  const known = documentItem(id);
  attached.set(id, chosen.name);
  if (known) {
    // The same file again; or its event was faster than this answer and may have taken this item for it.
    if (known !== item) item.remove();
    if (known.dataset.status === "failed") attached.delete(id);
    return;
  }
  identify(item, id, chosen.name);
  documentStatus(item, status);
}

function uploadAll(files) {
  for (const each of files) upload(each);
}

function grow() {
  content.rows = Math.min(10, Math.max(1, content.value.split("\n").length));
}

function follow() {
  stream.addEventListener("status", ({ detail }) => {
    const text = say.connection[detail.status];
    if (detail.status === "waiting" && connection.dataset.status === "connected") announce.textContent = text;
    if (detail.status === "connected" && connection.dataset.lost) announce.textContent = text;
    if (detail.status === "waiting") connection.dataset.lost = "yes";
    // Trying again is no news while the connection is away.
    if (detail.status === "connecting" && connection.dataset.lost) return;
    connection.textContent = text;
    connection.dataset.status = detail.status;
    if (detail.status === "connected") {
      delete connection.dataset.lost;
      for (const mid of unfinished) finish(mid);
      for (const id of stale) fetchCard(id);
    }
    if (detail.status === "ended") showEnd(detail);
  });
  stream.addEventListener("event", ({ detail }) => take(detail.event));
  stream.addEventListener("text", ({ detail }) => {
    write(detail.mid, "assistant", detail.text);
    if (detail.text && !detail.done) tell(say.acts.message_out);
  });
  // Too far behind for single events: the page as the server has it now is the snapshot.
  stream.addEventListener("snapshot", () => location.reload());
  stream.addEventListener("corrupt", () => {
    problem.textContent = say.damaged;
  });
  stream.addEventListener("ended", ({ detail }) => {
    problem.textContent = detail.error?.message ?? say.ended;
  });
  for (const item of messages.querySelectorAll(".message.user")) answering.add(item.dataset.mid);
  for (const item of messages.querySelectorAll("[data-parent]")) {
    answering.delete(item.dataset.parent);
    item.dataset.rendered = "yes";
  }
  const waitsFor = page.dataset.waitsFor;
  if (waitsFor) held = say.waits_for[waitsFor] ?? fill(say.slowed_down, { time: clock(waitsFor) });
  if (answering.size) tell(held || say.phases["tasks_app.TaskStarted"]);
  seedPlans(JSON.parse(element("open-plans").textContent));
  countDown();
  setInterval(countDown, 1000);
  setInterval(watchGlass, 1000);
  messages.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!event.submitter?.hasAttribute("aria-disabled")) decide(event.target, event.submitter.value);
  });
  setAnswering();
  toEnd();
  stream.subscribe(channel, Number(page.dataset.position));
  stream.start();
}

function showEnd({ code, reason }) {
  tell("");
  if (send) send.disabled = true;
  if (code !== 4401) {
    problem.textContent = reason || say.ended;
    return;
  }
  const link = document.createElement("a");
  link.href = `${page.dataset.signInUrl}?next=${encodeURIComponent(location.pathname)}`;
  link.textContent = say.sign_in;
  problem.replaceChildren(`${say.signed_out} `, link);
}

function listen() {
  composer.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.submitter === send && send.dataset.does === "stop") {
      stop();
      return;
    }
    const text = content.value.trim();
    if (!text || send.disabled) return;
    problem.textContent = "";
    content.value = "";
    grow();
    content.focus();
    post(newCommandId(), text);
  });
  content.addEventListener("input", grow);
  content.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      composer.requestSubmit();
    }
  });
  documents.addEventListener("click", (event) => {
    const button = event.target.closest(".dismiss");
    if (button) dismiss(button.closest("li"));
  });
  file.addEventListener("change", () => {
    uploadAll([...file.files]);
    file.value = "";
    content.focus();
  });
  composer.addEventListener("dragover", (event) => event.preventDefault());
  composer.addEventListener("drop", (event) => {
    event.preventDefault();
    uploadAll([...event.dataTransfer.files]);
  });
  content.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (!files.length) return;
    event.preventDefault();
    uploadAll(files);
  });
}

if (composer) listen();
follow();
