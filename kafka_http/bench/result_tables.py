"""Results as text: the table of one run, and two runs side by side."""

from collections.abc import Callable, Iterator, Sequence

from kafka_http.bench.bench_result import BenchError, BenchResult, BenchRow

_BUSY_CORE = 0.9

_FIGURES: dict[str, Callable[[BenchRow], float | None]] = {
    "requests/s": lambda row: row.requests / row.seconds,
    "messages/s": lambda row: row.messages / row.seconds,
    "p50 ms": lambda row: row.p50,
    "p90 ms": lambda row: row.p90,
    "p99 ms": lambda row: row.p99,
    "errors": lambda row: row.errors,
    "server CPU s": lambda row: row.server_cpu,
    "load CPU s": lambda row: row.generator_cpu,
    "server us/message": lambda row: row.server_cpu and row.server_cpu / max(row.messages, 1) * 1e6,
}
_COMPARED = ("requests/s", "messages/s", "p50 ms", "p99 ms", "errors", "server us/message")


def result_table(result: BenchResult) -> str:
    """A row for each combination, and notes on the rows that the load generator limited."""
    values = result.conditions
    title = (
        f"{result.what}, {values['--dialect']}: records a {'request' if result.what == 'publish' else 'page'} by "
        f"connections, values of {values['--size']} bytes, {values['cores']} cores, Python {values['Python']}"
    )
    head = ["records", "connections", *_FIGURES]
    rows = [[*_name(row), *(_number(figure(row)) for figure in _FIGURES.values())] for row in result.rows]
    return "\n".join([title, *align([head, *rows]), *_notes(result)])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad the cells so that each column is aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _name(row: BenchRow) -> tuple[str, str]:
    return f"{row.records}{' later' * row.later}", str(row.connections)


def _number(value: float | None) -> str:
    """Format with three significant digits and separators of thousands."""
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def _notes(result: BenchResult) -> Iterator[str]:
    for row in result.rows:
        if row.generator_busiest > _BUSY_CORE:
            records, connections = _name(row)
            yield (
                f"{records} records, {connections} connections: The load generator was the limit: one of its processes "
                f"used {row.generator_busiest:.0%} of a core. Increase --processes, or use a larger machine."
            )


def comparison_table(first: BenchResult, second: BenchResult) -> str:
    """The rows that both results have, A beside B. Raises `BenchError` if they cannot be compared."""
    if first.what != second.what:
        raise BenchError(f"A is a bench of {first.what}, B of {second.what}. Compare two benches of the same kind.")
    others = {_name(row): row for row in second.rows}
    pairs = [(row, others[_name(row)]) for row in first.rows if _name(row) in others]
    if not pairs:
        raise BenchError("A and B have no row in common. Run both with the same --records and --connections.")
    head = ["records", "connections", *(cell for name in _COMPARED for cell in (f"{name} A", "B", "B/A"))]
    rows = [[*_name(a), *(cell for name in _COMPARED for cell in _compared(name, a, b))] for a, b in pairs]
    return "\n".join([*align([head, *rows]), *_differences(first, second)])


def _compared(figure: str, row_a: BenchRow, row_b: BenchRow) -> tuple[str, str, str]:
    a, b = _FIGURES[figure](row_a), _FIGURES[figure](row_b)
    return _number(a), _number(b), f"{b / a:.2f}" if a and b is not None else "-"


def _differences(first: BenchResult, second: BenchResult) -> Iterator[str]:
    """The differences between machines, versions and settings. Results of older versions do not tell them."""
    a, b = first.conditions, second.conditions
    for name in sorted(a.keys() | b.keys()) if a and b else ():
        if a.get(name) != b.get(name):
            yield f"{name}: A {a.get(name, '-')}, B {b.get(name, '-')}"
