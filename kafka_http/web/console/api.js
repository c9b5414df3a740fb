// Calls of the API. A request is an object, so that it can be sent, and shown as a curl (curl.js).

/** Where the API is: beside the console, behind whatever prefix a proxy puts before both. */
const root = new URL(location.pathname.replace(/\/+console\/*$/, "/"), location.origin);

const JSON_TYPE = /^application\/(.*\+)?json/;

export const FORMATS = ["json", "text", "binary", "avro", "protobuf", "jsonschema"];

/** request("GET", ["messages", topic], {query, headers, body}). Raises an Error where a name cannot be in a path. */
export function request(method, segments, { query = {}, headers = {}, body } = {}) {
  const url = new URL(segments.map(segment).join("/"), root);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  return { method, url: url.href, headers, body };
}

function segment(text) {
  // A browser takes . and .. for directories, the server a / for the end of a name, however they are written: either
  // would make it a call of something else.
  if (["", ".", ".."].includes(text) || text.includes("/")) throw new Error(`“${text}” cannot be a name in a call.`);
  return encodeURIComponent(text).replaceAll("%3A", ":").replaceAll("%2C", ",");
}

/** Marks a request that the page repeats by itself, so that the server's access log leaves it out. */
export const polled = made => ({ ...made, headers: { ...made.headers, "X-Console-Poll": "true" } });

/** What the server answers, its JSON read. Raises an Error with the server's own words. */
export async function send({ method, url, headers, body }) {
  const answer = await fetch(url, { method, headers, body, cache: "no-store" }).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  const text = await answer.text();
  const content = text && JSON_TYPE.test(answer.headers.get("Content-Type")) ? JSON.parse(text) : null;
  if (!answer.ok) throw new Error(content?.error?.message ?? content?.message ?? `The server answered ${answer.status}.`);
  return { content, text };
}

export const get = async (...segments) => (await send(request("GET", segments))).content;

/** JSON whose numbers keep their digits, 12345678901234567890 and 1.50, where the browser can do that. */
export function parseExactly(text) {
  if (!JSON.rawJSON) return JSON.parse(text);
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && context?.source ? JSON.rawJSON(context.source) : value,
  );
}

/** `action` for each item, so many at a time. */
export async function forEach(items, atATime, action) {
  const left = [...items];
  const work = async () => {
    while (left.length) await action(left.shift());
  };
  await Promise.all(Array.from({ length: atATime }, work));
}
