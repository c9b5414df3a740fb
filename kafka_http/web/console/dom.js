// Creates elements without parsing HTML, so that data from Kafka becomes only text or the value of an attribute.

/** element("button.quiet", {type: "button", click: listener}, "text", otherElement). Functions become listeners. */
export function element(kind, properties = {}, ...children) {
  const [name, ...classes] = kind.split(".");
  const made = document.createElement(name);
  made.classList.add(...classes);
  for (const [property, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(property, value);
    else if (typeof value === "boolean") made.toggleAttribute(property, value);
    else if (value !== undefined) made.setAttribute(property, value);
  }
  made.append(...children.filter(child => child !== undefined && child !== null));
  return made;
}

/** A control under its label. */
export function field(label, control, hint) {
  return element("label.field", {}, element("span", {}, label), control, hint && element("small", {}, hint));
}

/** A select of [value, label] pairs. */
export function choice(options, properties = {}) {
  return element("select", properties, ...options.map(([value, label]) => element("option", { value }, label)));
}

export function checkbox(label, properties = {}) {
  const control = element("input", { type: "checkbox", ...properties });
  return { control, label: element("label.check", {}, control, label) };
}

/** A part of the page that can be collapsed. It is open on wide screens. */
export function panel(title, ...children) {
  const isWide = matchMedia("(min-width: 64rem)").matches;
  return element("details.panel", { open: isWide }, element("summary", {}, element("h3", {}, title)), ...children);
}

/** The result of an action, shown and read by screen readers. */
export class Outcome {
  constructor() {
    this.element = element("p.outcome", { role: "status" });
  }

  good(text) {
    this.#show(text, "good");
  }

  bad(text) {
    this.#show(text, "bad");
  }

  #show(text, kind) {
    this.element.className = `outcome ${kind}`;
    this.element.textContent = text;
  }
}

/** Runs an action and shows its error. */
export async function attempt(outcome, action) {
  try {
    await action();
  } catch (error) {
    outcome.bad(error.message);
  }
}

/** Calls `action` every `milliseconds` while the page is visible, until `shown` is removed from it. */
export function repeatWhileShown(shown, milliseconds, action) {
  const timer = setInterval(() => {
    if (!shown.isConnected) clearInterval(timer);
    else if (!document.hidden) action();
  }, milliseconds);
}

export const number = value => value.toLocaleString("en").replaceAll(",", "\u202f");

/** Returns a time in ISO 8601, or the number itself if there is no such date: some producers write nanoseconds. */
export function isoTime(moment) {
  const date = new Date(Number(moment));
  return Number.isNaN(date.getTime()) ? String(moment) : date.toISOString();
}

export function time(moment) {
  const exact = isoTime(moment);
  if (exact === String(moment)) return element("time", {}, exact);
  const shown = new Date(moment).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" });
  return element("time", { datetime: exact, title: exact }, shown);
}
