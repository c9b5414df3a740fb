// The facts of the tapes as a table: for screen readers, and for exact numbers.

import { element, number } from "./dom.js";

const COLUMNS = ["Partition", "First", "End", "Keys of the last messages", "Consumers"];
const MAX_KEYS = 5;

export class TapeTable {
  #rows = element("tbody");

  constructor() {
    const head = element("tr", {}, ...COLUMNS.map(each => element("th", { scope: "col" }, each)));
    const table = element("table.facts-table", {}, element("thead", {}, head), this.#rows);
    this.element = element("details", {}, element("summary", {}, "Log as a table"), element("div.scroll", {}, table));
  }

  /** Shows the facts of the tapes while the table is open. */
  update(rows) {
    if (this.element.open) this.#rows.replaceChildren(...rows.map(row));
  }
}

function row(tape) {
  const keys = [...tape.keys()].sort(([, one], [, other]) => other - one);
  const names = keys.slice(0, MAX_KEYS).map(([key, count]) => `${key ?? "no key"} (${count})`);
  const more = keys.length > MAX_KEYS ? [`${keys.length - MAX_KEYS} more`] : [];
  const consumers = tape.flags.map(({ names, offset, lag }) => `${names.join(", ")} at ${number(offset)}, lag ${number(lag)}`);
  return element(
    "tr", {},
    element("th.number", { scope: "row" }, String(tape.partition)),
    element("td.number", {}, number(tape.earliest)), element("td.number", {}, number(tape.latest)),
    element("td", {}, [...names, ...more].join(", ")), element("td", {}, consumers.join("; ")),
  );
}
