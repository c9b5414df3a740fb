// Lists that are refreshed.

/** Shows `items` in `list`. Rows of unchanged items are not moved, so that they keep the focus and get their clicks. */
export function update(list, items, made) {
  const known = new Map([...list.children].map(each => [each.dataset.item, each]));
  const rows = items.map(item => known.get(JSON.stringify(item)) ?? labelled(item, made(item)));
  const kept = new Set(rows);
  for (const row of known.values()) if (!kept.has(row)) row.remove();
  for (const [at, row] of rows.entries()) {
    if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
  }
}

function labelled(item, row) {
  row.dataset.item = JSON.stringify(item);
  return row;
}
