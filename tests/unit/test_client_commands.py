"""The client commands before a server with prepared answers: exact results, retries, resumption, exit statuses."""

import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kafka_http.cli.client_output import MessageFormat, decode_message
from kafka_http.cli.client_stream import EventBuffer
from kafka_http.cli.main import main
from tests.support.stub_api import NO_ANSWER, Answer, StubApi, stub_api

CaptureFixture = pytest.CaptureFixture[bytes]
TOPIC = {"topic": "orders", "partitions": [{"partition": 0, "earliest": 2, "latest": 9, "leader": 1}]}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("KAFKA_HTTP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def run(api: StubApi, *arguments: str) -> int:
    return main([*arguments, "--url", api.url])


def published(first: int, count: int) -> Answer:
    return Answer.json({"topic": "orders", "records": [places(offset) for offset in range(first, first + count)]})


def places(offset: int) -> dict[str, int]:
    return {"partition": 0, "offset": offset, "timestamp": 1}


def values(body: bytes) -> list[str]:
    return [json.loads(line)["value"] for line in body.splitlines()]


def events(*blocks: str) -> bytes:
    return "".join(f"{block}\n\n" for block in blocks).encode()


def message(offset: int, value: bytes = b"x", **fields: Any) -> str:
    shown = {"partition": 0, "offset": offset, "value": b64encode(value).decode(), "format": "binary", **fields}
    return f"id: 0:{offset + 1},*:earliest\ndata: {json.dumps(shown)}"


START = "id: 0:0,*:earliest"
END = 'id: 0:9,*:earliest;end\nevent: end\ndata: {"next":"0:9,*:earliest"}'


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "lines"
    file.write_bytes(b"one\n\ntw\xffo\nlast")
    return file


def test_publish_sends_each_line_byte_for_byte_with_key_and_headers(lines: Path, capfdbinary: CaptureFixture) -> None:
    with stub_api(published(0, 4)) as api:
        assert run(api, "publish", "or ders", str(lines), "-k", "ada", "-H", "From_x:a:b", "-H", "none:") == 0

    (request,) = api.requests
    assert (request.method, request.path) == ("POST", "/messages/or%20ders?lines=records")
    assert request.headers["Content-Type"] == "application/x-ndjson"
    common = {"key": "ada", "key_format": "text", "headers": [["From_x", "a:b"], ["none", ""]]}
    shown = [("one", "text"), ("", "text"), (b64encode(b"tw\xffo").decode(), "binary"), ("last", "text")]
    records = [json.loads(line) for line in request.body.splitlines()]
    assert records == [{"value": value, "format": format_, **common} for value, format_ in shown]
    assert capfdbinary.readouterr() == (b"", b"kafka-http: Published 4 messages to or ders.\n")


def test_publish_of_whole_file_is_one_message(lines: Path) -> None:
    with stub_api(published(0, 1)) as api:
        assert run(api, "publish", "orders", "--whole", str(lines)) == 0
    assert values(api.requests[0].body) == [b64encode(lines.read_bytes()).decode()]


def test_publish_of_many_lines_sends_batches_in_order(tmp_path: Path, capfdbinary: CaptureFixture) -> None:
    numbers = [str(number) for number in range(12_000)]
    (tmp_path / "many").write_text("\n".join(numbers))
    with stub_api(published(0, 5000), published(5000, 5000), published(10_000, 2000)) as api:
        assert run(api, "publish", "orders", str(tmp_path / "many"), "-o", "json") == 0
    assert [value for request in api.requests for value in values(request.body)] == numbers
    results = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert results == [{"line": offset + 1, **places(offset)} for offset in range(12_000)]
    assert len({request.headers["Idempotency-Key"] for request in api.requests}) == 3


def test_publish_without_input_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with stub_api() as api:
        assert run(api, "publish", "orders", str(tmp_path / "empty")) == 0
    assert api.requests == []


@pytest.mark.parametrize(
    "failures",
    [
        [NO_ANSWER],
        [Answer.error(504)],
        [Answer(502, b"<html>")],
        [Answer.error(504, records=[]), Answer.error(409, Retry_After="0")],
        [Answer.error(42901, Retry_After="0")],
        [Answer.json({"topic": "orders", "records": []}, 200)._replace(breaks=True)],
    ],
    ids=["no answer", "504", "502", "in progress", "limit", "broken answer"],
)
def test_publish_without_result_is_repeated_with_the_same_key(
    lines: Path, failures: Sequence[Answer], capfdbinary: CaptureFixture
) -> None:
    with stub_api(*failures, published(0, 4)) as api:
        assert run(api, "publish", "orders", str(lines)) == 0
    assert len({(request.headers["Idempotency-Key"], request.body) for request in api.requests}) == 1
    assert len(api.requests) == len(failures) + 1
    said = capfdbinary.readouterr().err.decode().splitlines()
    assert [each.endswith("Retrying.") for each in said] == [True, False]


def test_publish_with_unknown_result_reports_the_lines(lines: Path, capfdbinary: CaptureFixture) -> None:
    """A kept 504 does not change any more."""
    kept = Answer.error(504, "Kafka did not acknowledge.", Idempotency_Replayed="true")
    with stub_api(Answer.error(504), kept) as api:
        assert run(api, "publish", "orders", str(lines)) == 1
    said = capfdbinary.readouterr().err.decode().splitlines()[-1]
    assert said == (
        "kafka-http: Kafka did not acknowledge. Published: nothing. May be published: lines 1-4. All other lines are "
        "not published."
    )


def test_publish_with_some_failed_lines_reports_each(tmp_path: Path, capfdbinary: CaptureFixture) -> None:
    file = tmp_path / "five"
    file.write_text("1\n2\n3\n4\n5\n")
    too_large, unknown = ({"error": {"code": code, "message": "It failed."}} for code in (413, 504))
    records = [places(0), too_large, places(1), places(2), unknown]
    with stub_api(Answer.json({"topic": "orders", "records": records}, 207)) as api:
        assert run(api, "publish", "orders", str(file), "-o", "json") == 2
    out, said = capfdbinary.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"line": number, **each} for number, each in enumerate(records, 1)
    ]
    assert said.decode() == (
        "kafka-http: Line 2: It failed. Published: lines 1, 3-4. May be published: line 5. All other lines are not "
        "published.\n"
    )


