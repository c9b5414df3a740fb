// The keys on the tapes with their partitions. A pressed key stands out on the tapes.

import { element } from "./dom.js";
import { keyClass, keyLabel } from "./key_colors.js";

const MAX_KEYS = 12;
const MAX_PARTITIONS = 4;

export class KeyLegend {
  #pick;
  #chips = new Map();
  #more = element("span.soft");
  element = element("div.legend", { role: "group", "aria-label": "Keys on the tapes" }, this.#more);

  /** `pick(key)` is called with the key that is to stand out, or with undefined. */
  constructor(pick) {
    this.#pick = pick;
  }

  /** Shows the most frequent keys. `rows` are the tapes. */
  update(rows) {
    const keys = keysOf(rows);
    const shown = [...keys].sort(([, one], [, other]) => other.count - one.count).slice(0, MAX_KEYS);
    const wanted = new Set(shown.map(([key]) => key));
    for (const [key, chip] of this.#chips) if (!wanted.has(key) && !isPressed(chip)) this.#remove(key, chip);
    for (const [key, { partitions }] of shown) this.#chip(key).lastElementChild.replaceChildren(...listed(partitions));
    const left = keys.size - this.#chips.size;
    this.#more.textContent = left > 0 ? `and ${left} more` : "";
  }

  #chip(key) {
    const known = this.#chips.get(key);
    if (known) return known;
    const made = element(
      "button.chip", { type: "button", "aria-pressed": "false", click: () => this.#pressed(key) },
      element(`span.cell.message.${keyClass(key)}`, { "aria-hidden": "true" }, keyLabel(key)),
      element("code", {}, key ?? "no key"), element("span.soft"),
    );
    this.#chips.set(key, made);
    this.#more.before(made);
    return made;
  }

  #remove(key, chip) {
    this.#chips.delete(key);
    chip.remove();
  }

  #pressed(key) {
    const isPicked = !isPressed(this.#chips.get(key));
    for (const [each, chip] of this.#chips) chip.setAttribute("aria-pressed", String(isPicked && each === key));
    this.#pick(isPicked ? key : undefined);
  }
}

const isPressed = chip => chip.getAttribute("aria-pressed") === "true";

/** Returns the keys of all tapes, each with its partitions and its number of messages. */
function keysOf(rows) {
  const found = new Map();
  for (const row of rows) {
    for (const [key, count] of row.keys()) {
      const known = found.get(key) ?? { count: 0, partitions: [] };
      known.count += count;
      known.partitions.push(row.partition);
      found.set(key, known);
    }
  }
  return found;
}

function listed(partitions) {
  const shown = partitions.slice(0, MAX_PARTITIONS).join(", ");
  const more = partitions.length > MAX_PARTITIONS ? ", …" : "";
  return ["→ ", element("span", {}, partitions.length === 1 ? "partition " : "partitions "), shown + more];
}
