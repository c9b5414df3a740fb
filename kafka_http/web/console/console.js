// The page: shows the view that the address names.

import { instancesView } from "./instances.js";
import { tasksView } from "./tasks.js";
import { topicView } from "./topic.js";
import { topicsView } from "./topics.js";

const main = document.getElementById("main");
let leave = () => {};

function show() {
  const [view, name] = location.hash.split("/").slice(1);
  if (!view && main.childElementCount) return; // a link within the view
  leave();
  const made = viewOf(view, name && decodeURIComponent(name));
  leave = made.leave ?? (() => {});
  main.replaceChildren(made.element);
  document.title = `${made.title} · kafka_http`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${view || "topics"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function viewOf(view, name) {
  if (view === "tasks") return tasksView();
  if (view === "instances") return instancesView();
  return name ? topicView(name) : topicsView();
}

document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => {
  show();
  main.focus({ preventScroll: true });
});
main.replaceChildren();
show();
