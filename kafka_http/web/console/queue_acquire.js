// The form that acquires messages of a queue.

import { parseExactly, send } from "./api.js";
import { wholeNumber } from "./configs.js";
import { CurlBox } from "./curl.js";
import { Outcome, attempt, element, field, panel } from "./dom.js";
import { readingFormats } from "./formats.js";

const DEFAULT_LOCK = 30; // seconds
const DEFAULT_WAIT = 5;

/**
 * `{element, lock(), stop()}`. `lock` returns the seconds that are typed, `stop` ends a call that waits. `acquired` gets
 * the page, and its records with the original digits of their numbers.
 */
export function acquirePanel(calls, acquired) {
  const box = new CurlBox("Acquire messages");
  const outcome = new Outcome();
  const input = (name, properties) => element("input", { name, autocomplete: "off", spellcheck: "false", ...properties });
  const [limit, wait, lock] = [["limit", "1"], ["wait", "0", DEFAULT_WAIT], ["lock", String(DEFAULT_LOCK)]].map(
    ([name, placeholder, value]) => input(name, { inputmode: "numeric", placeholder, value }),
  );
  const dead = input("dead", { placeholder: "none" });
  const button = element("button.primary", { type: "submit" }, "Acquire");
  let waiting = null;
  const made = () => calls.acquire({
    limit: wholeNumber("Messages", limit.value), wait: wholeNumber("Wait", wait.value),
    lock: wholeNumber("Lock", lock.value), dead: dead.value.trim(), ...readingFormats(""),
  });
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
      outcome.good("Stopped. No message was acquired."); // the server releases what it could not send
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
  const preview = () => box.preview(made);
  const form = element(
    "form", { submit, input: preview, "aria-label": "Acquire" },
    element("div.trio", {}, field("Messages", limit), field("Wait (s)", wait), field("Lock (s)", lock)),
    field("Dead-letter topic", dead, "Gets the messages that are rejected, or dropped after their last attempt."),
    button,
  );
  preview();
  return {
    element: panel("Acquire messages", form, outcome.element, box.element),
    lock: () => wholeNumber("Lock", lock.value) ?? DEFAULT_LOCK,
    stop: () => waiting?.abort(),
  };
}

function report(count) {
  if (!count) return "No message came in this time.";
  return count === 1 ? "1 message acquired." : `${count} messages acquired.`;
}
