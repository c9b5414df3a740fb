// What the user may do, as far as the page knows. The server decides.

import { session } from "./session.js";

/** Whether the user has a right (publish, read, consumer, describe) on a topic or a consumer. */
export function may(right, name) {
  const names = session.access?.rights[right];
  return !names || (names.include.every(each => matches(each, name)) && !matches(names.exclude, name));
}

/** Whether the user may create, change and delete topics. */
export const mayAdministerTopics = () => session.access?.rights.topic_admin ?? true;

/** Whether there may be topics that the user may not see. */
export function isNarrowed() {
  const { publish, read, describe } = session.access?.rights ?? {};
  const isForAll = right => right.include.every(each => each.includes("*")) && !right.exclude.length;
  return publish !== undefined && ![publish, read, describe].some(isForAll);
}

const matches = (patterns, name) => patterns.some(each => new RegExp(`^${expression(each)}$`, "s").test(name));

/** Returns the regular expression of a glob with *, ?, [ab] and [!ab]. */
function expression(glob) {
  return glob.replaceAll(/\*|\?|\[(?:(!)|(?!!))(\][^\]]*|[^\]]+)\]|[^*?[]+|\[/g, (part, not, characters) => {
    if (part === "*") return ".*";
    if (part === "?") return ".";
    if (characters !== undefined) return `[${not ? "^" : ""}${members(characters)}]`;
    return part.replaceAll(/[.+^${}()|\\[\]]/g, String.raw`\$&`);
  });
}

/** Returns the members of a character class. A range such as z-a is empty, not an error. */
const members = characters =>
  characters.replaceAll(/(.)-(.)/gs, (range, first, last) => (first > last ? "" : range)).replaceAll(/[\\\]^]/g, String.raw`\$&`);
