"use strict";

// What the pages do beyond links and forms: parts of a trace are loaded when they are needed.
// Every part is a document of the server, in which all values are escaped; the policy forbids inline script.

async function part(address) {
  const response = await fetch(address);
  const text = await response.text();
  return [...new DOMParser().parseFromString(text, "text/html").body.childNodes];
}

// The children of a JSON value, when it is opened.
document.addEventListener("toggle", async (event) => {
  const node = event.target;
  const address = node.dataset && node.dataset.src;
  if (!address || !node.open) return;
  delete node.dataset.src;
  const nodes = await part(address);
  node.querySelector(":scope > .lazy")?.remove();
  node.append(...nodes);
}, true);

// The search, by the key /.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) return;
  event.preventDefault();
  document.querySelector("[role=search] [type=search]").select();
});

const tree = document.getElementById("tree");

if (tree) {
  const panel = document.getElementById("panel");
  const runs = () => [...tree.querySelectorAll("[role=treeitem]")];
  let latest = "";

  async function show(run) {
    latest = run;
    for (const item of tree.querySelectorAll("[aria-selected=true]")) {
      item.setAttribute("aria-selected", "false");
      item.tabIndex = -1;
    }
    const chosen = tree.querySelector(`[data-run="${CSS.escape(run)}"]`);
    if (chosen) {
      chosen.setAttribute("aria-selected", "true");
      chosen.tabIndex = 0;
    }
    panel.setAttribute("aria-busy", "true");
    const nodes = await part(`/archive/run/${encodeURIComponent(run)}/panel`);
    if (latest !== run) return;  // another one was chosen meanwhile
    panel.replaceChildren(...nodes);
    panel.removeAttribute("aria-busy");
  }

  function choose(item) {
    history.pushState(null, "", item.href);
    item.focus();
    show(item.dataset.run);
  }

  tree.addEventListener("click", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    choose(item);
  });

  tree.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = runs();
    const place = all.indexOf(item);
    const level = (one) => Number(one.getAttribute("aria-level"));
    const wanted = {
      ArrowDown: () => all[place + 1],
      ArrowUp: () => all[place - 1],
      ArrowRight: () => (all[place + 1] && level(all[place + 1]) > level(item) ? all[place + 1] : null),
      ArrowLeft: () => all.slice(0, place).findLast((one) => level(one) < level(item)),
      Home: () => all[0],
      End: () => all[all.length - 1],
    }[event.key];
    if (!wanted) return;
    event.preventDefault();
    const next = wanted();
    if (next) choose(next);
  });

  window.addEventListener("popstate", () => {
    const run = new URLSearchParams(location.search).get("run");
    if (run) show(run);
    else location.reload();
  });

  // Further runs, as the end of the list comes into sight.
  const more = document.getElementById("more");
  if (more) {
    let following = tree.lastElementChild.dataset.following;
    let busy = false;
    const observer = new IntersectionObserver(async (entries) => {
      if (busy || !entries.some((entry) => entry.isIntersecting)) return;
      busy = true;
      const nodes = await part(`/archive/trace/${tree.dataset.trace}/rows?begin=${following}`);
      tree.append(...nodes);
      following = tree.lastElementChild.dataset.following;
      busy = false;
      observer.disconnect();
      if (following) observer.observe(more);  // again: it may still be in sight
      else more.remove();
    }, { rootMargin: "600px" });
    observer.observe(more);
  }
}
