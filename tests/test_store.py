"""The coordinator's memory: what was written is there for the next process, and who may write is one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coordinator.store import DATABASE, LOCK, SCHEMA, Store, Verdict
from secagg.errors import EnvironmentFault
from secagg.learning.history import Record
from secagg.masking.past import PastAttempt
from secagg.rounds.memory import Asked, Memory
from tests.test_model_file import RECORD
from tests.test_request import request

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC)
HALTED = Verdict(state="halted", exit=4, text="x SA-4102", failure=b"f")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    opened.add_run("a1", request(), asker="scientist:kim", now=NOW)
    yield opened
    opened.close()


def reopened(store: Store) -> Store:
    store.close()
    return Store(store.path.parent)


def test_a_run_is_there_for_the_next_process(store: Store) -> None:
    store.add_run("b2", request(name="second"), asker="operator:lee", now=LATER)
    store.end("b2", HALTED, now=LATER)
    again = reopened(store)
    first, second = again.runs()
    assert (first.id, first.request, first.asker, first.state) == (
        "a1",
        request(),
        "scientist:kim",
        "running",
    )
    assert (first.verdict, first.started, first.ended) == (None, NOW, None)
    assert (second.id, second.verdict, second.ended) == ("b2", HALTED, LATER)
    assert again.run("b2") == second
    assert again.run("c3") is None
    again.begin_again("b2")
    assert again.run("b2") == again.runs()[1]
    assert (again.runs()[1].verdict, again.runs()[1].ended) == (None, None)
    again.close()


def test_records_come_back_in_order(store: Store) -> None:
    second = Record(1, {}, RECORD.report.__class__(**vars(RECORD.report) | {"round": 2}))
    store.add_record("a1", second)
    store.add_record("a1", RECORD)
    again = reopened(store)
    assert again.records("a1") == (RECORD, second)
    assert again.records("b2") == ()
    again.close()


def test_a_round_is_opened_once(store: Store) -> None:
    store.add_record("a1", RECORD)
    with pytest.raises(EnvironmentFault, match="UNIQUE"):
        store.add_record("a1", RECORD)


def test_a_record_belongs_to_a_run(store: Store) -> None:
    with pytest.raises(EnvironmentFault, match="FOREIGN KEY"):
        store.add_record("zz", RECORD)


def test_what_is_known_of_an_attempt_is_there_and_earlier_rounds_are_not_forgotten(store: Store) -> None:
    past = PastAttempt(bytes(32), b"s" * 32, b"r" * 32)
    first = Memory(1, (Asked(b"r" * 32, ("a", "b", "c")),), (), (("a", "b"),), (past,))
    assert store.memory("a1", 1) == Memory()
    store.set_memory("a1", 1, Memory(1))
    store.set_memory("a1", 1, first)
    again = reopened(store)
    assert again.memory("a1", 1) == first
    assert again.memory("a1", 2) == Memory(past=(past,)), "the next round knows what may come late"
    again.add_run("b2", request(), asker="scientist:kim", now=NOW)
    assert again.memory("b2", 1) == Memory(past=(past,)), "and so does the next run"
    again.close()


def test_every_commit_is_synced(store: Store) -> None:
    with store._writing() as connection:  # A connection's settings are nowhere else.
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_what_a_killed_process_wrote_is_there(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from coordinator.store import Store
store = Store(Path({str(tmp_path)!r}))
from tests.test_request import request
from tests.test_store import NOW
store.add_run("a1", request(), asker="scientist:kim", now=NOW)
from secagg.rounds.memory import Memory
store.set_memory("a1", 1, Memory(3))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = Store(tmp_path)
    assert [run.id for run in store.runs()] == ["a1"]
    assert store.memory("a1", 1) == Memory(3)
    store.close()


def test_a_second_coordinator_is_told_of_the_first(store: Store, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=f"in use by another coordinator, process {os.getpid()}"):
        Store(tmp_path)
    again = reopened(store)
    assert not again.new
    again.close()


def test_another_version_is_refused_and_left_alone(store: Store, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute("UPDATE schema SET version = 9")
    database.close()
    for _ in range(2):  # The lock is free again after a refusal.
        with pytest.raises(EnvironmentFault, match=f"of version 9, this coordinator reads version {SCHEMA}"):
            Store(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(EnvironmentFault, match="not a database"):
        Store(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match=rf"{LOCK} cannot be written: No such file"):
        Store(tmp_path / "no")


def test_a_full_disk_is_said_so_and_shows_no_value(store: Store) -> None:
    with store._writing() as connection:  # SQLite's own limit stands for the disk's.
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(EnvironmentFault, match="is full") as caught:
        store.add_run("b2", request(app="a:" + "marked" * 4000), asker="scientist:kim", now=NOW)
    assert "marked" not in str(caught.value)
    assert [run.id for run in store.runs()] == ["a1"]
