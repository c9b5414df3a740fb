"""The state store, with the same tests for SQLite and for a real PostgreSQL."""

import contextlib
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, create_engine, inspect, update

from kafka_http.consumers.instance_service import InstanceStore
from kafka_http.errors import InstanceExists, Unavailable
from kafka_http.name_filter import NameFilter
from kafka_http.node.store import Database, StoredInstances, StoredNodes, StoredTasks, open_database
from kafka_http.node.store.stored_nodes import LEASE_SECONDS, InstanceOwner
from kafka_http.node.store.tables import idempotency_keys, instances, meta, nodes, read_meta, write_meta
from kafka_http.records import (
    InstanceDefinition,
    InstanceProgress,
    InstanceSettings,
    OffsetEntry,
    StoredInstance,
    TopicPartition,
)
from kafka_http.tasks import NewTask, Task, new_task_id
from tests.support.polling import scaled
from tests.support.postgresql import PostgreSQL

SETTINGS = InstanceSettings(format="json", reset="latest", auto_commit=False, max_bytes=1, timeout=2.5)
SUBSCRIBED = InstanceDefinition("g", "i", "i-x7", SETTINGS, topics=("a", "ü"))
OF_ALICE = replace(SUBSCRIBED, owner="alice")
PROGRESS = InstanceProgress(
    3, (OffsetEntry("a", 0, 5),), (OffsetEntry("a", 0, 4, "m"),), (OffsetEntry("a", 1, 1 << 60),)
)
WITH_IDS = replace(PROGRESS, ids={"a": UUID(int=7), "old": None})


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The setting `store_url` of an empty store."""
    if request.param == "sqlite":
        return ""
    database: str = request.getfixturevalue("postgresql").database(f"test_{uuid4().hex}")
    return database


@pytest.fixture
def database(tmp_path: Path, url: str) -> Iterator[Database]:
    opened = open_database(tmp_path, url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> StoredInstances:
    return StoredInstances(database)


def test_stored_instances_implement_the_protocol(store: StoredInstances) -> None:
    asked: InstanceStore = store
    assert asked.load() == []


@pytest.mark.parametrize(
    "definition",
    [
        InstanceDefinition("g", "i", "i-x7", InstanceSettings()),
        SUBSCRIBED,
        InstanceDefinition("g", "i", "i-x7", SETTINGS, pattern="a.*"),
        InstanceDefinition("g", "i", "i-x7", SETTINGS, partitions=(TopicPartition("a", 0), TopicPartition("b", 7))),
    ],
)
def test_definition_is_loaded_as_stored(store: StoredInstances, definition: InstanceDefinition) -> None:
    store.create(InstanceDefinition("g", "i", "i-x7", definition.settings))
    store.update(definition)
    assert store.load() == [StoredInstance(definition, InstanceProgress())]


def test_owner_and_readable_topics_are_loaded_as_stored(store: StoredInstances) -> None:
    made = InstanceDefinition("g", "i", "i-x7", SETTINGS, owner="alice")
    store.create(made)
    subscribed = replace(made, pattern="a.*", readable=NameFilter((("a*",), ("*b",)), ("ab",)))
    store.update(subscribed)
    assert store.load() == [StoredInstance(subscribed, InstanceProgress())]


def test_tasks_are_found_by_their_owner_only(database: Database) -> None:
    tasks = StoredTasks(database)
    ids = {owner: new_task_id() for owner in ("alice", "bob", "")}
    tasks.add([NewTask(task_id, "t", 1.0, b"", None, owner) for owner, task_id in ids.items()])
    asked: list[str | None] = ["alice", "bob", "", None]

    def owners(listed: list[Task]) -> list[str]:
        return [each.owner for each in listed]

    assert [owners(tasks.list_tasks(None, "t", 10, None, each)) for each in asked] == [
        ["alice"],
        ["bob"],
        [],  # nobody owns what was stored without authentication
        ["alice", "bob", ""],
    ]
    found = {each: [owner for owner, task_id in ids.items() if tasks.find(task_id, each)] for each in asked}
    assert found == {"alice": ["alice"], "bob": ["bob"], "": [], None: ["alice", "bob", ""]}


def test_progress_is_loaded_after_reopening(tmp_path: Path, url: str) -> None:
    for _ in range(2):
        database = open_database(tmp_path, url)
        store = StoredInstances(database)
        store.create(SUBSCRIBED)
        store.save("g", "i", PROGRESS)
        database.close()
    database = open_database(tmp_path, url)
    assert StoredInstances(database).load() == [StoredInstance(SUBSCRIBED, PROGRESS)]
    database.close()


def test_update_keeps_the_progress(store: StoredInstances) -> None:
    store.create(SUBSCRIBED)
    store.save("g", "i", PROGRESS)
    store.update(InstanceDefinition("g", "i", "i-x7", SETTINGS))
    assert store.load() == [StoredInstance(InstanceDefinition("g", "i", "i-x7", SETTINGS), PROGRESS)]


def test_same_name_in_two_groups_is_two_instances(store: StoredInstances) -> None:
    store.create(SUBSCRIBED)
    with pytest.raises(InstanceExists):
        store.create(InstanceDefinition("g", "i", "i-y8", SETTINGS))
    store.create(InstanceDefinition("h", "i", "i-y8", SETTINGS))
    store.save("h", "i", PROGRESS)
    store.delete("g", "i")
    assert store.load() == [StoredInstance(InstanceDefinition("h", "i", "i-y8", SETTINGS), PROGRESS)]


def test_update_of_deleted_instance_has_no_effect(store: StoredInstances) -> None:
    store.delete("g", "i")
    store.update(SUBSCRIBED)
    store.save("g", "i", PROGRESS)
    assert store.load() == []


def test_concurrent_changes_are_all_stored(store: StoredInstances) -> None:
    names = [f"i{each}" for each in range(8)]
    refused: list[str] = []

    def write(name: str) -> None:
        store.create(InstanceDefinition("g", name, name, SETTINGS))
        for generation in range(50):
            store.save("g", name, InstanceProgress(generation, (OffsetEntry("a", 0, generation),)))
            try:
                store.create(InstanceDefinition("g", name, f"{name}-other", SETTINGS))
            except InstanceExists:
                refused.append(name)

    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 50 * len(names)
    assert {each.definition.name: each.progress for each in store.load()} == {
        name: InstanceProgress(49, (OffsetEntry("a", 0, 49),)) for name in names
    }


def test_claim_cluster_rejects_instances_of_another_cluster(store: StoredInstances) -> None:
    store.claim_cluster("one")
    store.claim_cluster("two")
    store.create(SUBSCRIBED)
    store.claim_cluster("two")
    with pytest.raises(Unavailable, match=r"1 consumer instances of the Kafka cluster two.*of the cluster one"):
        store.claim_cluster("one")
    store.delete("g", "i")
    store.claim_cluster("one")


def test_newer_schema_version_is_rejected(tmp_path: Path, url: str) -> None:
    database = open_database(tmp_path, url)
    database.write(lambda connection: write_meta(connection, "schema_version", "1000"))
    database.close()
    with pytest.raises(Unavailable, match=r"schema version 1000, .* a newer kafka_http has used it"):
        open_database(tmp_path, url)


def test_schema_steps_create_the_declared_columns(database: Database) -> None:
    def columns(name: str) -> set[str]:
        return database.write(lambda connection: {each["name"] for each in inspect(connection).get_columns(name)})

    assert columns("instances") == set(instances.c.keys())
    assert columns("meta") == set(meta.c.keys())
    assert columns("nodes") == set(nodes.c.keys())
    assert columns("idempotency_keys") == set(idempotency_keys.c.keys())


def test_sqlite_files_have_mode_0600(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    StoredInstances(database).create(SUBSCRIBED)
    files = list(tmp_path.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    database.close()


def test_file_that_is_not_a_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("something else, and long enough to be a page of SQLite's" * 100)
    with pytest.raises(Unavailable):
        open_database(tmp_path)


def test_locked_sqlite_file_is_unavailable(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        StoredInstances(database).create(SUBSCRIBED)
    other.execute("ROLLBACK")
    other.close()
    StoredInstances(database).create(SUBSCRIBED)
    database.close()


def test_waiting_changes_fail_together_during_outage(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    store = StoredInstances(database)
    other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        failures = [pool.submit(store.create, SUBSCRIBED).exception for _ in range(8)]
    assert {type(each()) for each in failures} == {Unavailable}
    assert time.monotonic() - began < scaled(8)  # twice the timeout of 2 s for the lock
    other.close()
    store.create(SUBSCRIBED)
    database.close()


def test_unreachable_postgresql_is_unavailable_without_showing_the_password(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        open_database(tmp_path, "postgresql://me:secret@127.0.0.1:1/none")
    assert "secret" not in refused.value.message


def test_connection_cut_by_postgresql_is_reopened(tmp_path: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.database(f"test_{uuid4().hex}")
    database = open_database(tmp_path, url)
    store = StoredInstances(database)
    store.create(SUBSCRIBED)
    others = "datname = current_database() AND pid != pg_backend_pid()"
    other = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with other.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")  # noqa: S608  no input
    other.dispose()
    store.save("g", "i", PROGRESS)
    assert store.load() == [StoredInstance(SUBSCRIBED, PROGRESS)]
    database.close()


def test_topic_ids_are_stored(url: str, tmp_path: Path) -> None:
    database = open_database(tmp_path, url)
    store = StoredInstances(database)
    store.create(SUBSCRIBED)
    store.save("g", "i", WITH_IDS)
    assert store.load() == [StoredInstance(SUBSCRIBED, WITH_IDS)]
    database.close()


def test_store_of_the_first_version_is_upgraded(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite")) as old:
        old.executescript(FIRST_VERSION)
    database = open_database(tmp_path)
    assert StoredInstances(database).load() == [StoredInstance(SUBSCRIBED, PROGRESS)]
    assert database.write(lambda connection: read_meta(connection, "schema_version")) == "5"
    database.close()


FIRST_VERSION = """
    CREATE TABLE meta (name VARCHAR(255) PRIMARY KEY NOT NULL, value TEXT NOT NULL);
    INSERT INTO meta VALUES ('schema_version', '1');
    CREATE TABLE instances (
        group_id VARCHAR(255) NOT NULL, name VARCHAR(255) NOT NULL, group_instance_id VARCHAR(255) NOT NULL,
        created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
        settings TEXT NOT NULL, topics TEXT NOT NULL, pattern TEXT, partitions TEXT NOT NULL,
        generation BIGINT, positions TEXT NOT NULL, delivered TEXT NOT NULL, committed TEXT NOT NULL,
        PRIMARY KEY (group_id, name));
    INSERT INTO instances VALUES ('g', 'i', 'i-x7', '2026-11-21 18:40:00',
        '{"format":"json","reset":"latest","auto_commit":false,"max_bytes":1,"timeout":2.5}', '["a","ü"]', NULL, '[]',
        3, '[["a",0,5,""]]', '[["a",0,4,"m"]]', '[["a",1,1152921504606846976,""]]');
