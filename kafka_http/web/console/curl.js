// The curl command of a request.

import { login } from "./api.js";
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
  #copy = element("button.quiet", { type: "button", click: () => this.#copied() }, "Copy");

  constructor(label) {
    const shown = element("pre", { tabindex: "0", role: "group", "aria-label": `${label}: curl command` }, this.#code);
    this.#copy.setAttribute("aria-label", `Copy the curl command: ${label}`);
    this.element = element("div.curl", {}, shown, this.#copy);
  }

  show(request) {
    this.#code.textContent = curl(request);
  }

  /** Shows the request that `made` returns, or why there is none. */
  preview(made) {
    try {
      this.show(made());
    } catch (error) {
      this.#code.textContent = `# ${error.message}`;
    }
  }

  async #copied() {
    await this.#write();
    this.#copy.textContent = "Copied";
    setTimeout(() => (this.#copy.textContent = "Copy"), 1500);
  }

  async #write() {
    if (navigator.clipboard) return navigator.clipboard.writeText(this.#code.textContent);
    getSelection().selectAllChildren(this.#code); // browsers offer no clipboard without HTTPS, except on localhost
    document.execCommand("copy");
  }
}

/** A button that shows its curl command in `box` before it is pressed. `made` returns its request, `act` sends it. */
export function curlButton(label, box, made, act, properties = {}) {
  const preview = () => box.preview(made);
  return element("button", { type: "button", focus: preview, pointerenter: preview, click: act, ...properties }, label);
}
