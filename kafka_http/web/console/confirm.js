// A dialog that asks before something is done that cannot be undone.

import { element, field } from "./dom.js";

/**
 * Asks the user, and returns whether the user agrees. `action` is the label of the button that does it. With `name`,
 * the user must type this name first.
 */
export function confirmed({ title, text, action, name }) {
  return new Promise(resolve => {
    const typed = name && element("input", { name: "confirmation", autocomplete: "off", spellcheck: "false" });
    const agree = element("button.danger", { type: "button", click: () => end(true), disabled: Boolean(name) }, action);
    const shown = element(
      "dialog", { "aria-labelledby": "dialog-title", close: () => end(false) },
      element("h3", { id: "dialog-title" }, title), element("p", {}, text),
      typed && field(`Type “${name}” to confirm`, typed),
      element("div.actions", {}, agree, element("button", { type: "button", click: () => end(false) }, "Cancel")),
    );
    const leave = () => end(false); // Back shows another page: the question no longer applies
    const end = answer => {
      removeEventListener("hashchange", leave);
      resolve(answer);
      shown.close(); // returns the focus
      shown.remove();
    };
    typed?.addEventListener("input", () => (agree.disabled = typed.value !== name));
    typed?.addEventListener("keydown", event => {
      if (event.key === "Enter" && !agree.disabled) end(true);
    });
    addEventListener("hashchange", leave);
    document.body.append(shown);
    shown.showModal();
    (typed ?? shown.querySelector("button:last-child")).focus();
  });
}
