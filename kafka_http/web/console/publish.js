// Publish one message or many.

import { request, send } from "./api.js";
import { CurlBox } from "./curl.js";
import { Outcome, attempt, checkbox, choice, element, field, panel } from "./dom.js";
import { formats } from "./formats.js";
import { may } from "./rights.js";

const WAYS = [
  ["one", "one message"],
  ["lines", "many: one value per line (NDJSON)"],
  ["records", "many: one record per line, with key and headers"],
];
const PRINTABLE = /^[!-~]([ -~]*[!-~])?$/;
const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

export function publishPanel(topic) {
  if (!may("publish", topic)) return panel("Publish", element("p.hint", {}, "You may not publish to this topic."));
  const box = new CurlBox("Publish");
  const outcome = new Outcome();
  const inputs = {
    way: choice(WAYS, { name: "way" }),
    key: element("input", { name: "key", autocomplete: "off", spellcheck: "false" }),
    partition: element("input", { name: "partition", inputmode: "numeric", placeholder: "by key", autocomplete: "off" }),
    format: choice([["", "JSON, or the topic's format"], ...formats().map(each => [each, each])], { name: "format" }),
    headers: element("textarea", { name: "headers", rows: 2, spellcheck: "false", placeholder: "name: value" }),
    value: element("textarea", { name: "value", rows: 3, spellcheck: "false" }, '{"hello": "world"}'),
    tombstone: checkbox("Tombstone", { name: "tombstone" }),
    later: checkbox("Later (as a task)", { name: "later" }),
  };
  const made = () => publishing(topic, read(inputs));
  const update = () => {
    inputs.tombstone.control.disabled = inputs.way.value !== "one";
    inputs.value.disabled = inputs.tombstone.control.checked && inputs.way.value === "one";
    box.preview(made);
  };
  const submit = event => {
    event.preventDefault();
    attempt(outcome, async () => {
      const request_ = made();
      box.show(request_);
      report(outcome, (await send(request_)).content);
    });
  };
  const keydown = event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  };
  const form = element(
    "form", { submit, keydown, input: update, "aria-label": "Publish" },
    field("Content", inputs.way),
    element("div.pair", {}, field("Key", inputs.key), field("Partition", inputs.partition)),
    field("Value", inputs.value),
    field("Format", inputs.format),
    field("Headers, one per line", inputs.headers),
    element("div.checks", {}, inputs.tombstone.label, inputs.later.label),
    element("button.primary", { type: "submit" }, "Publish"),
  );
  update();
  return panel("Publish", form, outcome.element, box.element);
}

function read({ way, key, partition, format, headers, value, tombstone, later }) {
  return {
    way: way.value,
    key: key.value,
    partition: partition.value.trim(),
    format: format.value,
    headers: parsedHeaders(headers.value),
    value: value.value,
    tombstone: tombstone.control.checked && way.value === "one",
    later: later.control.checked,
  };
}

function parsedHeaders(text) {
  return text.split("\n").filter(line => line.trim()).map(line => {
    const [, name, value] = line.match(/^\s*(.*?)\s*:\s?(.*)$/) ?? [];
    if (!name) throw new Error(`Header must be “name: value”, got “${line.trim()}”.`);
    return [name, value];
  });
}

function publishing(topic, wanted) {
  const later = wanted.later ? { Prefer: "respond-async" } : {};
  const path = ["messages", topic];
  if (wanted.way === "one") {
    const headers = { "Content-Type": "application/json", ...later };
    return request("POST", path, { headers, body: `{"records": [${envelope(wanted)}]}` });
  }
  return request("POST", path, {
    query: {
      key: wanted.key, partition: wanted.partition, format: wanted.format,
      lines: wanted.way === "records" ? "records" : undefined,
    },
    headers: { "Content-Type": "application/x-ndjson", ...Object.fromEntries(wanted.headers.map(asHttp)), ...later },
    body: wanted.value,
  });
}

/** A record of the API. Its value is the typed text, so that numbers keep their digits. */
function envelope({ key, partition, format, headers, value, tombstone }) {
  const fields = [];
  if (key !== "") fields.push(["key", JSON.stringify(key)]);
  fields.push(["value", tombstone ? "null" : json(value, format)]);
  if (partition !== "") fields.push(["partition", whole(partition)]);
  if (format) fields.push(["format", JSON.stringify(format)]);
  if (headers.length) fields.push(["headers", JSON.stringify(headers)]);
  return `{${fields.map(([name, text]) => `"${name}": ${text}`).join(", ")}}`;
}

function json(value, format) {
  if (format === "text" || format === "binary") return JSON.stringify(value);
  try {
    JSON.parse(value);
  } catch {
    throw new Error("Value is not valid JSON. For other text, choose the format text.");
  }
  return value.trim();
}

function whole(partition) {
  if (!/^\d+$/.test(partition)) throw new Error("Partition must be a number such as 0.");
  return String(Number(partition));
}

/** Returns the HTTP header for a header of all messages of a request. */
function asHttp([name, value]) {
  if (!TOKEN.test(name)) throw new Error(`Header name “${name}” is not valid in HTTP. Publish one record per line instead.`);
  if (PRINTABLE.test(value)) return [`Kafka-Header-${name}`, value];
  return [`Kafka-Header-Base64-${name}`, btoa(String.fromCharCode(...new TextEncoder().encode(value)))];
}

function report(outcome, { records, task }) {
  if (task) return outcome.good(`Accepted as task ${task.id}.`);
  const failed = records.filter(each => each.error);
  if (failed.length) return outcome.bad(`${failed.length} of ${records.length} failed: ${failed[0].error.message}`);
  const last = records.at(-1);
  const count = records.length === 1 ? "Written" : `${records.length} messages written, the last`;
  outcome.good(`${count} to partition ${last.partition} at offset ${last.offset}.`);
}
