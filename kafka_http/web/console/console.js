// The page: shows the view that the address names.

import { accessView } from "./access.js";
import { groupView, groupsView } from "./groups.js";
import { instancesView } from "./instances.js";
import { loginView, showUser } from "./login.js";
import { queueView } from "./queue.js";
import { begin, session } from "./session.js";
import { address, state } from "./state.js";
import { tasksView } from "./tasks.js";
import { topicView } from "./topic.js";
import { topicsView } from "./topics.js";

const main = document.getElementById("main");
const user = document.getElementById("user");
let shown = null; // {path, element, title, leave(), restore()}
let isLoginShown = false;

function show() {
  const { path, view, names } = state();
  if (shown && !path.startsWith("#/") && path) return; // a link within the view
  if (shown?.path === path && shown.restore) return shown.restore();
  shown?.leave?.();
  shown = { path, ...(isLoginShown ? loginView(entered) : viewOf(view, names)) };
  main.replaceChildren(shown.element);
  document.title = `${shown.title} · kafka_http`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === address(view)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Shows the view of the address from its beginning. */
function showAnew() {
  shown?.leave?.();
  shown = null;
  show();
}

function viewOf(view, [name, consumer]) {
  if (view === "access") return accessView();
  if (view === "groups") return name ? groupView(name) : groupsView();
  if (view === "queues" && consumer) return queueView(name, consumer);
  if (view === "tasks") return tasksView();
  if (view === "instances") return instancesView();
  return name ? topicView(name) : topicsView();
}

/** Shows the page to a user who has logged in, or needs no login. */
function entered() {
  isLoginShown = false;
  showUser(user, { logIn: askForLogin, logOut: start });
  showAnew();
}

function askForLogin() {
  isLoginShown = true;
  user.replaceChildren();
  showAnew();
  main.querySelector("input:not([type=hidden])")?.focus();
}

/** Forgets the user, and asks for a login if the server does. */
async function start() {
  await begin();
  if (session.isRefused) askForLogin();
  else entered();
}

document.querySelector(".skip").addEventListener("click", event => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", () => {
  show();
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
});
document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.target.matches("input, select, textarea") || document.querySelector("dialog")) return;
  const search = main.querySelector("input[type=search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
});
// Credentials were revoked or have expired. Users without any stay, and see what is not allowed.
addEventListener("unauthenticated", () => {
  if (session.access && !["off", "anonymous"].includes(session.access.scheme)) start();
});
main.replaceChildren();
start();
