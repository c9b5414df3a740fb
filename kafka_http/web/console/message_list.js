// The list of messages: filter, order, copy and export of what is shown. Keeps the newest ones, up to a limit.

import { parseExactly } from "./api.js";
import { copyButton, save } from "./clipboard.js";
import { choice, element, field, number } from "./dom.js";
import { csv, ndjson } from "./export.js";
import { messageRow } from "./message.js";
import { keepInAddress } from "./state.js";

export const MAX_ROWS = 300;
const FLUSH_MS = 100;
const ANNOUNCE_MS = 5000;
const ORDERS = [["", "last received first"], ["newest", "newest first"], ["oldest", "oldest first"]];

export class MessageList {
  #topic;
  #actions;
  #entries = []; // {record, exact, row} in the order of their arrival
  #waiting = [];
  #flush = null;
  #received = 0;
  #unannounced = 0;
  #announcer = setInterval(() => this.#announce(), ANNOUNCE_MS);
  #listeners = [];

  #filter = element("input", { name: "filter", type: "search", placeholder: "text in key, value or headers" });
  #order = choice(ORDERS, { name: "sort" });
  #list = element("ol.messages", { "aria-label": "Messages" });
  #announcement = element("p.unseen", { role: "status" });
  #restore = [keepInAddress("filter", this.#filter), keepInAddress("sort", this.#order)];

  /** How many messages are shown, and how many were received. */
  count = element("span.soft");

  /** `actions(record)` returns the buttons of a message; `buttons` are shown beside the filter. */
  constructor(topic, actions, buttons) {
    this.#topic = topic;
    this.#actions = actions;
    this.#filter.addEventListener("input", () => this.#filtered());
    this.#order.addEventListener("input", () => this.#sorted());
    this.element = element(
      "div", {},
      element("div.fields", {}, field("Filter what is shown", this.#filter), field("Order", this.#order), ...buttons,
        element("button.quiet", { type: "button", click: () => this.clear() }, "Clear")),
      element("div.actions.export", {}, element("span.soft", {}, "What is shown:"),
        copyButton("Copy", () => ndjson(this.#shown()), { "aria-label": "Copy the messages as NDJSON" }),
        this.#saving("NDJSON", "application/x-ndjson", ndjson), this.#saving("CSV", "text/csv", csv)),
      this.#announcement, this.#list,
    );
  }

  /** Adds a message soon. `json` is its text. */
  receive(json) {
    this.#received += 1;
    this.#unannounced += 1;
    this.#waiting.push(json); // parsed only if it is shown: many more may come than the list keeps
    if (this.#waiting.length > MAX_ROWS) this.#waiting.shift();
    this.#flush ??= setTimeout(() => this.#add(), FLUSH_MS);
  }

  /** Calls `listener(records)` for all messages that are added from now on, some at a time. */
  listen(listener) {
    this.#listeners.push(listener);
  }

  /** Returns the row of a message, or undefined if it is not in the list. */
  row(partition, offset) {
    const found = this.#entries.find(({ record }) => record.partition === partition && record.offset === offset);
    return found?.row;
  }

  clear() {
    this.#waiting = [];
    this.#entries = [];
    this.#received = 0;
    this.#unannounced = 0;
    this.#list.replaceChildren();
    this.#counted();
  }

  /** Shows what the address says. */
  restore() {
    for (const restore of this.#restore) restore();
    this.#sorted();
    this.#filtered();
  }

  close() {
    clearInterval(this.#announcer);
    clearTimeout(this.#flush);
  }

  #add() {
    this.#flush = null;
    const added = this.#waiting.map(json => this.#entry(json));
    this.#waiting = [];
    this.#entries.push(...added);
    if (this.#order.value) for (const each of added) this.#insert(each);
    else this.#list.prepend(...added.map(each => each.row).reverse());
    for (const { row } of this.#entries.splice(0, this.#entries.length - MAX_ROWS)) row.remove();
    this.#counted();
    for (const listener of this.#listeners) listener(added.map(each => each.record));
  }

  #entry(json) {
    const [record, exact] = [JSON.parse(json), parseExactly(json)];
    return { record, exact, row: this.#row({ record, exact }) };
  }

  #row({ record, exact }) {
    const copied = () => (typeof exact.value === "string" ? exact.value : JSON.stringify(exact.value ?? null));
    const copying = copyButton("Copy", copied, { "aria-label": `Copy the value of ${record.partition}:${record.offset}` });
    const row = messageRow(record, exact.value, [...this.#actions(record), copying]);
    row.hidden = !this.#matches(row);
    return row;
  }

  #insert(entry) {
    const compare = COMPARE[this.#order.value];
    const rows = new Map(this.#entries.map(each => [each.row, each]));
    const next = [...this.#list.children].find(row => compare(entry.record, rows.get(row).record) < 0);
    this.#list.insertBefore(entry.row, next ?? null);
  }

  #sorted() {
    const compare = COMPARE[this.#order.value];
    const sorted = compare
      ? this.#entries.toSorted((one, other) => compare(one.record, other.record))
      : this.#entries.toReversed();
    this.#list.replaceChildren(...sorted.map(each => each.row));
  }

  #matches(row) {
    return row.textContent.toLowerCase().includes(this.#filter.value.trim().toLowerCase());
  }

  #filtered() {
    for (const { row } of this.#entries) row.hidden = !this.#matches(row);
    this.#counted();
  }

  #counted() {
    const shown = this.#entries.filter(each => !each.row.hidden).length;
    this.count.textContent = `${number(shown)} shown of ${number(this.#received)} received`;
  }

  /** Returns the shown messages in the order in which they are shown. */
  #shown() {
    const entries = new Map(this.#entries.map(each => [each.row, each.exact]));
    return [...this.#list.children].filter(row => !row.hidden).map(row => entries.get(row));
  }

  #saving(label, type, written) {
    const act = () => save(`${this.#topic}.${label.toLowerCase()}`, type, written(this.#shown()));
    return element("button.quiet", { type: "button", click: act, "aria-label": `Save as ${label}` }, label);
  }

  /** Announces new messages to screen readers from time to time, not each one. */
  #announce() {
    if (!this.#unannounced) return;
    this.#announcement.textContent = `${number(this.#unannounced)} new messages`;
    this.#unannounced = 0;
  }
}

/** Messages of the same time stay in the order of their partitions and offsets. */
const byTime = (one, other) =>
  (one.timestamp ?? 0) - (other.timestamp ?? 0) || one.partition - other.partition || one.offset - other.offset;
const COMPARE = { oldest: byTime, newest: (one, other) => byTime(other, one) };
