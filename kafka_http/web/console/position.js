// Input of a position: its text, and a day and a time that fill it in.

import { element, field } from "./dom.js";

const POSITIONS = ["latest", "earliest", "-10", "committed", "0:0", "@2026-01-01T00:00:00Z"];

const LAST_TIME = "9999-12-31T00:00:00"; // browsers offer years of six digits, which a position cannot have

/** Examples for all inputs of positions. */
export const positionExamples = () =>
  element("datalist", { id: "positions" }, ...POSITIONS.map(value => element("option", { value })));

export const positionInput = (name, value) =>
  element("input", { name, value, list: "positions", autocomplete: "off", spellcheck: "false" });

/**
 * A button that shows a field with a day and a time (in the browser's time zone), which fills in a position. The field
 * has many stops of the tab key, so it is hidden at first.
 */
export function timePicker(position) {
  const picker = element("input", { type: "datetime-local", step: 1, max: LAST_TIME, name: `${position.name}-time` });
  picker.addEventListener("input", () => {
    if (!picker.value || picker.validity.rangeOverflow) return;
    position.value = `@${new Date(picker.value).toISOString().replace(".000Z", "Z")}`;
    position.dispatchEvent(new Event("input", { bubbles: true }));
  });
  const shown = field("Time", picker);
  shown.hidden = true;
  const toggle = () => {
    shown.hidden = !shown.hidden;
    button.setAttribute("aria-expanded", String(!shown.hidden));
    if (!shown.hidden) picker.focus();
  };
  const button = element("button", { type: "button", click: toggle, "aria-expanded": "false" }, "Pick a time");
  return [button, shown];
}
