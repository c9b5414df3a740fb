"""A result as a bar chart: an SVG image with all labels as text, for light and dark pages."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from kafka_http.bench.bench_result import BenchResult, BenchRow, RowName, figure

_WIDTH = 720
_BAR_LEFT = 150
_BAR_WIDTH = 330
_BAR_HEIGHT = 16
_LINE = 22
_GROUP_GAP = 34
_TOP = 34
_COLORS = ("#0b6bcb", "#b45309", "#4d7c0f", "#7c3aed", "#be123c", "#0f766e")
_DARK_COLORS = ("#58a6ff", "#f0a04b", "#a3c95a", "#b79cff", "#ff7b8e", "#4fd1c5")
_STYLE = "text{font:13px system-ui,sans-serif;fill:#1c2127}.title{font-weight:600}"
_DARK_STYLE = "text{fill:#e7eaee}"


class _Bar(NamedTuple):
    """A bar. `length` is its part of the longest one, `color` an index."""

    label: str
    length: float
    text: str
    color: int


def result_svg(result: BenchResult) -> str:
    """Draw the requests/s of several servers beside each other, or the messages/s of one server."""
    rows = result.by_name()
    servers = list(dict.fromkeys(name.server for name in rows))
    groups = list(_server_groups(rows, servers) if len(servers) > 1 else _single_group(rows))
    height = _TOP + sum(len(bars) * _LINE + _GROUP_GAP for _, bars in groups)
    title = escape(f"Bench: {result.what}, {result.conditions.get('--dialect', '')}")
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">'
    dark = f"@media (prefers-color-scheme:dark){{{_DARK_STYLE}{_fills(_DARK_COLORS)}}}"
    style = f"<style>{_STYLE}{_fills(_COLORS)}{dark}</style>"
    return "\n".join([head, style, *_lines(groups), "</svg>\n"])


def _fills(colors: Sequence[str]) -> str:
    return "".join(f".c{number}{{fill:{color}}}" for number, color in enumerate(colors))


def _server_groups(
    rows: Mapping[RowName, Sequence[BenchRow]], servers: Sequence[str]
) -> Iterator[tuple[str, list[_Bar]]]:
    """A group for each shape, with its own scale: the rates of different shapes are far apart."""
    shapes: dict[RowName, list[RowName]] = {}
    for name in rows:
        shapes.setdefault(name._replace(server=""), []).append(name)
    for shape, names in shapes.items():
        longest = max(_rate(rows[name], "requests/s") for name in names)
        yield (
            f"{_title(shape)}: requests/s",
            [_bar(name.server, rows[name], "requests/s", longest, servers.index(name.server)) for name in names],
        )


def _single_group(rows: Mapping[RowName, Sequence[BenchRow]]) -> Iterator[tuple[str, list[_Bar]]]:
    longest = max(_rate(each, "messages/s") for each in rows.values())
    yield "messages/s", [_bar(_short(name), each, "messages/s", longest, 0) for name, each in rows.items()]


def _bar(label: str, rows: Sequence[BenchRow], unit: str, longest: float, color: int) -> _Bar:
    rate = _rate(rows, unit)
    text = f"{rate:,.0f} (p50 {figure('p50 ms', rows):.3g}, p99 {figure('p99 ms', rows):.3g} ms)"
    return _Bar(label, rate / longest if longest else 0.0, text, color % len(_COLORS))


def _rate(rows: Sequence[BenchRow], unit: str) -> float:
    return figure(unit, rows) or 0.0


def _title(name: RowName) -> str:
    records = "1 record" if name.records == 1 else f"{name.records} records"
    connections = "1 connection" if name.connections == 1 else f"{name.connections} connections"
    way = {"": "", "key": ", Idempotency-Key", "later": ", 202"}[name.way]
    return f"{records}, {connections}{way}"


def _short(name: RowName) -> str:
    return f"{name.records} x {name.connections} {name.way}".rstrip()


def _lines(groups: Sequence[tuple[str, list[_Bar]]]) -> Iterator[str]:
    y = _TOP - 12
    for title, bars in groups:
        yield f'<text class="title" x="8" y="{y}">{escape(title)}</text>'
        for number, bar in enumerate(bars):
            top = y + 10 + number * _LINE
            width = max(1.0, bar.length * _BAR_WIDTH)
            yield f'<text x="{_BAR_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(bar.label)}</text>'
            yield f'<rect class="c{bar.color}" x="{_BAR_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR_HEIGHT}"/>'
            yield f'<text x="{_BAR_LEFT + width + 6:.1f}" y="{top + 13}">{bar.text}</text>'
        y += len(bars) * _LINE + _GROUP_GAP
