// Chooses the page for this browser: the full one if it has WebGL 2, else the light one. `?page=full`
// and `?page=light` choose a page, which is remembered; `?page=choose` forgets it, and stays here.

const KEY = "lumigraph.page";
const PAGES = ["full", "light"];

// Storage may be disabled; then nothing is remembered.
function remember(page) {
  try {
    if (page) localStorage.setItem(KEY, page);
    else localStorage.removeItem(KEY);
  } catch {}
}

function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function hasWebGL() {
  try {
    const gl = document.createElement("canvas").getContext("webgl2");
    gl?.getExtension("WEBGL_lose_context")?.loseContext();
    return gl !== null;
  } catch {
    return false;
  }
}

function say(text) {
  document.getElementById("finding").textContent = text;
}

for (const link of document.querySelectorAll("a[data-page]"))
  link.addEventListener("click", () => remember(link.dataset.page));

const asked = new URLSearchParams(location.search).get("page");
if (asked === "choose") {
  remember(null);
  const finding = hasWebGL() ? "This browser has WebGL 2." : "This browser has no WebGL 2.";
  say(`${finding} Choose a page.`);
} else {
  if (PAGES.includes(asked)) remember(asked);
  const kept = remembered();
  const page = [asked, kept].find((name) => PAGES.includes(name)) ?? (hasWebGL() ? "full" : "light");
  say(`Opening the ${page} page.`);
  location.replace(`/${page}`);
}
