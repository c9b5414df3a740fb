// Copies texts, and saves them as files.

import { element } from "./dom.js";

/** Copies a text. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const holder = element("textarea.unseen", {}, text); // browsers offer no clipboard without HTTPS, except on localhost
  const focused = document.activeElement;
  document.body.append(holder);
  holder.select();
  document.execCommand("copy");
  holder.remove();
  focused?.focus();
}

/** A button that copies what `text()` returns, and says so. */
export function copyButton(label, text, properties = {}) {
  const act = async () => {
    await copy(text());
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = label), 1500);
  };
  const button = element("button.quiet", { type: "button", click: act, ...properties }, label);
  return button;
}

/** Lets the browser save a text as a file. */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
