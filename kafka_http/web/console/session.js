// Who uses the page. Credentials are in the memory of the page only: nothing stores them.

import { call, login, problem, request } from "./api.js";
import { quoted } from "./curl.js";

const NEEDS_CREDENTIALS = 40101;
const KEY = /^[!-~]+$/;

/**
 * `access` is what the server says about the user, or null. `formats` are those that work on the server, or null.
 * `challenge` says which kinds of credentials it accepts.
 */
export const session = { access: null, formats: null, isRefused: false, challenge: "", problem: "" };

/** Whether the user has logged in here, so that the page can forget it. */
export const isLoggedIn = () => Object.keys(login.headers).length > 0;

/**
 * Finds out whether the server needs credentials, without a dialog of the browser. The browser's own credentials (a
 * certificate, or what a proxy wants) are used unless this server asks for a password: that would open its dialog.
 */
export async function begin() {
  forget();
  login.mode = "omit";
  if (await identify()) {
    if (session.access.scheme === "off") login.mode = "same-origin";
  } else if (!(session.isRefused && /\bBasic\b/i.test(session.challenge))) {
    await useBrowser();
  }
}

/** Logs in with the browser's own credentials, such as a certificate. Returns whether the server accepts them. */
export function useBrowser() {
  login.mode = "same-origin";
  return identify();
}

/** Logs in with an API key or a token. Throws an Error with the server's message. */
export function logInWithKey(key) {
  if (!key) throw new Error("Enter an API key or a token.");
  if (!KEY.test(key)) throw new Error("An API key or a token has only letters, digits and signs. Enter it without spaces and without “Bearer”.");
  // A proxy may need the header Authorization for itself
  if (key.startsWith("kh_")) return logIn({ "X-Api-Key": key }, '-H "X-Api-Key: $KEY"');
  return logIn({ Authorization: `Bearer ${key}` }, '-H "Authorization: Bearer $TOKEN"');
}

/** Logs in with a user and a password. Throws an Error with the server's message. */
export function logInWithPassword(user, password) {
  if (!user || user.includes(":")) throw new Error("User must not be empty and must not contain a colon.");
  const encoded = btoa(String.fromCharCode(...new TextEncoder().encode(`${user}:${password}`)));
  return logIn({ Authorization: `Basic ${encoded}` }, `-u ${quoted(user)}`);
}

async function logIn(headers, curl) {
  Object.assign(login, { headers, curl });
  if (await identify()) return;
  const said = session.problem;
  forget();
  throw new Error(said);
}

function forget() {
  Object.assign(login, { headers: {}, curl: "" });
}

/** Asks the server who the user is. Returns whether it lets the user in. */
async function identify() {
  session.access = null;
  session.isRefused = false;
  try {
    const response = await call(request("GET", ["access"]));
    const content = await response.json().catch(() => null); // the page of a proxy
    if (response.ok) session.access = content?.access ?? null;
    if (response.ok) session.formats = content?.formats ?? null;
    session.isRefused = response.status === 401 && content?.error?.code === NEEDS_CREDENTIALS;
    session.challenge = response.headers.get("WWW-Authenticate") ?? session.challenge;
    session.problem = problem(response, content);
  } catch (error) {
    session.problem = error.message;
  }
  return session.access !== null;
}
