// Keeps parts of the console's pages as they are now: each socket event, and each minute, loads the part anew
// from the server. Without a socket the page stays as it was loaded, and says so.
import { Stream } from "./stream.js";

const PAUSE_MS = 150;
const EVERY_MS = 60_000;

const fault = document.querySelector(".errornote[role=alert]");
if (fault) fault.focus();

const live = document.querySelector("[data-live]");
if (live) follow(live);

function follow(section) {
  const part = section.querySelector("[data-live-part]");
  const announce = section.querySelector("[data-live-announce]");
  const status = section.querySelector("[data-live-status]");
  let timer = null;
  let loading = false;
  let again = false;

  const soon = () => {
    clearTimeout(timer);
    timer = setTimeout(load, PAUSE_MS);
  };

  const load = async () => {
    if (loading) {
      again = true;
      return;
    }
    loading = true;
    try {
      const response = await fetch(section.dataset.part, { credentials: "same-origin", redirect: "error" });
      if (response.ok) show(await response.text());
      else say(false);
    } catch {
      say(false);
    } finally {
      loading = false;
      if (again) {
        again = false;
        soon();
      }
    }
  };

  // The server escapes what it sends; the content security policy lets no script in it run.
  const show = (html) => {
    if (part.innerHTML.trim() === html.trim()) return;
    const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const before = words();
    part.innerHTML = html;
    if (focused) part.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    if (words() !== before) announce.textContent = words();
  };

  const words = () => part.querySelector("[data-live-words]")?.textContent.replace(/\s+/g, " ").trim() ?? "";

  const say = (connected) => {
    section.dataset.liveNow = connected ? "on" : "off";
    if (status) status.textContent = connected ? status.dataset.on : status.dataset.off;
  };

  const stream = new Stream();
  const held = new Set();
  stream.addEventListener("status", ({ detail }) => {
    if (detail.status !== "connected") say(false);
  });
  stream.addEventListener("snapshot", ({ detail }) => {
    held.add(detail.ch);
    say(true);
    soon();
  });
  stream.addEventListener("event", soon);
  stream.addEventListener("ended", ({ detail }) => {
    held.delete(detail.ch);
    if (!held.size) say(false);
  });
  stream.addEventListener("welcome", () => {
    if (held.size) {
      say(true);
      soon();
    }
  });
  for (const channel of section.dataset.channels.split(" ").filter(Boolean)) stream.subscribe(channel);
  stream.start();
  setInterval(() => {
    if (!document.hidden) load();
  }, EVERY_MS);
}
