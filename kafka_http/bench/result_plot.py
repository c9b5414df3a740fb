"""A result as a bar chart: an SVG image with all labels as text, for light and dark pages."""

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

from kafka_http.bench.bench_result import BenchResult, BenchRow, RowName, figure, format_number

_WIDTH = 760
_BAR_LEFT = 240
_BAR_WIDTH = 280
_BAR_HEIGHT = 16
_LINE = 22
_GROUP_GAP = 34
_TOP = 34
_COLORS = ("#0b6bcb", "#b45309", "#4d7c0f", "#7c3aed", "#be123c", "#0f766e")
_DARK_COLORS = ("#58a6ff", "#f0a04b", "#a3c95a", "#b79cff", "#ff7b8e", "#4fd1c5")
_STYLE = "text{font:13px system-ui,sans-serif;fill:#1c2127}.title{font-weight:600}"
_DARK_STYLE = "text{fill:#e7eaee}"


class _Bar(NamedTuple):
    """A bar. `color` is an index."""

    label: str
    length: float
    text: str
    color: int


def result_svg(result: BenchResult) -> str:
    """Draw the requests/s of several servers beside each other, or the messages/s of one server."""
    several = len({row.server for row in result.rows}) > 1
    groups = list(_server_groups(result) if several else _single_group(result))
    height = _TOP + sum(len(bars) * _LINE + _GROUP_GAP for _, bars in groups)
    title = escape(f"Bench: {result.what}, {result.conditions.get('--dialect', '')}")
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">'
    dark = f"@media (prefers-color-scheme:dark){{{_DARK_STYLE}{_fills(_DARK_COLORS)}}}"
    style = f"<style>{_STYLE}{_fills(_COLORS)}{dark}</style>"
    return "\n".join([head, style, *_lines(groups), "</svg>\n"])


def _fills(colors: Sequence[str]) -> str:
    return "".join(f".c{number}{{fill:{color}}}" for number, color in enumerate(colors))


def _server_groups(result: BenchResult) -> Iterator[tuple[str, list[_Bar]]]:
    """A group for each shape, with its own scale: the rates of different shapes are far apart."""
    rows = result.by_name()
    servers = list(dict.fromkeys(name.server for name in rows))
    shapes: dict[RowName, list[RowName]] = {}
    for name in rows:
        shapes.setdefault(name._replace(server=""), []).append(name)
    for shape, names in shapes.items():
        bars = [_bar(name.server, rows[name], "requests/s", servers.index(name.server)) for name in names]
        yield f"{_title(result, shape)}: requests/s", _scaled(bars)


def _single_group(result: BenchResult) -> Iterator[tuple[str, list[_Bar]]]:
    bars = [_bar(_title(result, name), rows, "messages/s", 0) for name, rows in result.by_name().items()]
    yield "messages/s", _scaled(bars)


def _bar(label: str, rows: Sequence[BenchRow], unit: str, color: int) -> _Bar:
    rate, p50, p99 = (figure(each, rows) or 0.0 for each in (unit, "p50 ms", "p99 ms"))
    text = f"{format_number(rate)} (p50 {format_number(p50)}, p99 {format_number(p99)} ms)"
    return _Bar(label, rate, text, color % len(_COLORS))


def _scaled(bars: Sequence[_Bar]) -> list[_Bar]:
    longest = max(bar.length for bar in bars) or 1.0
    return [bar._replace(length=bar.length / longest * _BAR_WIDTH) for bar in bars]


def _title(result: BenchResult, name: RowName) -> str:
    publishes = result.what == "publish"
    records = f"{name.records} record{'s' * (name.records > 1)}" if publishes else f"pages of {name.records}"
    client = {"publish": "connection", "read": "reader", "queue": "worker"}[result.what]
    connections = f"{name.connections} {client}{'s' * (name.connections > 1)}"
    way = {"": "", "key": ", with keys", "later": ", 202", "wait": ", waiting"}[name.way]
    return f"{records}, {connections}{way}"


def _lines(groups: Sequence[tuple[str, list[_Bar]]]) -> Iterator[str]:
    y = _TOP - 12
    for title, bars in groups:
        yield f'<text class="title" x="8" y="{y}">{escape(title)}</text>'
        for number, bar in enumerate(bars):
            top = y + 10 + number * _LINE
            width = max(1.0, bar.length)
            yield f'<text x="{_BAR_LEFT - 8}" y="{top + 13}" text-anchor="end">{escape(bar.label)}</text>'
            yield f'<rect class="c{bar.color}" x="{_BAR_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR_HEIGHT}"/>'
            yield f'<text x="{_BAR_LEFT + width + 6:.1f}" y="{top + 13}">{bar.text}</text>'
        y += len(bars) * _LINE + _GROUP_GAP
