// The form to log in, and who is logged in.

import { Outcome, attempt, choice, element, field } from "./dom.js";
import { isLoggedIn, logInWithKey, logInWithPassword, session, useBrowser } from "./session.js";

const KINDS = [["key", "API key or token"], ["password", "User and password"]];

/** The form. `done()` is called after the login. */
export function loginView(done) {
  const outcome = new Outcome();
  const offered = KINDS.filter(([kind]) => session.challenge.includes(kind === "key" ? "Bearer" : "Basic"));
  const kinds = choice(offered.length ? offered : KINDS, { name: "kind" });
  const inputs = Object.fromEntries(["key", "user", "password"].map(name => [name, secretInput(name)]));
  const fields = {
    key: element("div", {}, field("API key or token", inputs.key)),
    password: element("div", {}, field("User", inputs.user), field("Password", inputs.password)),
  };
  const chosen = () => {
    for (const [kind, shown] of Object.entries(fields)) shown.hidden = kind !== kinds.value;
  };
  const logIn = action => attempt(outcome, async () => {
    await action();
    for (const input of Object.values(inputs)) input.value = "";
    done();
  });
  const submit = event => {
    event.preventDefault();
    const { key, user, password } = inputs;
    logIn(async () => kinds.value === "key" ? logInWithKey(key.value.trim()) : logInWithPassword(user.value, password.value));
  };
  const certificate = async () => {
    if (!(await useBrowser())) throw new Error(session.problem);
  };
  kinds.addEventListener("change", chosen);
  chosen();
  const form = element(
    "form.panel.login", { submit, "aria-label": "Log in" },
    field("Log in with", kinds), fields.key, fields.password,
    element(
      "div.actions", {},
      element("button.primary", { type: "submit" }, "Log in"),
      location.protocol === "https:"
        ? element("button", { type: "button", click: () => logIn(certificate) }, "Use a certificate of this browser")
        : undefined,
    ),
    outcome.element,
    element("p.hint", {}, "The page keeps your credentials in its memory only. They are gone when you log out, reload or close the page."),
  );
  return { element: element("section", {}, element("div.title", {}, element("h2", {}, "Log in")), form), title: "Log in" };
}

const secretInput = name =>
  element("input", { name, type: name === "user" ? "text" : "password", autocomplete: "off", spellcheck: "false" });

/** Shows who is logged in, with buttons that call `logIn()` and `logOut()`. */
export function showUser(shown, { logIn, logOut }) {
  const access = session.access;
  shown.replaceChildren();
  if (!access || access.scheme === "off") return;
  shown.append(element("a", { href: "#/access" }, access.principal));
  if (isLoggedIn()) shown.append(element("button.quiet", { type: "button", click: logOut }, "Log out"));
  else if (access.scheme === "anonymous") shown.append(element("button.quiet", { type: "button", click: logIn }, "Log in"));
}