def test_publish_with_all_lines_refused_by_kafka_names_the_first(lines: Path, capfdbinary: CaptureFixture) -> None:
    refused = {"error": {"code": 413, "message": "Too large."}}
    answer = Answer.json({**refused, "records": [refused] * 4}, 413)
    with stub_api(answer) as api:
        assert run(api, "publish", "orders", str(lines)) == 2
    assert capfdbinary.readouterr().err == b"kafka-http: Line 1: Too large. Nothing is published.\n"


def test_publish_with_another_number_of_results_is_an_error(lines: Path, capfdbinary: CaptureFixture) -> None:
    with stub_api(published(0, 3)) as api:
        assert run(api, "publish", "orders", str(lines)) == 1
    assert b"answered with 3 results for 4 lines." in capfdbinary.readouterr().err


def test_publish_of_invalid_record_publishes_the_lines_before_it(tmp_path: Path, capfdbinary: CaptureFixture) -> None:
    file = tmp_path / "records"
    file.write_text('{"value": 1}\n\n{"value": 2}\n{"valu": 3}\n{"value": 4}\n')
    invalid = Answer.error(400, "records[2] (line 3) has an unknown field 'valu'.", {"record": 2})
    with stub_api(invalid, published(0, 2)) as api:
        assert run(api, "publish", "orders", "--records", str(file)) == 2
    assert [values(request.body) for request in api.requests[1:]] == [[1, 2]]
    assert capfdbinary.readouterr().err.decode() == (
        "kafka-http: Line 4: the record has an unknown field 'valu'. Published: lines 1, 3. All other lines are not "
        "published.\n"
    )


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer.error(400), 2),
        (Answer.error(40101), 4),
        (Answer.error(40302), 4),
        (Answer.error(40401), 3),
        (Answer.error(422), 2),
        (Answer.error(500), 1),
        (Answer.error(50302, Retry_After="1"), 1),
        (Answer(301, b"", {"Location": "https://other.example/"}), 1),
        (Answer(200, b"hello"), 1),
    ],
)
def test_error_of_the_first_request_decides_the_exit_status(
    lines: Path, answer: Answer, status: int, capfdbinary: CaptureFixture
) -> None:
    for arguments in (["publish", "orders", str(lines)], ["topics"], ["lag", "orders", "billing"]):
        with stub_api(answer) as api:
            assert run(api, *arguments) == status
        out, said = capfdbinary.readouterr()
        assert (out, said.count(b"\n")) == (b"", 1)
        assert said.startswith(b"kafka-http: ")


