// One partition as a tape: a square for each of its last messages, and flags where consumers stand.

import { element, number } from "./dom.js";
import { keyClass, keyLabel, keyText } from "./key_colors.js";
import { CELL, Scale, flagsOf, placed } from "./tape_layout.js";

const MAX_KEPT = 200; // messages in memory: more than fit on a screen
const MAX_ANIMATED = 10; // new messages at once: the eye cannot follow more
const CHARACTER = 6.4; // width of a character of a flag
const GAP = 6; // beside the text of older messages
const LANE = 16; // height of a line of flags, as in tape.css
const isStill = matchMedia("(prefers-reduced-motion: reduce)");

/** What is shown of an offset if no message of it is known. */
const UNKNOWN = { kind: "unknown" };
const ABSENT = { kind: "absent" };
const SAYS = { unknown: ["not loaded"], absent: ["no message"], message: [], tombstone: ["tombstone"] };

export class TapeRow {
  #messages = new Map();
  #flags = [];
  #polled = 0;
  #scale = null; // as drawn last
  #poles = element("div.poles", { role: "presentation" });
  #older = element("div.older", { role: "presentation" });
  #cells = element("div.cells", { role: "presentation" });
  #ticks = element("div.ticks", { role: "presentation", "aria-hidden": "true" });
  #strip = element("div.strip", { role: "presentation" }, this.#poles, this.#older, this.#cells, this.#ticks);

