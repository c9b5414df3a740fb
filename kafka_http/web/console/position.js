// Input of a position: its text, and a clock that fills it in.

import { element, field } from "./dom.js";

const POSITIONS = ["latest", "earliest", "-10", "committed", "0:0", "@2026-01-01T00:00:00Z"];

/** Examples for all inputs of positions. */
export const positionExamples = () =>
  element("datalist", { id: "positions" }, ...POSITIONS.map(value => element("option", { value })));

export const positionInput = (name, value) =>
  element("input", { name, value, list: "positions", autocomplete: "off", spellcheck: "false" });

/** A field with a day and a time (of the browser's time zone), which fills in a position. */
export function timeField(label, position) {
  const picker = element("input", { type: "datetime-local", step: 1, name: `${position.name}-time` });
  picker.addEventListener("input", () => {
    if (!picker.value) return;
    position.value = `@${new Date(picker.value).toISOString().replace(".000Z", "Z")}`;
    position.dispatchEvent(new Event("input", { bubbles: true }));
  });
  return field(label, picker);
}
