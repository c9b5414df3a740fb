// Elements, made without a line of HTML: what comes from Kafka can only ever become text or an attribute's value.

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

/** A part of the page that can be folded away; open where there is room. */
export function panel(title, ...children) {
  const roomy = matchMedia("(min-width: 64rem)").matches;
  return element("details.panel", { open: roomy }, element("summary", {}, element("h3", {}, title)), ...children);
}

/** Says how an action went, to the eye and to a screen reader. */
export class Outcome {
  constructor() {
    this.element = element("p.outcome", { role: "status" });
  }

  good(text) {
    this.#say(text, "good");
  }

  bad(text) {
    this.#say(text, "bad");
  }

  #say(text, kind) {
    this.element.className = `outcome ${kind}`;
    this.element.textContent = text;
  }
}

/** Runs an action; what goes wrong is said. */
export async function attempt(outcome, action) {
  try {
    await action();
  } catch (error) {
    outcome.bad(error.message);
  }
}

/** Calls `action` every so many milliseconds while anybody looks, until `element` has left the page. */
export function repeatWhileShown(shown, milliseconds, action) {
  const timer = setInterval(() => {
    if (!shown.isConnected) clearInterval(timer);
    else if (!document.hidden) action();
  }, milliseconds);
}

export const number = value => value.toLocaleString("en").replaceAll(",", "\u202f");

export const time = moment =>
  element(
    "time",
    { datetime: new Date(moment).toISOString(), title: new Date(moment).toISOString() },
    new Date(moment).toLocaleString(undefined, { dateStyle: "short", timeStyle: "medium" }),
  );
