"""Results as text: the table of one run, and two runs side by side."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kafka_http.bench.bench_result import FIGURES, BenchError, BenchResult, BenchRow, RowName, figure, format_number

_BUSY_CORE = 0.9
_COMPARED = ("requests/s", "messages/s", "p50 ms", "p99 ms", "errors", "server us/message")

Rows = Mapping[RowName, Sequence[BenchRow]]


def result_table(result: BenchResult) -> str:
    """A row for each combination, with medians over the rounds, and notes on the rows that the generator limited."""
    values, rows = result.conditions, result.by_name()
    rounds = f", medians of {values['--rounds']} rounds" if values.get("--rounds", 1) > 1 else ""
    title = (
        f"{result.what}, {values['--dialect']}: records a {'request' if result.what == 'publish' else 'page'} by "
        f"connections, values of {values['--size']} bytes, {values['cores']} cores, Python {values['Python']}{rounds}"
    )
    several = len({name.server for name in rows}) > 1
    table = [_head(FIGURES, several)]
    table += [[*_name(name, several), *(format_number(figure(each, rows[name])) for each in FIGURES)] for name in rows]
    columns = [*_ratio_columns(rows), *_range_columns(rows)]
    lines = align([[*cells, *more] for cells, *more in zip(table, *columns, strict=True)])
    return "\n".join([title, *lines, *_notes(rows)])


def _head(figures: Iterable[str], several_servers: bool) -> list[str]:
    return ["records", "connections", *["server"] * several_servers, *figures]


def _ratio_columns(rows: Rows) -> Iterator[list[str]]:
    """The ratios of the servers' requests/s to those of the first; nothing for one server."""
    servers = list(dict.fromkeys(name.server for name in rows))
    if len(servers) > 1:
        firsts = (rows[name._replace(server=servers[0])] for name in rows)
        ratios = (_ratio("requests/s", a, b) for a, b in zip(firsts, rows.values(), strict=True))
        yield [f"x {servers[0]}", *ratios]


def _range_columns(rows: Rows) -> Iterator[list[str]]:
    """The lowest and the highest requests/s of all rounds; nothing for one round."""
    if max(map(len, rows.values())) > 1:
        rates = ([row.requests / row.seconds for row in each] for each in rows.values())
        yield ["range", *(f"{format_number(min(each))}-{format_number(max(each))}" for each in rates)]


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad the cells so that each column is aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _name(name: RowName, with_server: bool) -> list[str]:
    return [f"{name.records} {name.way}".rstrip(), str(name.connections), *[name.server] * with_server]


def _ratio(name: str, a: Sequence[BenchRow], b: Sequence[BenchRow]) -> str:
    first, second = figure(name, a), figure(name, b)
    return f"{second / first:.2f}" if first and second is not None else "-"


def _notes(rows: Rows) -> Iterator[str]:
    for name, rounds in rows.items():
        busiest = max(row.generator_busiest for row in rounds)
        if busiest > _BUSY_CORE:
            records, connections = _name(name, with_server=False)
            yield (
                f"{records} records, {connections} connections: The load generator was the limit: one of its processes "
                f"used {busiest:.0%} of a core. Increase --processes, or use a larger machine."
            )


def comparison_table(first: BenchResult, second: BenchResult) -> str:
    """The rows that both results have, A beside B. Raises `BenchError` if they cannot be compared."""
    if first.what != second.what:
        raise BenchError(f"A is a bench of {first.what}, B of {second.what}. Compare two benches of the same kind.")
    rows_a, rows_b = first.by_name(), second.by_name()
    common = [name for name in rows_a if name in rows_b]
    if not common:
        raise BenchError("A and B have no row in common. Run both with the same --records and --connections.")
    several = any(name.server for name in common)
    head = _head((cell for name in _COMPARED for cell in (f"{name} A", "B", "B/A")), several)
    pairs = [(name, rows_a[name], rows_b[name]) for name in common]
    rows = [
        [*_name(name, several), *(cell for each in _COMPARED for cell in _compared(each, a, b))] for name, a, b in pairs
    ]
    return "\n".join([*align([head, *rows]), *_differences(first, second)])


def _compared(name: str, a: Sequence[BenchRow], b: Sequence[BenchRow]) -> tuple[str, str, str]:
    return format_number(figure(name, a)), format_number(figure(name, b)), _ratio(name, a, b)


def _differences(first: BenchResult, second: BenchResult) -> Iterator[str]:
    """The differences between machines, versions and settings. Results of older versions do not tell them."""
    a, b = first.conditions, second.conditions
    for name in sorted(a.keys() | b.keys()) if a and b else ():
        if a.get(name) != b.get(name):
            yield f"{name}: A {a.get(name, '-')}, B {b.get(name, '-')}"