@pytest.mark.parametrize("command", [["read", "orders"], ["tail", "orders"], ["topics"], ["ack", "orders", "b", "0:1"]])
def test_server_that_is_away_is_exit_status_1_without_credentials(
    command: list[str], capfdbinary: CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_HTTP_API_KEY", "kh_hush")
    assert main([*command, "--url", "http://me:hush@127.0.0.1:1"]) == 1
    said = capfdbinary.readouterr().err.decode()
    assert said.startswith("kafka-http: http://127.0.0.1:1 cannot be connected to.")
    assert "hush" not in said


@pytest.mark.parametrize(
    ("remedy", "said"),
    [
        (
            "Create it: curl …",
            "`kafka-http topics` lists the topics, and `kafka-http topics --create x` creates this one.",
        ),
        (
            "Only a principal with the right admin can create it.",
            "Only a principal with the right admin can create it.",
        ),
    ],
)
def test_missing_topic_names_commands_if_the_client_may_create_it(
    remedy: str, said: str, capfdbinary: CaptureFixture
) -> None:
    error = {"code": 40401, "message": f"Topic not found: x. {remedy}", "topic": "x"}
    with stub_api(Answer(404, json.dumps({"error": error}).encode())) as api:
        assert run(api, "read", "x") == 3
    assert capfdbinary.readouterr().err.decode() == f"kafka-http: Topic not found: x. {said}\n"


def test_credentials_are_sent_with_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_HTTP_API_KEY", "kh_hush")
    with stub_api(Answer(200, events(START, END))) as api:
        assert run(api, "read", "orders") == 0
    assert api.requests[0].headers["Authorization"] == "Bearer kh_hush"


def test_read_prints_the_stored_bytes(capfdbinary: CaptureFixture) -> None:
    with stub_api(Answer(200, events(START, message(0, b'{"a": 1}\n '), message(1, b"\xff\0"), END))) as api:
        assert run(api, "read", "orders", "--format", r"%v|") == 0
    assert capfdbinary.readouterr().out == b'{"a": 1}\n |\xff\0|'
    (request,) = api.requests
    assert request.path == "/messages/orders/kafka-http-cli/earliest?until=end&format=binary&key_format=binary"
    assert request.headers["Accept"] == "text/event-stream"


def test_read_as_json_prints_the_records_of_the_server(capfdbinary: CaptureFixture) -> None:
    shown = '{"partition":0,"offset":0,"key":null,"value":{"a":  1},"format":"json","headers":[]}'
    with stub_api(Answer(200, events(START, f"id: 0:1,*:earliest\ndata: {shown}", END))) as api:
        assert run(api, "read", "orders", "-o", "json", "--offset", "-1") == 0
    assert capfdbinary.readouterr().out.decode() == f"{shown}\n"
    assert api.requests[0].path == "/messages/orders/kafka-http-cli/-1?until=end"


def test_read_continues_after_the_last_message_that_it_printed(capfdbinary: CaptureFixture) -> None:
    """An event that is cut off is not printed, and comes again."""
    cut = events(START, message(0, b"a"), message(1, b"b"))[:-20]
    stopping = "retry: 1\nid: 0:2,*:earliest"
    with stub_api(
        Answer(200, cut, breaks=True),
        Answer.error(50302, Retry_After="0"),
        Answer(200, events("id: 0:1,*:earliest", message(1, b"b"), stopping)),
        Answer(204),
    ) as api:
        assert run(api, "read", "orders") == 0
    out, said = capfdbinary.readouterr()
    assert out == b"a\nb\n"
    assert [request.headers.get("Last-Event-ID") for request in api.requests] == [
        None,
        "0:1,*:earliest",
        "0:1,*:earliest",
        "0:2,*:earliest",
    ]
    assert [line.split()[-1] for line in said.decode().splitlines()] == ["Reconnecting.", "again.", "Reconnecting."]


def test_tail_ends_with_the_error_of_a_deleted_topic(capfdbinary: CaptureFixture) -> None:
    error = 'event: error\ndata: {"error":{"code":40401,"message":"Topic not found: orders."},"next":"*:earliest"}'
    passing = 'event: error\ndata: {"error":{"code":503,"message":"Busy."},"next":"0:1"}'
    with stub_api(
        Answer(200, events(START, message(0, b"a"), f"id: 0:1,*:earliest\n{passing}")),
        Answer(200, events("id: 0:1,*:earliest", message(1, b"b"), f"id: *:earliest\n{error}")),
    ) as api:
        assert run(api, "tail", "orders") == 3
    out, said = capfdbinary.readouterr()
    assert out == b"a\nb\n"
    assert said.decode().splitlines()[-1] == "kafka-http: Topic not found: orders."
    assert api.requests[0].path.startswith("/messages/orders/kafka-http-cli/latest?")


def test_read_says_which_messages_kafka_has_deleted(capfdbinary: CaptureFixture) -> None:
    gap = 'id: 0:4\nevent: gap\ndata: {"partition":0,"from":1,"to":4}'
    progress = 'id: 0:5\nevent: progress\ndata: {"scanned":3}'
    with stub_api(Answer(200, events(START, gap, message(4), progress, END))) as api:
        assert run(api, "read", "orders", "--contains", "x", "--key", "") == 0
    out, said = capfdbinary.readouterr()
    assert out == b"x\n"
    assert said == b"kafka-http: Partition 0: Kafka deleted the offsets 1 to 3 before the read.\n"
    assert "until=end&contains=x&key=&" in api.requests[0].path


def test_offset_reads_what_the_partitions_have(capfdbinary: CaptureFixture) -> None:
    partitions = [(0, 2, 9), (1, 0, 3), (2, 0, 0)]
    topic = {"partitions": [{"partition": p, "earliest": e, "latest": end} for p, e, end in partitions]}
    with stub_api(Answer.json(topic), Answer(200, events(START, END))) as api:
        assert run(api, "read", "orders", "--offset", "1") == 0
    assert api.requests[1].path.startswith("/messages/orders/kafka-http-cli/0:2,1:1?")
    assert capfdbinary.readouterr().err == b"kafka-http: Partition 0 has no offsets before 2.\n"


def test_range_of_offsets_has_both_ends(capfdbinary: CaptureFixture) -> None:
    sent = [message(each, b"%d" % each) for each in (5, 7, 8)]  # 6 is compacted
    with stub_api(Answer.json(TOPIC), Answer(200, events(START, *sent, END))) as api:
        assert run(api, "read", "orders", "--offset", "5-7") == 0
    assert capfdbinary.readouterr().out == b"5\n7\n"
    assert api.requests[1].path.startswith("/messages/orders/kafka-http-cli/0:5?until=end&")
    assert api.requests[1].path.endswith("&limit=3")


def test_offset_beyond_the_log_is_the_error_of_the_server(capfdbinary: CaptureFixture) -> None:
    for offset in ("10", "10-12"):
        with stub_api(Answer.json(TOPIC), Answer.error(416, "Offset out of range.")) as api:
            assert run(api, "read", "orders", "--offset", offset) == 2
        assert api.requests[1].path.startswith("/messages/orders/kafka-http-cli/10?")


def test_offset_in_a_missing_partition_is_the_error_of_the_server(capfdbinary: CaptureFixture) -> None:
    with stub_api(Answer.json(TOPIC), Answer.error(40402, "Partition not found.")) as api:
        assert run(api, "read", "orders", "--offset", "5", "--partition", "0,7") == 3
    assert api.requests[1].path.startswith("/messages/orders/kafka-http-cli/5?")
    assert "partition=0%2C7" in api.requests[1].path


def test_limit_ends_a_read(capfdbinary: CaptureFixture) -> None:
    with stub_api(Answer(200, events(START, *map(message, range(9))), breaks=True)) as api:
        assert run(api, "tail", "orders", "--limit", "2", "--consumer", "billing", "--partition", "0") == 0
    assert capfdbinary.readouterr().out == b"x\nx\n"
    path, _, query = api.requests[0].path.partition("?")
    assert path == "/messages/orders/billing/committed"
    assert query == "format=binary&key_format=binary&partition=0&limit=2"


def test_value_that_cannot_be_decoded_is_exit_status_1(capfdbinary: CaptureFixture) -> None:
    shown = {"partition": 0, "offset": 0, "error": {"code": 422, "message": "It is not Avro."}, "format": "avro"}
    with stub_api(Answer(200, events(START, f"id: 0:1\ndata: {json.dumps(shown)}", END))) as api:
        assert run(api, "read", "orders", "--decode", "avro", "--format", r"[%v]\n") == 1
    out, said = capfdbinary.readouterr()
    assert (out, said) == (b"[]\n", b"kafka-http: orders 0:0: It is not Avro.\n")
    assert "format=avro&key_format=binary" in api.requests[0].path


def test_format_has_all_fields_and_escapes() -> None:
    shown = decode_message(
        json.dumps(
            {
                **{"partition": 3, "offset": 7, "timestamp": 5, "key": b64encode(b"k\xff").decode()},
                **{"key_format": "binary", "value": "dg==", "format": "binary"},
                "headers": [["a", "ä"], ["b", None], ["c", {"base64": "/w=="}]],
            }
        )
    )
    text = r"%t %p:%o %T %k=%v %h %% \t\\\x41\0\n"
    assert MessageFormat(text)("orders", shown) == b"orders 3:7 5 " + b"k\xff=v a=\xc3\xa4,b=,c=\xff % \t\\A\0\n"
    assert MessageFormat("%k%v%T%h|")("orders", decode_message('{"partition": 0, "offset": 1}')) == b"|"


@pytest.mark.parametrize(
    ("value", "format_", "stored"),
    [
        ('"a\\n\\u00e4"', "text", b"a\n\xc3\xa4"),
        ('{"a":  1.0}', "json", b'{"a":  1.0}'),
        ("null", "json", b"null"),
        ("null", None, b""),
        ('"null"', "text", b"null"),
        ('{"id": 1}', "avro", b'{"id": 1}'),
    ],
)
def test_value_is_shown_as_its_text(value: str, format_: str | None, stored: bytes) -> None:
    shown = decode_message(f'{{"partition": 0, "offset": 1, "value": {value}, "format": {json.dumps(format_)}}}')
    assert MessageFormat("%v")("orders", shown) == stored


def test_events_are_found_in_any_pieces() -> None:
    data = events(START, message(0, b"a" * 100), "retry: 10\nid: 0:1", END)
    whole = EventBuffer().feed(data)
    for size in (1, 2, 3, 7, 100):
        buffer = EventBuffer()
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [event for piece in pieces for event in buffer.feed(piece)] == whole
    assert [event.kind for event in whole] == ["", "", "retry", "end"]


def test_lag_is_a_table_with_a_total(capfdbinary: CaptureFixture) -> None:
    partitions = [
        {"partition": 0, "committed": None, "earliest": 0, "latest": 10, "lag": 10},
        {"partition": 1, "committed": 5, "earliest": 0, "latest": 5, "lag": 0},
    ]
    answer = {"topic": "orders", "consumer": "billing", "partitions": partitions}
    with stub_api(Answer.json(answer), Answer.json(answer)) as api:
        assert run(api, "lag", "orders", "billing") == 0
        assert [line.split() for line in capfdbinary.readouterr().out.decode().splitlines()] == [
            ["partition", "committed", "end", "lag"],
            ["0", "-", "10", "10"],
            ["1", "5", "5", "0"],
            ["total", "10"],
        ]
        assert run(api, "lag", "orders", "billing", "-o", "json") == 0
        assert json.loads(capfdbinary.readouterr().out) == answer
    assert api.requests[0].path == "/messages/orders/billing"


def test_ack_sends_one_delete(capfdbinary: CaptureFixture) -> None:
    with stub_api(Answer(204)) as api:
        assert run(api, "ack", "orders", "a/b", "0:4,1:2") == 0
    assert [(each.method, each.path) for each in api.requests] == [("DELETE", "/messages/orders/a%2Fb/0:4,1:2")]


@pytest.mark.parametrize(
    "arguments", [["ack", "orders", "billing", ""], ["ack", "", "billing", "0:1"], ["lag", "..", "a"], ["read", ""]]
)
def test_empty_name_sends_nothing(arguments: list[str]) -> None:
    """A variable of the shell may be empty: `kafka-http ack orders billing $position`."""
    with stub_api() as api:
        assert run(api, *arguments) == 2
    assert api.requests == []


def test_topics_lists_shows_and_creates(capfdbinary: CaptureFixture) -> None:
    created = Answer.json(TOPIC, 201)
    with stub_api(Answer.json({"topics": ["a", "b"]}), Answer.json(TOPIC), created) as api:
        assert run(api, "topics") == 0
        assert capfdbinary.readouterr().out == b"a\nb\n"
        assert run(api, "topics", "orders") == 0
        assert [line.split() for line in capfdbinary.readouterr().out.decode().splitlines()] == [
            ["partition", "first", "end", "leader"],
            ["0", "2", "9", "1"],
        ]
        assert run(api, "topics", "--create", "orders", "--partitions", "3", "-o", "json") == 0
        assert json.loads(capfdbinary.readouterr().out) == TOPIC
    assert json.loads(api.requests[2].body) == {"topic": "orders", "partitions": 3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["read", "orders", "--format", "%x"], "the format has %x, which is not one of %t, %p, %o, %k, %v, %T, %h, %%"),
        (["read", "orders", "--format", "\\q"], r"the format has \q, which is not one of \n \t \r \0 \\ \xHH"),
        (["read", "orders", "--offset", "9-2"], "'9-2' is not a position such as 5, 5-10, earliest"),
        (["read", "orders", "--limit", "0"], "'0' is not a number of messages from 1"),
        (["tail", "orders", "--offset", "2-9"], "tail has no end, so --offset must not be a range"),
        (["publish", "orders", "-H", "x"], "'x' is not NAME:VALUE"),
        (["publish", "orders", "--records", "-k", "x"], "--records cannot be combined with -k and -H"),
        (["publish", "orders", "a", "b"], "publish does not take the argument 'b'"),
        (["read", "orders", "--offse", "1"], "read has no flag --offse. Did you mean --offset?"),
        (["topics", "--create"], "--create needs the name of the topic"),
        (["completion", "fish"], "invalid choice: 'fish'"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_would_be_right(
    arguments: list[str], said: str, capfdbinary: CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert said in capfdbinary.readouterr().err.decode().splitlines()[-1]


COMPLETE = """
source /dev/stdin
COMP_WORDS=({words}) COMP_CWORD={last}
_shtab_kafka_http
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("kafka-http publ", ["publish"]),
        ("kafka-http read orders --off", ["--offset"]),
        ("kafka-http serve --bootstrap", ["--bootstrap-servers"]),
        ("kafka-http completion z", ["zsh"]),
    ],
)
def test_completion_of_bash_knows_commands_and_flags(
    words: str, completed: list[str], capfdbinary: CaptureFixture
) -> None:
    assert main(["completion", "bash"]) == 0
    script = COMPLETE.format(words=words, last=words.count(" "))
    done = subprocess.run(
        ["bash", "-c", script], input=capfdbinary.readouterr().out, capture_output=True, check=True, timeout=60
    )
    assert done.stdout.decode().split() == completed
    assert done.stderr == b""


def test_completion_of_zsh_is_valid(capfdbinary: CaptureFixture, tmp_path: Path) -> None:
    if not shutil.which("zsh") and "CI" not in os.environ:
        pytest.skip("there is no zsh")
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "_kafka-http").write_bytes(capfdbinary.readouterr().out)
    done = subprocess.run(["zsh", "-n", tmp_path / "_kafka-http"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_completion_of_zsh_names_commands_flags_and_files(capfdbinary: CaptureFixture) -> None:
    assert main(["completion", "zsh"]) == 0
    script = capfdbinary.readouterr().out.decode()
    assert script.startswith("#compdef kafka-http\n")
    for word in ("publish:", "--offset[", "--bootstrap-servers[", "_files"):
        assert word in script
