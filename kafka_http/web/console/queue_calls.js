// The requests for a queue.

import { request } from "./api.js";

/** The requests for the queue of a topic and a consumer. Times are in seconds. */
export function queueCalls(topic, consumer) {
  const path = (...more) => ["messages", topic, consumer, "queue", ...more];
  const lock = (lease, seconds) => request("PUT", path(lease), { query: { lock: seconds } });
  return {
    state: () => request("GET", path()),
    remove: () => request("DELETE", path()),
    acquire: query => request("POST", path(), { query }),
    acknowledge: lease => request("DELETE", path(lease)),
    reject: lease => request("DELETE", path(lease), { query: { reject: "true" } }),
    extend: lock,
    release: lease => lock(lease, 0),
  };
}

/** Returns the partition and the offset of a lease's message, such as 3:1234. */
export const placeOf = lease => lease.split(":", 2).join(":");
