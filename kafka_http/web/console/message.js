// One message, as a row.

import { element, time } from "./dom.js";
import { keyClass } from "./key_colors.js";

const SHORT = 120;

/** `exact` is the value with the original digits of its numbers. `actions` are buttons. */
export function messageRow(record, exact, actions) {
  const facts = element(
    "div.facts", {},
    element("code.place", { title: "partition : offset" }, `${record.partition}:${record.offset}`),
    record.timestamp === null ? undefined : time(record.timestamp),
    ...key(record),
    record.format && record.format !== "json" ? element("span.badge", {}, record.format) : undefined,
    ...actions,
  );
  return element("li", {}, facts, ...headers(record.headers), value(record, exact));
}

function key({ key, key_format: format }) {
  if (key === null) return [element("span.soft", {}, "no key")];
  const shown = element("span", {}, element("span.soft", {}, "key "), element(`code.key.${keyClass(key)}`, {}, text(key)));
  return format ? [shown, element("span.badge", {}, format === "binary" ? "key in base64" : `key ${format}`)] : [shown];
}

function headers(found) {
  if (!found.length) return [];
  const rows = found.flatMap(([name, content]) => [element("dt", {}, name), element("dd", {}, header(content))]);
  return [element("dl.headers", {}, ...rows)];
}

function header(content) {
  if (content === null) return element("span.soft", {}, "null");
  return typeof content === "string" ? content : element("span", {}, content.base64, element("span.badge", {}, "base64"));
}

function value(record, exact) {
  if (record.error) {
    return element("p.value.bad", {}, element("span.badge.bad", {}, "unreadable"), ` ${record.error.message}`);
  }
  if (record.value === null) return element("p.value", {}, element("span.badge.warn", {}, "tombstone"));
  return element("pre.value", {}, text(exact));
}

/** A text as it is, JSON on one line if it is short. Line ends occur only between the tokens of JSON. */
function text(content) {
  if (typeof content === "string") return content;
  const lines = JSON.stringify(content, null, 2);
  return lines.length > SHORT ? lines : lines.replaceAll(/\n */g, " ");
}
