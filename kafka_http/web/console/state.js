// The state of the page in its address, such as #/topics/orders?from=0:5. A reload, the back button and a shared link
// show the same again.

/** Returns the view, the names and the parameters in the address. */
export function state() {
  const [path, parameters] = location.hash.split(/\?(.*)/s);
  const [view, ...names] = path.split("/").slice(1);
  return { path, view: view || "topics", names: names.filter(Boolean).map(decoded), parameters: new URLSearchParams(parameters) };
}

function decoded(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // typed by hand, with a % of its own
  }
}

/** The address of a view, and of what it shows: a topic, a group, or the topic and the consumer of a queue. */
export const address = (view, ...names) => `#/${[view, ...names.map(encodeURIComponent)].join("/")}`;

/**
 * Writes parameters to the address. Empty ones are left out. With `isStep` the back button returns to the address
 * before.
 */
export function remember(changed, { isStep = false } = {}) {
  const { path, parameters } = state();
  for (const [name, value] of Object.entries(changed)) {
    if (value) parameters.set(name, value);
    else parameters.delete(name);
  }
  const text = parameters.toString().replaceAll("%3A", ":").replaceAll("%2C", ",").replaceAll("%40", "@");
  const hash = `${path || "#/topics"}${text && "?"}${text}`;
  if (hash !== location.hash) history[isStep ? "pushState" : "replaceState"](null, "", hash);
}

/** Keeps the value of a control in the address. Returns a function that shows the value of the address again. */
export function keepInAddress(name, control, initial = "") {
  const restore = () => (control.value = state().parameters.get(name) ?? initial);
  control.addEventListener("input", () => remember({ [name]: control.value === initial ? "" : control.value }));
  restore();
  return restore;
}
