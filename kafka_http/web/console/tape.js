// The log of a topic, drawn: each partition as a tape, with its keys in colors and where consumers stand.

import { send, parseExactly } from "./api.js";
import { LogCharts } from "./charts.js";
import { CurlBox } from "./curl.js";
import { Outcome, attempt, element, number, repeatWhileShown } from "./dom.js";
import { KeyLegend } from "./key_legend.js";
import { messageRow } from "./message.js";
import { olderWidth } from "./tape_layout.js";
import { TapeRow } from "./tape_row.js";
import { consumersOf, fill, reading } from "./tape_source.js";
import { TapeTable } from "./tape_table.js";

const POLL_MS = 2000;
const DRAW_MS = 80;
const FACTS_MS = 500;
const HINT = "A row is a partition, a square a message. Its color is its key. Flags show where consumers read next.";
const REFUSED = [401, 403, 404];

export class Tape {
  #topic;
  #messages;
  #rows = new Map();
  #visible = new Set();
  #picked; // the key whose messages stand out
  #lanes = 0;
  #cursor = null; // {row, offset}
  #chosen = null; // the request for the message that is shown
  #drawing = null;
  #busy = new Set();
  #consumers = []; // where they stand

  #box = new CurlBox("Show the message");
  #outcome = new Outcome();
  #detail = element("ul.messages.detail", { "aria-label": "Chosen message", "aria-live": "polite" });
  #legend = new KeyLegend(key => this.#pick(key));
  #table = new TapeTable();
  #charts;
  #grid = element("div.tapes", {
    role: "grid", tabindex: "0", "aria-readonly": "true", keydown: event => this.#pressed(event),
    focus: () => this.#moveTo(this.#cursor ?? this.#last()),
    "aria-label": "Log. Arrow keys move between messages and partitions, Enter shows a message",
  });
  #watcher = new IntersectionObserver(entries => this.#scrolled(entries), { root: this.#grid, rootMargin: "60px" });

  /** `messages` is the list of messages. It passes on what it receives, and can show one of them. */
  constructor(topic, messages) {
    this.#topic = topic;
    this.#messages = messages;
    messages.listen(records => this.#receive(records));
    this.#charts = new LogCharts(topic);
    this.#box.element.hidden = true;
    this.element = element(
      "details.panel.log", { open: true }, element("summary", {}, element("h3", {}, "Log")),
      element("p.hint", {}, HINT), this.#legend.element, this.#grid, this.#outcome.element, this.#detail,
      this.#box.element, this.#charts.element, this.#table.element,
    );
    new ResizeObserver(() => this.#drawLater()).observe(this.#grid);
    repeatWhileShown(this.element, FACTS_MS, () => this.#drawFacts());
    repeatWhileShown(this.element, POLL_MS, () => this.#poll());
    this.#poll();
  }

  // What is known

  /** Sets the ends of all partitions, which the page asks for from time to time. */
  update(partitions) {
    for (const each of partitions) (this.#rows.get(each.partition) ?? this.#added(each.partition)).extend(each);
    const present = new Set(partitions.map(each => each.partition));
    for (const row of this.#rows.values()) if (!present.has(row.partition)) this.#remove(row);
    this.#charts.ended(sum(partitions, "latest"));
    this.#drawLater();
    this.#once("fill", () => fill(this.#topic, [...this.#visible]));
  }

  #receive(records) {
    for (const each of records) this.#rows.get(each.partition)?.receive(each);
    this.#drawLater();
  }

  #added(partition) {
    const row = new TapeRow(partition, (...place) => this.#show(...place));
    row.stand(at(this.#consumers, partition));
    this.#rows.set(partition, row);
    this.#grid.append(row.element);
    this.#watcher.observe(row.element);
    return row;
  }

  #remove(row) {
    this.#rows.delete(row.partition);
    this.#visible.delete(row);
    this.#watcher.unobserve(row.element);
    row.element.remove();
    if (this.#cursor?.row === row) this.#cursor = null;
  }

  #poll() {
    this.#once("consumers", async () => {
      this.#consumers = await consumersOf(this.#topic);
      for (const row of this.#rows.values()) row.stand(at(this.#consumers, row.partition));
      this.#charts.stood(this.#consumers.map(({ name, places }) => ({ name, lag: sum(places, "lag") })));
    });
  }

  /** Runs one action of a name at a time. If it fails, it is tried again later, unless the user may not do it. */
  async #once(name, action) {
    if (this.#busy.has(name)) return;
    this.#busy.add(name);
    try {
      await action();
      this.#busy.delete(name);
    } catch (error) {
      if (!REFUSED.includes(error.status)) this.#busy.delete(name);
    }
    this.#drawLater();
  }

  // The drawing

  #drawLater() {
    this.#drawing ??= setTimeout(() => requestAnimationFrame(() => this.#draw()), DRAW_MS);
  }

  #draw() {
    this.#drawing = null;
    const rows = [...this.#rows.values()];
    const width = rows[0]?.width;
    if (!width) return; // the panel is closed
    const view = { width, older: olderWidth(rows, width), picked: this.#picked };
    view.digits = Math.max(...rows.map(each => number(each.latest).length));
    const lanes = [...this.#visible].flatMap(each => each.placedFlags(view)).map(each => each.lane + 1);
    this.#lanes = Math.max(this.#lanes, ...lanes);
    this.#grid.style.setProperty("--lanes", this.#lanes);
    for (const row of this.#visible) row.draw(view);
    this.#markCursor();
  }

  #scrolled(entries) {
    for (const { target, isIntersecting } of entries) {
      const row = [...this.#rows.values()].find(each => each.element === target);
      if (isIntersecting && row) this.#visible.add(row);
      else this.#visible.delete(row);
    }
    this.#drawLater();
  }

  #drawFacts() {
    if (!this.element.open) return;
    const rows = [...this.#rows.values()];
    this.#legend.update(rows);
    this.#table.update(rows);
  }

  #pick(key) {
    this.#picked = key;
    this.#drawLater();
  }

  // The cursor

  #last() {
    const row = [...this.#rows.values()].find(each => each.latest > each.first);
    return row && { row, offset: row.latest - 1 };
  }

  #pressed(event) {
    if (!this.#cursor) return;
    const { row, offset } = this.#cursor;
    const places = {
      ArrowLeft: () => ({ row, offset: offset - 1 }), ArrowRight: () => ({ row, offset: offset + 1 }),
      Home: () => ({ row, offset: row.first }), End: () => ({ row, offset: row.latest - 1 }),
      ArrowUp: () => this.#beside(-1), ArrowDown: () => this.#beside(1),
    };
    if (places[event.key]) this.#moveTo(places[event.key]());
    else if (event.key === "Enter" || event.key === " ") this.#show(row, offset);
    else return;
    event.preventDefault();
  }

  /** Returns the place above or below the cursor: in the next partition that has messages. */
  #beside(step) {
    const { row, offset } = this.#cursor;
    const rows = [...this.#rows.values()].filter(each => each === row || each.latest > each.first);
    const next = rows[rows.indexOf(row) + step] ?? row;
    return { row: next, offset: next.first + offset - row.first };
  }

  #moveTo(place) {
    if (!place) return;
    const { row, offset } = place;
    this.#cursor = { row, offset: Math.min(row.latest - 1, Math.max(row.first, offset)) };
    row.element.scrollIntoView({ block: "nearest" });
    this.#markCursor();
  }

  #markCursor() {
    const before = this.#grid.querySelector("#tape-cursor");
    for (const each of ["id", "aria-label"]) before?.removeAttribute(each);
    const cell = this.#cursor?.row.cell(this.#cursor.offset);
    if (!cell) return this.#grid.removeAttribute("aria-activedescendant");
    cell.id = "tape-cursor";
    cell.setAttribute("aria-label", this.#cursor.row.describe(this.#cursor.offset));
    this.#grid.setAttribute("aria-activedescendant", cell.id);
  }

  // The chosen message

  #show(row, offset) {
    this.#cursor = { row, offset };
    this.#markCursor();
    const made = reading(this.#topic, row.partition, offset);
    this.#chosen = made;
    this.#box.show(made);
    this.#box.element.hidden = false;
    this.#detail.replaceChildren();
    attempt(this.#outcome, async () => {
      const { content, text } = await send(made);
      if (this.#chosen !== made) return; // another one was chosen meanwhile
      const [record] = content.records;
      this.#outcome.good(record?.offset === offset ? "" : `Partition ${row.partition} has no message at offset ${number(offset)}.`);
      if (record) this.#detail.replaceChildren(this.#detailOf(record, parseExactly(text).records[0].value));
    });
  }

  #detailOf(record, exact) {
    const button = (label, click) => element("button.quiet", { type: "button", click }, label);
    const close = () => {
      this.#detail.replaceChildren();
      this.#box.element.hidden = true;
      this.#grid.focus();
    };
    const find = button("Show in the list", () => this.#messages.reveal(record.partition, record.offset));
    return messageRow(record, exact, [element("span.actions", {}, find, button("Close", close))]);
  }
}

const sum = (items, field) => items.reduce((total, each) => total + each[field], 0);

/** Returns the consumers that have a position in a partition. */
const at = (consumers, partition) =>
  consumers.flatMap(({ name, places }) => places.filter(each => each.partition === partition).map(each => ({ name, ...each })));
