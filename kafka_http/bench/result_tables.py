"""Results as text: the table of one run, and two runs side by side."""

from collections.abc import Callable, Iterator, Sequence

from kafka_http.bench.bench_result import BenchError, BenchResult, BenchRow
from kafka_http.bench.client_baselines import CONFLUENT, KAFKA_PYTHON

_BUSY_CORE = 0.9
_BUSY_MACHINE = 0.95
_NOTICEABLE = 0.15
_ONE_WORKER = 0.9

Figure = Callable[[BenchResult, BenchRow], float | None]
_FIGURES: dict[str, Figure] = {
    "requests/s": lambda _, row: row.requests / row.seconds,
    "messages/s": lambda _, row: row.messages_per_second,
    "MB/s": lambda result, row: row.messages_per_second * result.size / 1e6,
    "p50 ms": lambda _, row: row.p50,
    "p90 ms": lambda _, row: row.p90,
    "p99 ms": lambda _, row: row.p99,
    "errors": lambda _, row: row.errors,
    "server CPU s": lambda _, row: row.server_cpu,
    "broker CPU s": lambda _, row: row.broker_cpu,
    "load CPU s": lambda _, row: row.generator_cpu,
    "server us/message": lambda _, row: row.server_us_per_message,
}
_COMPARED = ("requests/s", "messages/s", "p50 ms", "p99 ms", "errors", "server us/message")


def result_table(result: BenchResult) -> str:
    """A row for each combination, the baselines, and notes on the figures."""
    clients = [each for each in (KAFKA_PYTHON, CONFLUENT) if any(one.client == each for one in result.baselines)]
    answer = ["answer"] * any(row.later for row in result.rows)
    head = ["records", "connections", *answer, *_FIGURES, *(f"of {client}" for client in clients)]
    rows = [
        [
            *(str(row.records), str(row.connections)),
            *(["202" if row.later else "200"] if answer else []),
            *(_number(figure(result, row)) for figure in _FIGURES.values()),
            *(_ratio_to_baseline(result, row, client) for client in clients),
        ]
        for row in result.rows
    ]
    return "\n".join([_title(result), *align([head, *rows]), *_baselines(result), *_notes(result)])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad the cells so that each column is aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _title(result: BenchResult) -> str:
    unit = "records a request" if result.what == "publish" else "records a page"
    return (
        f"{result.what}, {result.dialect}: {unit} by connections, values of {result.size} bytes, "
        f"{result.machine.cores} cores, Python {result.machine.python}"
    )


def _number(value: float | None) -> str:
    """Format with three significant digits and separators of thousands."""
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def _ratio_to_baseline(result: BenchResult, row: BenchRow, client: str) -> str:
    baseline = result.baseline_of(row, client)
    return "-" if baseline is None else f"{row.messages_per_second / baseline.messages_per_second:.2f}"


def _baselines(result: BenchResult) -> Iterator[str]:
    for each in result.baselines:
        p50 = f", p50 {_number(each.p50)} ms" if each.p50 is not None else ""
        way = f", {each.way}" if result.what == "publish" else ""
        yield f"without HTTP, {each.client}{way}: {_number(each.messages_per_second)} messages/s{p50}"


def _notes(result: BenchResult) -> Iterator[str]:
    """Say where the load generator, one worker or another program limited the figures."""
    for row in result.rows:
        where = f"{row.records} records{' later' * row.later}, {row.connections} connections"
        capacity = row.seconds * result.machine.cores
        generator_share = row.generator_cpu / capacity
        if row.generator_busiest > _BUSY_CORE:
            yield (
                f"{where}: The load generator was the limit: one of its processes used {row.generator_busiest:.0%} of "
                "a core. Increase --processes, or use a larger machine."
            )
        elif row.machine_busy > _BUSY_MACHINE and generator_share > _NOTICEABLE:
            yield f"{where}: No core was idle, and the load generator used {generator_share:.0%} of all cores."
        if row.connections > 1 and (row.server_busiest or 0) > _ONE_WORKER:
            yield f"{where}: One worker of the server did all the work: by chance it had all connections."
        if (others := _share_of_others(row, capacity)) > _NOTICEABLE:
            yield f"{where}: Other programs used {others:.0%} of all cores. Run the bench again without them."


def _share_of_others(row: BenchRow, capacity: float) -> float:
    """The share of the cores that other programs used; 0 if it is not known."""
    if row.server_cpu is None or row.broker_cpu is None:
        return 0.0
    return row.machine_busy - (row.server_cpu + row.broker_cpu + row.generator_cpu) / capacity


def comparison_table(first: BenchResult, second: BenchResult) -> str:
    """The rows that both results have, A beside B. Raises `BenchError` if they cannot be compared."""
    if first.what != second.what:
        raise BenchError(f"A is a bench of {first.what}, B of {second.what}. Compare two benches of the same kind.")
    others = {_key(row): row for row in second.rows}
    pairs = [(row, others[_key(row)]) for row in first.rows if _key(row) in others]
    if not pairs:
        raise BenchError("A and B have no row in common. Run both with the same --records and --connections.")
    head = ["records", "connections", *(cell for name in _COMPARED for cell in (f"{name} A", "B", "B/A"))]
    rows = [
        [
            *(f"{row_a.records}{' later' * row_a.later}", str(row_a.connections)),
            *(cell for name in _COMPARED for cell in _compared(_FIGURES[name], (first, row_a), (second, row_b))),
        ]
        for row_a, row_b in pairs
    ]
    return "\n".join([*align([head, *rows]), *_compared_baselines(first, second), *_differences(first, second)])


def _key(row: BenchRow) -> tuple[int, int, bool]:
    return row.records, row.connections, row.later


def _compared(figure: Figure, row_a: tuple[BenchResult, BenchRow], row_b: tuple[BenchResult, BenchRow]) -> list[str]:
    a, b = figure(*row_a), figure(*row_b)
    return [_number(a), _number(b), _ratio(a, b)]


def _ratio(a: float | None, b: float | None) -> str:
    return f"{b / a:.2f}" if a and b is not None else "-"


def _compared_baselines(first: BenchResult, second: BenchResult) -> Iterator[str]:
    others = {(each.client, each.way): each.messages_per_second for each in second.baselines}
    for each in first.baselines:
        a, b = each.messages_per_second, others.get((each.client, each.way))
        if b is not None:
            name = f"without HTTP, {each.client}, {each.way}"
            yield f"{name}: {_number(a)}, {_number(b)} messages/s, B/A {_ratio(a, b)}"


def _differences(first: BenchResult, second: BenchResult) -> Iterator[str]:
    """The differences between machines, versions and settings."""
    a, b = _conditions(first), _conditions(second)
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            yield f"{name}: A {a.get(name, '-')}, B {b.get(name, '-')}"


def _conditions(result: BenchResult) -> dict[str, object]:
    machine = result.machine
    return {
        **{"cores": machine.cores, "system": machine.system, "Python": machine.python},
        **{"dialect": result.dialect, "size": result.size},
        **machine.versions,
        **{f"--{name}": value for name, value in (result.options | result.settings).items()},
    }
