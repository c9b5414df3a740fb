// The page: shows the view that the address names.

import { accessView } from "./access.js";
import { instancesView } from "./instances.js";
import { loginView, showUser } from "./login.js";
import { begin, session } from "./session.js";
import { tasksView } from "./tasks.js";
import { topicView } from "./topic.js";
import { topicsView } from "./topics.js";

const main = document.getElementById("main");
const user = document.getElementById("user");
let leave = () => {};
let isLoginShown = false;

function show() {
  const [view, name] = location.hash.split("/").slice(1);
  if (!view && main.childElementCount) return; // a link within the view
  leave();
  const made = isLoginShown ? loginView(entered) : viewOf(view, name && decodeURIComponent(name));
  leave = made.leave ?? (() => {});
  main.replaceChildren(made.element);
  document.title = `${made.title} · kafka_http`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${view || "topics"}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function viewOf(view, name) {
  if (view === "access") return accessView();
  if (view === "tasks") return tasksView();
  if (view === "instances") return instancesView();
  return name ? topicView(name) : topicsView();
}

/** Shows the page to a user who has logged in, or needs no login. */
function entered() {
  isLoginShown = false;
  showUser(user, { logIn: askForLogin, logOut: start });
  main.replaceChildren();
  show();
}

function askForLogin() {
  isLoginShown = true;
  user.replaceChildren();
  main.replaceChildren();
  show();
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
  main.focus({ preventScroll: true });
});
// Credentials were revoked or have expired. Users without any stay, and see what is not allowed.
addEventListener("unauthenticated", () => {
  if (session.access && !["off", "anonymous"].includes(session.access.scheme)) start();
});
main.replaceChildren();
start();
