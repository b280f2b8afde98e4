// Keeps the progress of a back-test as it is now, and loads the page anew when it has ended.
const EVERY_MS = 1000;

const section = document.querySelector("[data-follow]");
const part = section?.querySelector("[data-follow-part]");

async function look() {
  try {
    const response = await fetch(section.dataset.follow, { credentials: "same-origin", redirect: "error" });
    if (response.ok) {
      // The server escapes what it sends; the content security policy lets no script in it run.
      part.innerHTML = await response.text();
      if (part.querySelector("[data-progress=ended]")) {
        location.reload();
        return;
      }
    }
  } catch {
    // The server is away for a moment; what is shown stays.
  }
  setTimeout(look, EVERY_MS);
}

if (part) setTimeout(look, EVERY_MS);
