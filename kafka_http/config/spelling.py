"""Suggestions for misspelled names."""

import difflib
from collections.abc import Collection


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that is most similar; None if none is similar."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return near[0] if near else None


def within_edits(name: str, known: Collection[str], edits: int) -> str | None:
    """The known name with the smallest Levenshtein distance; None if none is at most `edits` away."""
    distances = {each: _distance(name, each) for each in known if abs(len(each) - len(name)) <= edits}
    best = min(distances, key=lambda each: distances[each], default=None)
    return best if best is not None and distances[best] <= edits else None


def _distance(a: str, b: str) -> int:
    """Compute the Levenshtein distance row by row (Wagner and Fischer)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        previous, row = row, [i]
        for j, right in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (left != right)))
    return row[-1]