"""


@pytest.fixture
def two(database: Database) -> tuple[StoredNodes, StoredNodes]:
    """Two nodes that share the store. The first one has an instance and a lease."""
    first, second = StoredNodes(database, "n1", "http://one"), StoredNodes(database, "n2", "http://two")
    StoredInstances(database, "n1").create(OF_ALICE)
    first.renew_lease()
    second.renew_lease()
    return first, second


def test_owner_of_an_instance_is_found_by_all_nodes(two: tuple[StoredNodes, StoredNodes]) -> None:
    for each in two:
        assert each.owner("g", "i") == InstanceOwner("n1", "http://one", is_gone=False, timeout=2.5)
        assert each.owner("g", "j") is None
    assert two[0].secret() == two[1].secret()
    assert len(two[0].secret()) > 30


def test_instance_with_valid_lease_is_not_adopted(two: tuple[StoredNodes, StoredNodes]) -> None:
    assert two[1].adopt("g", "i") is None
    assert two[1].expired_instances(0) == []


def test_instance_is_adopted_after_its_lease_was_released(
    two: tuple[StoredNodes, StoredNodes], database: Database
) -> None:
    first, second = two
    old, new = StoredInstances(database, "n1"), StoredInstances(database, "n2")
    old.save("g", "i", PROGRESS)
    first.release_lease()
    assert second.expired_instances(0) == [("g", "i")]
    assert second.adopt("g", "i") == StoredInstance(OF_ALICE, PROGRESS)
    first.renew_lease()
    assert first.adopt("g", "i") is None
    assert first.adopted_by_others([("g", "i"), ("g", "j")]) == [("g", "i")]
    old.save("g", "i", InstanceProgress())
    old.delete("g", "i")
    assert (old.load(), new.load()) == ([], [StoredInstance(OF_ALICE, PROGRESS)])


def test_live_nodes_are_the_others_that_have_a_lease(two: tuple[StoredNodes, StoredNodes]) -> None:
    first, second = two
    assert (first.live_others(), second.live_others()) == ({"n2": "http://two"}, {"n1": "http://one"})
    first.release_lease()
    assert second.live_others() == {}


def test_lease_expires_by_itself(two: tuple[StoredNodes, StoredNodes], database: Database) -> None:
    first, second = two

    def let_time_pass(connection: Connection) -> None:
        connection.execute(update(nodes).values(leased_until=nodes.c.leased_until - LEASE_SECONDS))

    database.write(let_time_pass)
    assert first.owner("g", "i") == InstanceOwner("n1", "http://one", is_gone=True, timeout=2.5)
    assert second.expired_instances(60) == []
    assert second.expired_instances(0) == [("g", "i")]
    first.renew_lease()
    assert second.adopt("g", "i") is None


def test_write_that_is_not_durable_does_not_wait_for_the_disk(database: Database) -> None:
    """The progress of a v2 instance is written with each page; only it may be lost if the machine crashes."""
    statement, durable, lazy = ("SHOW synchronous_commit", "on", "off") if database.is_shared else _SYNCHRONOUS

    def level(connection: Connection) -> object:
        return connection.exec_driver_sql(statement).scalar()

    levels = [database.write(level, durable=each) for each in (True, False, True)]
    assert levels == [durable, lazy, durable]


_SYNCHRONOUS = ("PRAGMA synchronous", 2, 1)
"""SQLite's FULL and NORMAL."""
