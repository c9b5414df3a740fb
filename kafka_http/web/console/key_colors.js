// Colors of keys. A key has the same color wherever the page shows it.

const COLORS = 16; // classes key-0 to key-15 in tape.css
const STEP = 3; // to a color of another hue; prime to COLORS, so that all colors are tried
const STORAGE_KEY = "kafka_http.key-colors";

const taken = new Map(stored()); // colors by hash: the first keys have one of their own

export const keyText = key => typeof key === "string" ? key : JSON.stringify(key);

/** Returns the class that sets the color of a key. The first keys of a browser tab have different colors. */
export function keyClass(key) {
  if (key === null) return "no-key";
  const value = hash(keyText(key));
  return `key-${taken.get(value) ?? claimed(value)}`;
}

function claimed(value) {
  const used = new Set(taken.values());
  let color = value % COLORS;
  if (used.size === COLORS) return color;
  while (used.has(color)) color = (color + STEP) % COLORS;
  taken.set(value, color);
  store();
  return color;
}

/** The colors outlast a reload of the page. The keys themselves are not stored. */
function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORAGE_KEY)) ?? [];
  } catch {
    return [];
  }
}

function store() {
  try {
    sessionStorage.setItem(STORAGE_KEY, JSON.stringify([...taken]));
  } catch {
    // the browser does not store data
  }
}

/** FNV-1a, so that a key usually has the same color in another tab, too. */
function hash(text) {
  let value = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) value = Math.imul(value ^ text.charCodeAt(at), 0x01000193);
  return (value ^ (value >>> 15)) >>> 0;
}

/** One or two characters of a key that tell it from similar ones: the last digits of user-17, or the first letters. */
export function keyLabel(key) {
  if (key === null) return "";
  const text = keyText(key);
  return text.match(/\d{1,2}$/)?.[0] ?? [...text].slice(0, 2).join("");
}
