// The formats that the page offers: those that work on this server.

import { session } from "./session.js";

const WITHOUT_SCHEMA = ["json", "text", "binary"];
const WITH_SCHEMA = ["avro", "protobuf", "jsonschema"];

/** The names of the formats. */
export function formats() {
  const available = session.formats ?? WITHOUT_SCHEMA;
  const known = [...WITHOUT_SCHEMA, ...WITH_SCHEMA].filter(each => available.includes(each));
  return [...known, ...available.filter(each => !known.includes(each))];
}

/** The parameters of a read. Without a format, the server also detects messages with a schema of the registry. */
export function readingFormats(chosen) {
  if (chosen) return { format: chosen };
  return formats().some(each => WITH_SCHEMA.includes(each)) ? { format: "auto", key_format: "auto" } : {};
}
