// What the drawing of a log asks the server for by itself.

import { polled, request, send } from "./api.js";
import { readingFormats } from "./formats.js";

export const READER = "console"; // the consumer in the URLs of reads. It commits nothing
const FILL = { limit: 1000, max_bytes: 1 << 20, reset: "earliest" };

/** Returns where consumers stand on a topic: `[{name, places: [{partition, offset, lag}]}]`. */
export async function consumersOf(topic) {
  const { groups } = (await send(polled(request("GET", ["consumers"], { query: { topic } })))).content;
  return groups.map(({ group, offsets }) => ({ name: group, places: offsets.map(place).filter(each => each.offset !== null) }));
}

/** The offset of a share group is the first one that it may still deliver. */
const place = ({ partition, committed, start, lag }) => ({ partition, offset: committed ?? start ?? null, lag });

/** The request for one message. */
export const reading = (topic, partition, offset) =>
  request("GET", ["messages", topic, READER, `${partition}:${offset}`], { query: { limit: 1, ...readingFormats("") } });

/** Reads the messages that `rows` show and have not received, as far as one page goes. */
export async function fill(topic, rows) {
  const starts = new Map(rows.map(row => [row, row.firstUnknown()]).filter(([, start]) => start !== null));
  if (!starts.size) return;
  const position = [...starts].map(([row, start]) => `${row.partition}:${start}`).join(",");
  const { records, next } = (await send(polled(request("GET", ["messages", topic, READER, position], { query: { ...FILL, ...readingFormats("") } })))).content;
  const ends = new Map(next.split(",").map(each => each.split(":").map(Number)));
  for (const [row, start] of starts) {
    for (const record of records) if (record.partition === row.partition) row.receive(record);
    row.complete(start, ends.get(row.partition) ?? start);
  }
}
