// The form that acquires messages of a queue.

import { parseExactly, send } from "./api.js";
import { wholeNumber } from "./configs.js";
import { CurlBox } from "./curl.js";
import { Outcome, attempt, element, field, panel } from "./dom.js";
import { readingFormats } from "./formats.js";

const DEFAULT_LOCK = 30; // seconds
const DEFAULT_WAIT = 10; // the first call joins the group

/**
 * `{element, lock(), stop()}`. `lock` returns the seconds that are typed, `stop` ends a call that waits. `acquired` gets
 * the page, and its records with the original digits of their numbers.
 */
export function acquirePanel(calls, acquired) {
  const [box, outcome, inputs] = [new CurlBox("Acquire messages"), new Outcome(), inputsOf()];
  const button = element("button.primary", { type: "submit" }, "Acquire");
  const made = () => calls.acquire(query(inputs));
  let waiting = null;
  const acquire = async () => {
    const sent = made();
    box.show(sent);
    outcome.good("Waiting for messages…");
    waiting = new AbortController();
    button.textContent = "Stop waiting";
    try {
      const { content, text } = await send(sent, { signal: waiting.signal });
      outcome.good(report(content.records.length));
      await acquired(content, parseExactly(text).records);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      outcome.good("Stopped waiting."); // the server releases what it cannot send
    } finally {
      waiting = null;
      button.textContent = "Acquire";
    }
  };
  const submit = event => {
    event.preventDefault();
    if (waiting) waiting.abort();
    else attempt(outcome, acquire);
  };
  box.preview(made);
  return {
    element: panel("Acquire messages", formOf(inputs, button, { submit, input: () => box.preview(made) }), outcome.element, box.element),
    lock: () => wholeNumber("Lock", inputs.lock.value) ?? DEFAULT_LOCK,
    stop: () => waiting?.abort(),
  };
}

function inputsOf() {
  const input = (name, properties) => element("input", { name, autocomplete: "off", spellcheck: "false", ...properties });
  return {
    limit: input("limit", { inputmode: "numeric", placeholder: 1 }),
    wait: input("wait", { inputmode: "numeric", placeholder: 0, value: DEFAULT_WAIT }),
    lock: input("lock", { inputmode: "numeric", placeholder: DEFAULT_LOCK }),
    dead: input("dead", { placeholder: "none" }),
  };
}

const query = ({ limit, wait, lock, dead }) => ({
  limit: wholeNumber("Messages", limit.value), wait: wholeNumber("Wait", wait.value), lock: wholeNumber("Lock", lock.value),
  dead: dead.value.trim(), ...readingFormats(""),
});

function formOf({ limit, wait, lock, dead }, button, listeners) {
  return element(
    "form", { ...listeners, "aria-label": "Acquire" },
    element("div.trio", {}, field("Messages", limit), field("Wait (s)", wait), field("Lock (s)", lock)),
    field("Dead-letter topic", dead, "Gets the messages that are rejected, or dropped after their last attempt."),
    button,
  );
}

function report(count) {
  if (!count) return "No message came in this time.";
  return count === 1 ? "1 message acquired." : `${count} messages acquired.`;
}