  /** `pick(row, offset)` is called when an offset is clicked. */
  constructor(partition, pick) {
    this.partition = partition;
    this.earliest = this.latest = 0;
    this.#strip.addEventListener("click", event => this.#clicked(event, pick));
    this.#cells.addEventListener("pointerover", event => this.#hovered(event.target));
    const name = element("span.name", { role: "rowheader" }, element("span", {}, "Partition "), String(partition));
    this.element = element("div.tape", { role: "row", "aria-label": `Partition ${partition}` }, name, this.#strip);
  }

  // What is known

  /** Sets the ends of the log. Messages that have come already may be ahead of them. */
  extend({ earliest, latest }) {
    if (latest < this.#polled) this.#restart(); // the topic was deleted and created again
    this.#polled = latest;
    this.earliest = earliest;
    this.latest = Math.max(this.latest, latest);
  }

  #restart() {
    this.#messages.clear();
    this.latest = 0;
  }

  receive({ offset, key, value, timestamp, error }) {
    this.latest = Math.max(this.latest, offset + 1);
    if (offset < this.#oldest) return;
    const kind = value === null && !error ? "tombstone" : "message";
    this.#messages.set(offset, { kind, key: key === null ? null : keyText(key), timestamp });
    if (this.#messages.size > 2 * MAX_KEPT) this.#forgetOld();
  }

  #forgetOld() {
    for (const offset of this.#messages.keys()) if (offset < this.#oldest) this.#messages.delete(offset);
  }

  get #oldest() {
    return this.latest - MAX_KEPT;
  }

  /** Notes that the offsets from `start` to before `end` have been read: those without a message have none. */
  complete(start, end) {
    for (let offset = Math.max(start, this.#oldest); offset < end; offset++) {
      if (!this.#messages.has(offset)) this.#messages.set(offset, ABSENT);
    }
  }

  /** Returns the first offset of the window that is not known, or null. */
  firstUnknown() {
    for (let offset = this.#scale?.first ?? this.latest; offset < this.latest; offset++) {
      if (!this.#messages.has(offset)) return offset;
    }
    return null;
  }

  /** Sets where consumers stand: `[{name, offset, lag}]`. */
  stand(consumers) {
    this.#flags = flagsOf(consumers).map(flag => ({ ...flag, label: label(flag) }));
  }

  /** Returns the keys in the window, with the number of their messages. */
  keys() {
    const found = new Map();
    for (let offset = this.first; offset < this.latest; offset++) {
      const { key } = this.#messages.get(offset) ?? UNKNOWN;
      if (key !== undefined) found.set(key, (found.get(key) ?? 0) + 1);
    }
    return found;
  }

  get width() {
    return this.#strip.clientWidth;
  }

  get flags() {
    return this.#flags;
  }

  /** The first offset that is drawn one by one. */
  get first() {
    return this.#scale?.first ?? Math.max(this.earliest, this.#oldest);
  }

  describe(offset) {
    const at = this.#messages.get(offset) ?? UNKNOWN;
    const key = at.key === undefined ? [] : [at.key === null ? "no key" : `key ${at.key}`];
    const when = at.timestamp ? [new Date(at.timestamp).toLocaleTimeString()] : [];
    const readers = this.#flags.filter(each => each.offset === offset).flatMap(each => each.names);
    const next = readers.length ? [`next for ${readers.join(", ")}`] : [];
    return [`Partition ${this.partition}, offset ${offset}`, ...key, ...SAYS[at.kind], ...when, ...next].join(", ");
  }

  // The drawing

  /** Draws what has changed. `view`: `width` and `older` in pixels, the `digits` of ticks, and the `picked` key. */
  draw(view) {
    const [before, scale] = [this.#scale, new Scale(this, view.width, view.older)];
    this.#scale = scale;
    this.#drawCells(scale, view);
    this.#drawOlder(scale);
    this.#drawTicks(scale, view);
    this.#drawFlags(this.placedFlags(view));
    if (before && before.older === scale.older && before.cells === scale.cells) this.#animate(before, scale);
  }

  /** Returns the flags with their places. */
  placedFlags({ width, older }) {
    return placed(this.#flags, new Scale(this, width, older), width, each => each.label.length * CHARACTER);
  }

  #drawCells(scale, view) {
    const count = scale.latest - scale.first;
    while (this.#cells.childElementCount > count) this.#cells.lastElementChild.remove();
    while (this.#cells.childElementCount < count) this.#cells.append(element("span", { role: "gridcell" }));
    [...this.#cells.children].forEach((cell, at) => {
      const found = this.#messages.get(scale.first + at) ?? UNKNOWN;
      const dimmed = view.picked !== undefined && view.picked !== found.key ? " dimmed" : "";
      const [color, text] = found.key === undefined ? ["", ""] : [keyClass(found.key), keyLabel(found.key)];
      const name = `cell ${found.kind} ${color}${dimmed}`;
      if (cell.className !== name) cell.className = name;
      if (cell.textContent !== text) cell.textContent = text;
    });
  }

  #drawOlder({ older, first, earliest }) {
    this.#older.hidden = !older;
    this.#older.style.width = `${older}px`;
    const text = first > earliest ? `${number(first - earliest)} older` : "";
    this.#older.title = text;
    this.#older.textContent = text.length * CHARACTER + 2 * GAP < older ? text : "";
    this.#older.classList.toggle("none", first === earliest);
  }

  #drawTicks(scale, { digits, width }) {
    const shown = [...scale.ticks(digits).map(each => [each, ""]), [scale.latest, "end"]];
    while (this.#ticks.childElementCount > shown.length) this.#ticks.lastElementChild.remove();
    while (this.#ticks.childElementCount < shown.length) this.#ticks.append(element("span"));
    shown.forEach(([offset, name], at) => {
      const tick = this.#ticks.children[at];
      tick.className = name;
      tick.textContent = number(offset);
      const most = width - tick.textContent.length * CHARACTER / 2;
      tick.style.left = `${Math.min(most, scale.x(offset) + CELL / 2)}px`;
    });
  }

  #drawFlags(flags) {
    this.#poles.replaceChildren(...flags.map(flag => {
      const text = flag.lane < 0 ? undefined : element("span", {}, flag.label);
      const pole = element(flag.isLeft ? "div.pole.left" : "div.pole", { title: flag.label }, text);
      pole.dataset.offset = flag.offset;
      pole.style.left = `${flag.x}px`;
      pole.style.top = `${Math.max(0, flag.lane) * LANE}px`;
      return pole;
    }));
  }

  #animate(before, after) {
    const [moved, arrived] = [after.first - before.first, after.latest - before.latest];
    if (isStill.matches || arrived <= 0 || arrived > MAX_ANIMATED) return;
    const timing = { duration: 250, easing: "ease-out" };
    if (moved > 0) {
      for (const each of [this.#cells, this.#ticks]) each.animate([{ transform: `translateX(${moved * CELL}px)` }, {}], timing);
    }
    const drop = [{ transform: "translateY(-0.7rem)", opacity: 0 }, {}];
    for (const cell of [...this.#cells.children].slice(-arrived)) cell.animate(drop, timing);
  }

  /** Returns the element of an offset in the window, for the cursor. */
  cell(offset) {
    return this.#cells.children[offset - this.first];
  }

  #hovered(cell) {
    const at = [...this.#cells.children].indexOf(cell);
    if (at >= 0) cell.title = this.describe(this.first + at);
  }

  #clicked(event, pick) {
    const flag = event.target.closest(".pole")?.dataset.offset;
    const x = event.clientX - this.#strip.getBoundingClientRect().left;
    const offset = flag === undefined ? this.#scale?.offset(x) ?? this.latest : Number(flag);
    if (offset < this.latest) pick(this, offset);
  }
}

function label({ names, lag }) {
  const shown = names.slice(0, 2).map(each => each.length > 20 ? `${each.slice(0, 19)}…` : each);
  const more = names.length > 2 ? ` +${names.length - 2}` : "";
  return `${shown.join(", ")}${more} lag ${number(lag)}`;
}
