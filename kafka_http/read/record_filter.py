"""Selects the records of a search: those with a text, or with a key."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from kafka_http.records import Record, RecordColumns

_ESCAPED = re.compile(r"\\u[0-9a-f]{4}")
ShownTexts = Callable[[RecordColumns], tuple[Sequence[bytes | None], Sequence[bytes | None]]]
"""Returns the keys and the values of records in the form that the client sees: JSON texts."""


class RecordFilter:
    """The records that contain a text in their key, value or headers, and those with a key. Any thread may call.

    Upper and lower case are different. The text is searched in the stored bytes as UTF-8, and in the forms that it can
    have in JSON. `shown` adds what a client sees of binary formats; None if it sees the stored bytes.
    """

    def __init__(self, contains: str | None = None, key: str | None = None, shown: ShownTexts | None = None) -> None:
        self._texts = () if contains is None else _forms_in_json(contains)
        self._keys = frozenset() if key is None else _forms_of_key(key)
        self._has_key = key is not None
        self._shown = shown

    def select(self, records: RecordColumns) -> list[Record]:
        """Return the records that match, in their order."""
        keys, values = ((), ()) if self._shown is None else self._shown(records)
        found: set[int] | range = range(len(records))
        if self._has_key:
            found = {*self._with_key(records.keys), *self._with_key(keys)}
        if self._texts:
            columns = (records.keys, records.values, keys, values)
            found = set(found).intersection(self._with_text(columns, records))
        return [records[each] for each in sorted(found)]

    def _with_key(self, keys: Sequence[bytes | None]) -> list[int]:
        return [at for at, key in enumerate(keys) if key in self._keys]

    def _with_text(self, columns: Iterable[Sequence[bytes | None]], records: RecordColumns) -> Iterator[int]:
        for text in self._texts:
            for column in columns:
                yield from [at for at, data in enumerate(column) if data and text in data]
            if any(records.headers):
                yield from [at for at, each in enumerate(records.headers) if any(text in (v or b"") for _, v in each)]


def _forms_of_key(key: str) -> frozenset[bytes]:
    """Return the bytes of a key as such, and as a JSON string."""
    return frozenset((key.encode(), *(b'"%b"' % each for each in _escaped_forms(key))))


def _forms_in_json(text: str) -> tuple[bytes, ...]:
    """Return the bytes of a text as such, and inside a JSON string."""
    return tuple(dict.fromkeys((text.encode(), *_escaped_forms(text))))


def _escaped_forms(text: str) -> list[bytes]:
    """Return the inner bytes of a JSON string as common writers escape it.

    Some escape characters beyond ASCII, in lower or upper case; PHP also escapes slashes.
    """
    plain, escaped = (json.dumps(text, ensure_ascii=each)[1:-1] for each in (False, True))
    upper = _ESCAPED.sub(lambda found: found[0][:2] + found[0][2:].upper(), escaped)
    return [form.replace("/", slash).encode() for form in (plain, escaped, upper) for slash in ("/", "\\/")]
