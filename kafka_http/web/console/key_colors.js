// Colors of keys. A key has the same color wherever the page shows it.

const COLORS = 16; // classes key-0 to key-15 in tape.css
const STEP = 3; // to a color of another hue; prime to COLORS, so that all colors are tried

const taken = new Map(); // the first keys, each with a color of its own

export const keyText = key => typeof key === "string" ? key : JSON.stringify(key);

/** Returns the class that sets the color of a key. The first keys of the page have different colors. */
export function keyClass(key) {
  if (key === null) return "no-key";
  const text = keyText(key);
  return `key-${taken.get(text) ?? claimed(text)}`;
}

function claimed(text) {
  const used = new Set(taken.values());
  let color = hash(text) % COLORS;
  if (used.size === COLORS) return color;
  while (used.has(color)) color = (color + STEP) % COLORS;
  taken.set(text, color);
  return color;
}

/** FNV-1a, so that a key usually has the same color in the next session, too. */
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
