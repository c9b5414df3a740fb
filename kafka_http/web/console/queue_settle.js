// The buttons that settle a lease by hand, or extend its lock.

import { send } from "./api.js";
import { confirmed } from "./confirm.js";
import { curlButton } from "./curl.js";
import { attempt } from "./dom.js";
import { placeOf } from "./queue_calls.js";

const LOST = 409;
const DEAD = "If it was acquired with a dead-letter topic, it is published there first.";

/**
 * Returns the buttons for a lease `{lease, isLast, isOwn}`. `isLast`: it is the message's last attempt. `isOwn`: this page
 * has acquired it. `lock` returns the seconds to extend by. `settled(lease, result)` is called after a call; the result
 * is that of the lease, or null if the lease is lost.
 */
export function settleButtons({ lease, isLast, isOwn }, calls, { box, outcome, lock, settled }) {
  const place = placeOf(lease);
  const button = (label, made, done, question = "", title) => curlButton(label, box, made, () => attempt(outcome, async () => {
    const sent = made();
    if (question && !(await confirmed({ title: `${label} ${place}`, text: question, action: label }))) return;
    await settle(sent, lease, settled);
    outcome.good(`${done} ${place}.`);
  }), { class: "quiet", "aria-label": `${label} ${place}`, title });
  const others = isOwn ? "" : `A client holds the message ${place} and may be at work on it.`;
  const ask = (...sentences) => [others, ...sentences].filter(Boolean).join(" ");
  return [
    button("Acknowledge", () => calls.acknowledge(lease), "Acknowledged", others && ask("It is then not delivered again.")),
    button("Extend", () => calls.extend(lease, lock()), "Extended the lock of", "", "Locks it from now on, for the seconds that “Lock” says"),
    button("Release", () => calls.release(lease), "Released", isLast ? ask(`This is its last attempt: it is not delivered again. ${DEAD}`)
      : others && ask("It is delivered again at once, to any client.")),
    button("Reject", () => calls.reject(lease), "Rejected", ask(`The message is never delivered again. ${DEAD}`)),
  ];
}

async function settle(sent, lease, settled) {
  try {
    await settled(lease, (await send(sent)).content.leases[0]);
  } catch (error) {
    if (error.status === LOST) await settled(lease, null);
    throw error;
  }
}
