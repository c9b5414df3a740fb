"""Results as text: one run's table, and two runs side by side."""

from collections.abc import Iterator, Sequence

from kafka_http.bench.baselines import CONFLUENT, KAFKA_PYTHON
from kafka_http.bench.errors import BenchError
from kafka_http.bench.results import BenchResult, BenchRow

_NEAR_A_CORE = 0.9
_NOT_IDLE = 0.95
_NOTICEABLE = 0.15
_NEARLY_ALL = 0.9


def table(result: BenchResult) -> str:
    """A row for each combination, what the machine does without HTTP, and what to know about the figures."""
    clients = [each for each in (KAFKA_PYTHON, CONFLUENT) if any(one.client == each for one in result.baselines)]
    head = [
        "records", "connections", *(["answer"] if has_later(result) else []), "requests/s",
        "messages/s", "MB/s", "p50 ms", "p90 ms", "p99 ms", "errors",
        "server CPU s", "broker CPU s", "load CPU s", "server us/message", *(f"of {client}" for client in clients),
    ]  # fmt: skip
    lines = [head, *(_cells(result, row, clients) for row in result.rows)]
    return "\n".join([_title(result), *aligned(lines), *_baselines(result), *notes(result)])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The cells of each column under each other, to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]


def _title(result: BenchResult) -> str:
    unit = "records a request" if result.what == "publish" else "records a page"
    return (
        f"{result.what}, {result.dialect}: {unit} by connections, values of {result.size} bytes, "
        f"{result.machine.cores} cores, Python {result.machine.python}"
    )


def _cells(result: BenchResult, row: BenchRow, clients: Sequence[str]) -> list[str]:
    return [
        f"{row.records}", f"{row.connections}", *(["202" if row.later else "200"] if has_later(result) else []),
        number(row.requests_per_second), number(row.messages_per_second),
        number(result.megabytes_per_second(row)), number(row.p50), number(row.p90), number(row.p99), f"{row.errors}",
        number(row.server_cpu), number(row.broker_cpu), number(row.generator_cpu), number(row.server_us_per_message),
        *(_ratio(result, row, client) for client in clients),
    ]  # fmt: skip


def has_later(result: BenchResult) -> bool:
    """Whether some rows are of requests that were answered before Kafka had their records."""
    return any(row.later for row in result.rows)


def number(value: float | None) -> str:
    """With three digits that count, with thousands apart."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 1 else f"{value:.2f}"


def _ratio(result: BenchResult, row: BenchRow, client: str) -> str:
    baseline = result.baseline_of(row, client)
    return "-" if baseline is None else f"{row.messages_per_second / baseline.messages_per_second:.2f}"


def _baselines(result: BenchResult) -> Iterator[str]:
    for each in result.baselines:
        p50 = f", p50 {number(each.p50)} ms" if each.p50 is not None else ""
        way = f", {each.way}" if result.what == "publish" else ""
        yield f"without HTTP, {each.client}{way}: {number(each.messages_per_second)} messages/s{p50}"


def notes(result: BenchResult) -> Iterator[str]:
    """Where the generator was the limit, or took from the others what they could have used; or somebody else did."""
    for row in result.rows:
        where = f"{row.records} records{' later' * row.later}, {row.connections} connections"
        whole = row.seconds * result.machine.cores
        if row.generator_busiest > _NEAR_A_CORE:
            yield (
                f"{where}: the load generator was the limit, a process of it took {row.generator_busiest:.0%} of a "
                "core: give it more with --processes, or measure with another one."
            )
        elif row.machine_busy > _NOT_IDLE and (share := row.generator_cpu / whole) > _NOTICEABLE:
            yield f"{where}: no core was idle, and the load generator took {share:.0%} of all of them."
        if row.connections > 1 and (row.server_busiest or 0) > _NEARLY_ALL:
            yield f"{where}: one of the server's workers did all the work: by chance it had all connections."
        if (others := _of_others(row, whole)) > _NOTICEABLE:
            yield f"{where}: something else took {others:.0%} of the machine's cores; measure again when it rests."


def _of_others(row: BenchRow, whole: float) -> float:
    """The share of the cores that went to whoever has no part in this; 0 where that cannot be known."""
    if row.server_cpu is None or row.broker_cpu is None:
        return 0.0
    return row.machine_busy - (row.server_cpu + row.broker_cpu + row.generator_cpu) / whole


def comparison(first: BenchResult, second: BenchResult) -> str:
    """The rows that both have, each figure of one run beside the other's. Raises `BenchError` where there are none."""
    if first.what != second.what:
        raise BenchError(f"The first is a bench of {first.what}, the second of {second.what}: compare two of a kind.")
    others = {_key(row): row for row in second.rows}
    both = [(row, others[_key(row)]) for row in first.rows if _key(row) in others]
    if not both:
        raise BenchError("The two have no row in common: run both with the same --records and --connections.")
    names = ("requests/s", "messages/s", "p50 ms", "p99 ms", "errors", "server us/message")
    head = ["records", "connections", *(cell for name in names for cell in (f"{name} A", "B", "B/A"))]
    lines = [head, *(_compared(one, other) for one, other in both)]
    return "\n".join([*aligned(lines), *_without_http(first, second), *_differences(first, second)])


def _key(row: BenchRow) -> tuple[int, int, bool]:
    return row.records, row.connections, row.later


def _compared(one: BenchRow, other: BenchRow) -> list[str]:
    figures = [(row.requests_per_second, row.messages_per_second, row.p50, row.p99, float(row.errors),
                row.server_us_per_message) for row in (one, other)]  # fmt: skip
    cells = [cell for a, b in zip(*figures, strict=True) for cell in (number(a), number(b), _quotient(a, b))]
    return [f"{one.records}{' later' * one.later}", f"{one.connections}", *cells]


def _quotient(a: float | None, b: float | None) -> str:
    return f"{b / a:.2f}" if a and b is not None else "-"


def _without_http(first: BenchResult, second: BenchResult) -> Iterator[str]:
    others = {(each.client, each.way): each.messages_per_second for each in second.baselines}
    for each in first.baselines:
        b = others.get((each.client, each.way))
        if b is not None:
            a = each.messages_per_second
            yield f"without HTTP, {each.client}, {each.way}: {number(a)}, {number(b)} messages/s, B/A {_quotient(a, b)}"


def _differences(first: BenchResult, second: BenchResult) -> Iterator[str]:
    """In what else the two differ: machine, versions, settings."""
    a, b = _circumstances(first), _circumstances(second)
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            yield f"{name}: A {a.get(name, '-')}, B {b.get(name, '-')}"


def _circumstances(result: BenchResult) -> dict[str, object]:
    machine = result.machine
    known: dict[str, object] = {"cores": machine.cores, "system": machine.system, "Python": machine.python}
    known |= {"dialect": result.dialect, "size": result.size}
    return known | machine.versions | {f"--{name}": value for name, value in (result.options | result.settings).items()}
