// A queue: how far it is, and the leases of its messages.

import { polled, send } from "./api.js";
import { confirmed } from "./confirm.js";
import { CurlBox, curlButton } from "./curl.js";
import { Outcome, attempt, element, number, panel, repeatWhileShown } from "./dom.js";
import { acquirePanel } from "./queue_acquire.js";
import { placeOf, queueCalls } from "./queue_calls.js";
import { QueueLeases } from "./queue_leases.js";
import { settleButtons } from "./queue_settle.js";
import { may } from "./rights.js";
import { address } from "./state.js";

const REFRESH_MS = 2000;
const NO_QUEUE = 40406; // the code of the error if the queue never was

export function queueView(topic, consumer) {
  const title = `${consumer}, a queue of ${topic}`;
  const head = element(
    "div.title", {},
    element("h2", {}, consumer), element("span.soft", {}, "a queue of ", element("a", { href: address("topics", topic) }, topic)),
    element("a", { href: address("groups", consumer) }, "Show the group"),
  );
  const refusal = whyNot(topic, consumer);
  if (refusal) return { element: element("section", {}, head, element("p.outcome.bad", {}, refusal)), title };
  const { parts, stop } = queueParts(topic, consumer);
  return { element: element("section", {}, head, ...parts), title, leave: stop };
}

function whyNot(topic, consumer) {
  if (!may("read", topic)) return "You may not read this topic.";
  return may("consumer", consumer) ? "" : "You may not use the consumer of this name.";
}

/** `{parts, stop()}`. */
function queueParts(topic, consumer) {
  const calls = queueCalls(topic, consumer);
  const [status, notices, partitions] = [new Outcome(), new Notices(), new Partitions()];
  let changes = 0; // a state that was asked for before a change is stale
  const refresh = (mark = made => made) => attempt(status, async () => {
    const before = changes;
    const { content, date } = await stateOf(mark(calls.state()));
    if (before !== changes) return;
    status.good(content ? "" : "There is no such queue yet. The first call that acquires messages makes it.");
    partitions.update(content?.partitions ?? []);
    leases.update(content ?? { held: [], attempts: null }, date);
  });
  const changed = change => {
    changes += 1;
    change?.();
    return refresh();
  };
  const acquire = acquirePanel(calls, (page, exact) => changed(() => {
    notices.show(page);
    partitions.block(notices.blocked);
    leases.acquired(page.records, exact);
  }));
  const [box, outcome] = [new CurlBox("Queue"), new Outcome()];
  const settled = (lease, result) => changed(() => {
    if (result?.locked_until) return leases.extended(lease, result.locked_until);
    notices.unblock(lease);
    partitions.block(notices.blocked);
    leases.ended(lease);
  });
  const buttons = lease => settleButtons(lease, calls, { box, outcome, lock: acquire.lock, settled });
  const leases = new QueueLeases(topic, buttons, [box.element, outcome.element]);
  const deleting = deleteButton(calls, { name: `${consumer} on ${topic}`, box, outcome, changed });
  box.preview(calls.state);
  refresh();
  repeatWhileShown(leases.element, REFRESH_MS, () => refresh(polled));
  const side = element("div.side", {}, acquire.element, partitions.element, element("div.actions", {}, deleting));
  return { parts: [status.element, notices.element, element("div.columns", {}, side, leases.element)], stop: acquire.stop };
}

/** Asks for the state. Its content is null if the queue never was. */
async function stateOf(asking) {
  try {
    return await send(asking);
  } catch (error) {
    if (error.code !== NO_QUEUE) throw error;
    return { content: null };
  }
}

/** What the server said with the last page beside its messages: `{warnings, blocked}`. */
class Notices {
  element = element("div.notices", { role: "status" });
  blocked = [];
  #warnings = [];

  show({ warnings = [], blocked = [] }) {
    this.#warnings = warnings;
    this.blocked = blocked;
    const waiting = blocked.map(({ partition, lease }) =>
      `Partition ${partition} is blocked. It delivers no further message until ${placeOf(lease)} is acknowledged, rejected or dropped.`);
    this.element.replaceChildren(...[...waiting, ...warnings].map(text => element("p.outcome.warn", {}, text)));
  }

  /** Forgets that a lease blocks its partition. */
  unblock(lease) {
    this.show({ warnings: this.#warnings, blocked: this.blocked.filter(each => each.lease !== lease) });
  }
}

function deleteButton(calls, { name, box, outcome, changed }) {
  const text = `The queue ${name} forgets which messages are done. If it is made again, it starts with the first message of the topic.`;
  const remove = async () => {
    if (!(await confirmed({ title: "Delete queue", text, action: "Delete queue" }))) return;
    await attempt(outcome, async () => {
      await send(calls.remove());
      outcome.good("Queue deleted.");
      await changed();
    });
  };
  return curlButton("Delete queue", box, calls.remove, remove, { class: "danger" });
}

/** The table of the partitions. Blocked ones are marked until the next page says otherwise. */
class Partitions {
  #rows = element("tbody");
  #blocked = new Set();

  constructor() {
    const head = ["Partition", "Start", "End", "Lag"].map(each => element("th", { scope: "col" }, each));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), this.#rows);
    const hint = "Messages before Start are done. Lag counts those that are not done, held ones included.";
    this.element = panel("Partitions", element("div.scroll", {}, table), element("p.hint", {}, hint));
  }

  block(blocked) {
    this.#blocked = new Set(blocked.map(each => each.partition));
  }

  update(partitions) {
    const made = partitions.map(each => this.#row(each));
    const total = partitions.reduce((sum, each) => sum + each.lag, 0);
    const all = element("tr.total", {}, element("th", { scope: "row", colspan: 3 }, "Total lag"), count(total));
    this.#rows.replaceChildren(...made, all);
  }

  #row({ partition, start, end, lag }) {
    const mark = this.#blocked.has(partition) ? [element("span.badge.warn", {}, "blocked"), " "] : [];
    const name = element("th.number", { scope: "row" }, ...mark, String(partition));
    return element("tr", {}, name, ...[start, end, lag].map(count));
  }
}

/** -1: Kafka does not know it yet. */
const count = value => element("td.number", {}, value < 0 ? "none" : number(value));
