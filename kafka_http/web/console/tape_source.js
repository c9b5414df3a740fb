// What the drawing of a log asks the server for by itself.

import { polled, request, send } from "./api.js";
import { readingFormats } from "./formats.js";

export const READER = "console"; // the consumer in the URLs of reads. It commits nothing
const FILL = { limit: 1000, max_bytes: 1 << 20, reset: "earliest" };

/** Returns where consumers stand on a topic: `[{name, places: [{partition, offset, lag}]}]`. */
export async function consumersOf(topic) {
  const { groups } = (await send(polled(request("GET", ["consumers"], { query: { topic } })))).content;
  return groups.map(({ group, offsets }) => {
    const places = offsets.map(place).filter(each => each.offset !== null);
    return { name: group, places };
  });
}

/** The offset of a share group is the first one that it may still deliver. */
const place = ({ partition, committed, start, lag }) => ({ partition, offset: committed ?? start ?? null, lag });

/** The request for one message. */
export const reading = (topic, partition, offset) =>
  request("GET", ["messages", topic, READER, `${partition}:${offset}`], { query: { limit: 1, ...readingFormats("") } });

/** Reads the messages that `rows` show and have not received, as far as one page goes. */
export async function fill(topic, rows) {
  const gaps = rows.map(row => ({ row, start: row.firstUnknown(), end: row.latest })).filter(({ start }) => start !== null);
  if (!gaps.length) return;
  const position = gaps.map(({ row, start }) => `${row.partition}:${start}`).join(",");
  const query = { ...FILL, ...readingFormats("") };
  const { records, next } = (await send(request("GET", ["messages", topic, READER, position], { query }))).content;
  const read = new Map(next.split(",").map(each => each.split(":").map(Number)));
  for (const { row, start, end } of gaps) {
    for (const record of records) if (record.partition === row.partition) row.receive(record);
    row.complete(start, records.length ? read.get(row.partition) : end); // an empty page: there are no more
  }
}
