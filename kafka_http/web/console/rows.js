// Lists that are refreshed.

/** Shows `items` in `list`. Rows of unchanged items stay, so that the focus does not move. */
export function update(list, items, made) {
  const known = new Map([...list.children].map(each => [each.dataset.item, each]));
  const rows = items.map(item => known.get(JSON.stringify(item)) ?? labelled(item, made(item)));
  if (rows.length !== list.children.length || rows.some((each, at) => each !== list.children[at])) {
    list.replaceChildren(...rows);
  }
}

function labelled(item, row) {
  row.dataset.item = JSON.stringify(item);
  return row;
}
