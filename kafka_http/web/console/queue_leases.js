// The list of the messages of a queue that clients hold, each with the time for which it is still locked.

import { element, isoTime, number, repeatWhileShown } from "./dom.js";
import { messageRow } from "./message.js";
import { placeOf } from "./queue_calls.js";
import { update } from "./rows.js";
import { address } from "./state.js";

const MAX_ROWS = 300;
const TICK_MS = 500;
const EXACT_MS = 2000; // the server's time comes in whole seconds, and late

export class QueueLeases {
  #topic;
  #actions;
  #leases = new Map(); // {lease, attempt, locked_until, and for those that this page has acquired: record, exact}
  #attempts = null;
  #ahead = 0; // milliseconds that the server's clock is ahead of the browser's
  #list = element("ol.messages", { "aria-label": "Leases" });
  #count = element("span.soft");
  #more = element("p.hint");

  /** `actions({lease, isLast, isOwn})` returns the buttons of a lease. `parts` are shown above the list. */
  constructor(topic, actions, parts) {
    this.#topic = topic;
    this.#actions = actions;
    this.element = element(
      "section.reading", { "aria-labelledby": "leases-title" },
      element("div.title", {}, element("h3", { id: "leases-title" }, "Leases"), this.#count),
      element("p.hint", {}, "Messages that clients of this node hold, and those that you acquire here. When its lock ends, a message is delivered again."),
      ...parts, this.#list, this.#more,
    );
    repeatWhileShown(this.element, TICK_MS, () => this.#tick());
  }

  /** Adds what this page has acquired. `exact` are the records with the original digits of their numbers. */
  acquired(records, exact) {
    for (const [at, record] of records.entries()) this.#leases.set(record.lease, { ...record, record, exact: exact[at] });
    this.#show();
  }

  /** Shows what the server's state says. `date` is the server's time. */
  update({ held, attempts }, date) {
    this.#attempts = attempts;
    this.#ahead = Math.abs(date - Date.now()) > EXACT_MS ? date - Date.now() : 0;
    // Another node may hold what this page has acquired, so that this one does not list it.
    const own = [...this.#leases.values()].filter(each => each.record && this.#left(each) > 0);
    const known = new Map(own.map(each => [each.lease, each]));
    for (const each of held) known.set(each.lease, { ...known.get(each.lease), ...each });
    this.#leases = known;
    this.#show();
  }

  extended(lease, end) {
    const found = this.#leases.get(lease);
    if (found) found.locked_until = end;
    this.#tick();
  }

  ended(lease) {
    this.#leases.delete(lease);
    this.#show();
  }

  #show() {
    const shown = [...this.#leases.values()].sort(inOrder);
    const items = shown.slice(0, MAX_ROWS).map(({ lease, attempt, record }) => ({ lease, attempt, attempts: this.#attempts, isOwn: Boolean(record) }));
    const focused = [...this.#list.children].findIndex(row => row.contains(document.activeElement));
    update(this.#list, items, item => this.#row(item));
    if (focused >= 0 && document.activeElement === document.body) this.#focus(focused);
    this.#count.textContent = shown.length ? `${number(shown.length)} held` : "none";
    this.#more.textContent = shown.length > MAX_ROWS ? `The first ${MAX_ROWS} of them are shown.` : "";
    this.#tick();
  }

  /** Focuses the row that has taken the place of a removed one, not its button, which the user has not chosen. */
  #focus(at) {
    const row = this.#list.children[at] ?? this.#list.lastElementChild;
    if (row) row.tabIndex = -1;
    row?.focus({ preventScroll: true });
  }

  #row({ lease, attempt, attempts, isOwn }) {
    const { record, exact } = this.#leases.get(lease);
    const isLast = attempt === attempts;
    const facts = [
      element(`span.badge${isLast ? ".warn" : ""}`, {}, `attempt ${attempt}${attempts ? ` of ${attempts}` : ""}`),
      element("time.left", { "data-lease": lease }),
      element("div.settle", {}, ...this.#actions({ lease, isLast, isOwn })),
    ];
    if (isOwn) return messageRow(record, exact.value, facts);
    const place = placeOf(lease);
    const href = `${address("topics", this.#topic)}?${new URLSearchParams({ from: place, live: "false" })}`;
    const link = element("a", { href, title: `Read the topic from ${place}` }, element("code.place", {}, place));
    return element("li", {}, element("div.facts", {}, link, ...facts));
  }

  #tick() {
    for (const shown of this.#list.querySelectorAll("time.left")) {
      const found = this.#leases.get(shown.dataset.lease);
      const text = timeLeft(Math.ceil(this.#left(found) / 1000));
      if (shown.textContent !== text) shown.textContent = text;
      shown.title = `Locked until ${isoTime(found.locked_until)}`;
    }
  }

  /** Returns for how many milliseconds a message is still locked. */
  #left({ locked_until: end }) {
    return end - Date.now() - this.#ahead;
  }
}

/** What this page has acquired comes first. */
const inOrder = (one, other) => Boolean(other.record) - Boolean(one.record) || byPlace(one.lease, other.lease);

function byPlace(one, other) {
  const [a, b] = [one, other].map(each => each.split(":").map(Number));
  return a[0] - b[0] || a[1] - b[1];
}

function timeLeft(seconds) {
  if (seconds <= 0) return "lock has ended";
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours) return `${hours} h ${minutes} min left`;
  return minutes ? `${minutes} min ${seconds % 60} s left` : `${seconds} s left`;
}
