// The curl command of a request.

import { login } from "./api.js";
import { copyButton } from "./clipboard.js";
import { element } from "./dom.js";

/** Returns the shell command for a request of api.js, with a variable or a prompt in place of a secret. */
export function curl({ method, url, headers = {}, body, stream = false }) {
  const words = login.curl ? [login.curl] : [];
  if (method !== (body === undefined ? "GET" : "POST")) words.push(`-X ${method}`);
  for (const [name, value] of Object.entries(headers)) {
    words.push(`-H ${quoted(value === "" ? `${name};` : `${name}: ${value}`)}`);
  }
  if (body !== undefined) words.push(`--data-raw ${quoted(body)}`);
  words.push(quoted(url));
  return `curl ${stream ? "-N " : ""}${words.join(words.join(" ").length > 90 ? " \\\n" : " ")}`;
}

export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

/** A box with a command and a button that copies it. */
export class CurlBox {
  #code = element("code");

  constructor(label) {
    const shown = element("pre", { tabindex: "0", role: "group", "aria-label": `${label}: curl command` }, this.#code);
    const copy = copyButton("Copy", () => this.#code.textContent, { "aria-label": `Copy the curl command: ${label}` });
    this.element = element("div.curl", {}, shown, copy);
  }

  show(request) {
    this.#write(curl(request));
  }

  /** Shows the request that `made` returns, or why there is none. */
  preview(made) {
    try {
      this.show(made());
    } catch (error) {
      this.#write(`# ${error.message}`);
    }
  }

  /** The box never becomes smaller: a button that the pointer has reached would move away from it. */
  #write(text) {
    this.element.style.minHeight = `${this.element.offsetHeight}px`;
    this.#code.textContent = text;
  }
}

/** A button that shows its curl command in `box` before it is pressed. `made` returns its request, `act` sends it. */
export function curlButton(label, box, made, act, properties = {}) {
  const preview = () => box.preview(made);
  return element("button", { type: "button", focus: preview, pointerenter: preview, click: act, ...properties }, label);
}
