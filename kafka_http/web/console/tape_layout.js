// Where the parts of a partition's drawing are. Pure functions: offsets in, pixels out.

export const CELL = 20; // width of a message

const OLDER = { share: 0.18, min: 48, max: 180 };
const MAX_LANES = 3;
const LABEL_GAP = 8;
const POLE_GAP = 4; // from any flag to one without a label

/** Returns the width for the messages before the window, or 0 if each partition fits into `width`. */
export function olderWidth(partitions, width) {
  if (partitions.every(each => (each.latest - each.earliest + 1) * CELL <= width)) return 0;
  return Math.round(Math.min(OLDER.max, Math.max(OLDER.min, width * OLDER.share)));
}

/** The window of one partition: its last messages one by one, and all older ones to scale on the left. */
export class Scale {
  constructor({ earliest, latest }, width, older) {
    this.older = older;
    this.earliest = earliest;
    this.latest = latest;
    this.cells = Math.max(1, Math.floor((width - older) / CELL) - 1); // a place is left for the end
    this.first = Math.max(earliest, latest - this.cells);
  }

  /** Returns the left edge of an offset. */
  x(offset) {
    if (offset >= this.first) return this.older + (Math.min(offset, this.latest) - this.first) * CELL;
    const share = (offset - this.earliest) / (this.first - this.earliest);
    return Math.max(0, share) * this.older;
  }

  /** Returns the offset at a place, or null after the end. */
  offset(x) {
    const share = x / this.older;
    const found = x >= this.older
      ? this.first + Math.floor((x - this.older) / CELL)
      : Math.floor(this.earliest + share * (this.first - this.earliest));
    return found < this.latest ? found : null;
  }

  /** Returns offsets to write below the messages. `digits` is the width of the widest in characters. */
  ticks(digits) {
    const room = Math.ceil((digits * 7 + LABEL_GAP) / CELL);
    const step = room <= 5 ? 5 : 10;
    const found = [];
    for (let at = Math.ceil(this.first / step) * step; at <= this.latest - room; at += step) found.push(at);
    return found;
  }
}

/** Joins the consumers that stand at the same offset: `[{offset, names, lag}]`, from the first on. */
export function flagsOf(consumers) {
  const found = new Map();
  for (const { name, offset, lag } of consumers) {
    const flag = found.get(offset) ?? { offset, lag, names: [] };
    flag.names.push(name);
    found.set(offset, flag);
  }
  return [...found.values()].sort((a, b) => a.offset - b.offset);
}

/**
 * Returns `flags` with `x`, `lane` and `isLeft`, so that no label covers another. `widthOf` measures a label. Flags
 * without room for their label have lane -1, and are left out close to others.
 */
export function placed(flags, scale, width, widthOf) {
  const ends = Array(MAX_LANES).fill(-Infinity);
  const all = flags.map(flag => {
    const x = scale.x(flag.offset);
    const size = widthOf(flag);
    const isLeft = x + size > width && size <= x;
    const left = isLeft ? x - size : x;
    const lane = ends.findIndex(end => end + LABEL_GAP <= left);
    if (lane >= 0) ends[lane] = left + size;
    return { ...flag, x, lane, isLeft };
  });
  let last = -Infinity;
  return all.filter(({ lane, x }) => {
    const isShown = lane >= 0 || x - last >= POLE_GAP;
    if (isShown) last = x;
    return isShown;
  });
}
