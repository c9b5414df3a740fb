// Calls of the API. A request is an object that can be sent, or shown as a curl command (curl.js).

/** The URL of the API: beside the console, after the prefix of a proxy. */
const root = new URL(location.pathname.replace(/\/+console\/*$/, "/"), location.origin);

const JSON_TYPE = /^application\/(.*\+)?json/;

/** request("GET", ["messages", topic], {query, headers, body}). Throws an Error if a name cannot be in a path. */
export function request(method, segments, { query = {}, headers = {}, body } = {}) {
  const url = new URL(segments.map(segment).join("/"), root);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return { method, url: url.href, headers, body };
}

function segment(text) {
  // Browsers resolve . and .. as directories, and / separates names, in every encoding: the call would be another one.
  if (["", ".", ".."].includes(text) || text.includes("/")) throw new Error(`“${text}” cannot be a name in a URL path.`);
  return encodeURIComponent(text).replaceAll("%3A", ":").replaceAll("%2C", ",");
}

/** Marks a request that the page repeats by itself. The server's access log omits it. */
export const polled = made => ({ ...made, headers: { ...made.headers, "X-Console-Poll": "true" } });

/** What every request is sent with: fetch's mode for the browser's own credentials, and headers; `curl` stands for them. */
export const login = { mode: "same-origin", headers: {}, curl: "" };

/** Sends a request, and returns the response as soon as it begins. Throws an Error if there is none. */
export async function call({ method, url, headers, body }, options = {}) {
  const sent = { method, headers: { ...headers, ...login.headers }, body, credentials: login.mode, cache: "no-store" };
  return fetch(url, { ...sent, ...options }).catch(error => {
    throw error.name === "AbortError" ? error : new Error("The server cannot be reached.");
  });
}

/** Sends a request as `call` does. Tells the page if the server wants other credentials. */
export async function callOrLogIn(made, options) {
  const response = await call(made, options);
  if (response.status === 401) dispatchEvent(new Event("unauthenticated"));
  return response;
}

/** Returns the message of an error response, whose body is parsed JSON or null. That of leases has an error for each. */
export const problem = (response, content) =>
  content?.error?.message ?? content?.message ?? content?.leases?.[0]?.error?.message ?? `The server responded with status ${response.status}.`;

/**
 * Sends a request. Returns the text of the response, its parsed JSON, and the server's time. Throws an Error with the
 * server's message.
 */
export async function send(made, options) {
  const response = await callOrLogIn(made, options);
  const text = await response.text();
  const content = text && JSON_TYPE.test(response.headers.get("Content-Type")) ? JSON.parse(text) : null;
  if (!response.ok) {
    throw Object.assign(new Error(problem(response, content)), { status: response.status, code: content?.error?.code });
  }
  return { content, text, date: Date.parse(response.headers.get("Date")) };
}

export const get = async (...segments) => (await send(request("GET", segments))).content;

/** Parses JSON. Numbers keep their digits, such as 12345678901234567890 and 1.50, if the browser supports that. */
export function parseExactly(text) {
  if (!JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && context?.source ? JSON.rawJSON(context.source) : value,
  );
}

/** Runs `action` for each item, `atATime` concurrently. */
export async function forEach(items, atATime, action) {
  const left = [...items];
  const work = async () => {
    while (left.length) await action(left.shift());
  };
  await Promise.all(Array.from({ length: atATime }, work));
}
