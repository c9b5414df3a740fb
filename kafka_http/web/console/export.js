// The text of messages for other programs. A message is what the API returned, with the original digits of its numbers.

import { isoTime } from "./dom.js";

/** One record per line, which can be published again with lines=records. */
export const ndjson = records => records.map(each => `${JSON.stringify(each)}\n`).join("");

const COLUMNS = {
  partition: record => record.partition,
  offset: record => record.offset,
  time: record => (record.timestamp === null ? "" : isoTime(plain(record.timestamp))),
  key: record => text(record.key),
  value: record => text(record.value ?? record.error?.message),
  format: record => record.format,
  headers: record => (record.headers.length ? JSON.stringify(record.headers) : ""),
};

/** A table with a line for each message. Lines end as RFC 4180 wants. */
export function csv(records) {
  const rows = records.map(record => Object.values(COLUMNS).map(column => cell(column(record))));
  return [Object.keys(COLUMNS), ...rows].map(each => `${each.join(",")}\r\n`).join("");
}

/** Spreadsheets calculate what begins with =, +, - or @. An apostrophe prevents that. Numbers stay. */
function cell(content) {
  const shown = String(plain(content) ?? "");
  const safe = /^[=+\-@\t\r]/.test(shown) && !/^[+-]?[\d.]+(e[+-]?\d+)?$/i.test(shown) ? `'${shown}` : shown;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const text = content => (content === null || content === undefined || typeof content === "string" ? content : JSON.stringify(content));

/** The digits of a number that api.js parsed exactly. */
const plain = content => (content !== null && typeof content === "object" && "rawJSON" in content ? content.rawJSON : content);
