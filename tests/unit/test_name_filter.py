"""Sets of names: the same names match as with `fnmatch`, one pattern at a time."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_http.name_filter import ALL_NAMES, NO_NAMES, NameFilter

PATTERNS = st.lists(st.text("ab.*?[!]", max_size=5), max_size=4).map(tuple)


@given(PATTERNS, PATTERNS, PATTERNS, st.text("ab.*[\n", max_size=5))
def test_names_match_a_pattern_of_each_group_and_none_that_is_excluded(
    first: tuple[str, ...], second: tuple[str, ...], excluded: tuple[str, ...], name: str
) -> None:
    def matches(patterns: tuple[str, ...]) -> bool:
        return any(fnmatchcase(name, each) for each in patterns)

    expected = matches(first) and matches(second) and not matches(excluded)
    assert NameFilter((first, second), excluded).matches(name) is expected
    assert NameFilter((first,), excluded).narrowed(second).matches(name) is expected


@pytest.mark.parametrize("name", ["", "a", "a\n", "*"])
def test_all_names_match_without_groups_and_none_with_an_empty_group(name: str) -> None:
    assert ALL_NAMES.matches(name)
    assert NameFilter((("*",),)).matches(name)
    assert not NO_NAMES.matches(name)
    assert not NameFilter(exclude=("*",)).matches(name)
