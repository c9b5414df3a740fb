// Topic configurations as text: name=value, one per line.

import { element } from "./dom.js";

export const configsInput = placeholder =>
  element("textarea", { name: "config", rows: 2, spellcheck: "false", placeholder });

/** Returns {name: value}. A line without a value (retention.ms=) gives null: Kafka's default. */
export function parseConfigs(text) {
  const lines = text.split("\n").map(each => each.trim()).filter(Boolean);
  return Object.fromEntries(lines.map(line => {
    const [, name, value] = line.match(/^([^=\s]+)\s*=\s*(.*)$/) ?? [];
    if (!name) throw new Error(`Configuration must be “name=value”, got “${line}”.`);
    return [name, value === "" ? null : value];
  }));
}

/** Returns the number that was typed, or undefined for none. */
export function wholeNumber(label, text) {
  const typed = text.trim();
  if (typed === "") return undefined;
  if (!/^\d{1,9}$/.test(typed)) throw new Error(`${label} must be a number such as 3, got “${typed}”.`);
  return Number(typed);
}

/** A request body without the fields that are not set. */
export const jsonBody = fields => ({ headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields) });
