"""A silo's state folder against crashes, damage, full disks and second processes; all of them real."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secagg.errors import EnvironmentFault, TrustError, UsageError
from secagg.learning.workload import Pin
from secagg.names import IntegerVector
from secagg.records import AttemptJoined, Released, SiloRecord
from silo.journal import SCHEMA, Journal
from silo.storage import StateFault
from tests.samples import SILO_RECORDS, of

ROSTER, OTHER = bytes(32), bytes([7]) * 32
JOB = ("brains", "job-1")


def journal(folder: Path, *, roster: bytes = ROSTER, pin: bool = False) -> Journal:
    return Journal(folder / "state", roster=roster, pin=pin)


def attempt(number: int) -> AttemptJoined:
    return AttemptJoined(*JOB, 1, number)


MODEL = Pin(*JOB, 3, bytes(range(32)))


VECTORS: tuple[IntegerVector, ...] = (
    np.arange(1000, dtype=np.uint32),
    np.arange(1000, dtype=np.uint64) << np.uint64(40),
)


# --- what is kept -------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.sampled_from(SILO_RECORDS).flatmap(of), max_size=4), max_size=4))
def test_records_come_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[SiloRecord]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    with journal(folder) as opened:
        for records in calls:
            opened.sync(records)
    with journal(folder) as opened:
        assert opened.records == tuple(record for records in calls for record in records)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: str(v.dtype))
def test_the_cached_vector_comes_back(tmp_path: Path, vector: IntegerVector) -> None:
    with journal(tmp_path) as opened:
        opened.cache[b"a" * 32] = vector
        assert opened.cache[b"a" * 32] is vector
    with journal(tmp_path) as opened:
        assert list(opened.cache) == [b"a" * 32]
        assert opened.cache[b"a" * 32].dtype == vector.dtype
        np.testing.assert_array_equal(opened.cache[b"a" * 32], vector)
        opened.cache[b"b" * 32] = VECTORS[0]
        assert list(opened.cache) == [b"b" * 32]
    with journal(tmp_path) as opened:
        assert list(opened.cache) == [b"b" * 32]
        opened.cache.clear()
    with journal(tmp_path) as opened:
        assert not opened.cache


def test_what_the_model_was_comes_back(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        assert opened.model is None
        opened.keep(Pin(*JOB, 2, bytes(32)))
        opened.keep(MODEL)
    with journal(tmp_path) as opened:
        assert opened.model == MODEL


def test_only_this_user_may_read_the_folder(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.cache[b"a" * 32] = VECTORS[0]
        assert opened.folder.stat().st_mode & 0o077 == 0
        assert (opened.folder / "vector").stat().st_mode & 0o077 == 0


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    opened = journal(tmp_path)
    opened.close()
    opened.close()
    with pytest.raises(UsageError):
        opened.sync([attempt(1)])


# --- pins ---------------------------------------------------------------------------------------------------


def test_another_roster_is_refused_until_it_is_pinned_on_purpose(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.sync([attempt(1)])
    with pytest.raises(TrustError, match="silo roster pin"):
        journal(tmp_path, roster=OTHER)
    with journal(tmp_path, roster=OTHER, pin=True) as opened:
        assert opened.records == (attempt(1),)
    with pytest.raises(TrustError):
        journal(tmp_path)
    journal(tmp_path, roster=OTHER).close()


def test_every_commit_is_synced(tmp_path: Path) -> None:
    """What no test can see without cutting the power: SQLite is told to wait for the disk."""
    with journal(tmp_path) as opened:
        asked = {
            name: opened._database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "journal_mode")
        }
    assert asked == {"synchronous": 2, "journal_mode": "wal"}


# --- crashes ------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
import numpy as np
from silo.journal import Journal
from secagg.records import AttemptJoined

with Journal(Path(sys.argv[1]), roster=bytes(32)) as journal:
    print("open", flush=True)
    for number in range(1, 1_000_000):
        journal.sync([AttemptJoined("brains", "job-1", round, number) for round in (1, 2)])
        journal.cache[number.to_bytes(32, "big")] = np.full(50_000, number, np.uint32)
        print(number, flush=True)
"""


@contextmanager
def writer(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITER, str(folder / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("acknowledged", [1, 2, 7, 20])
def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, acknowledged: int) -> None:
    with writer(tmp_path) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < acknowledged:
            pass
        process.send_signal(signal.SIGKILL)
        said = [acknowledged, *map(int, process.stdout.read().split())]
    last = max(said)
    with journal(tmp_path) as opened:
        # One more may have been synced and not yet acknowledged; of each call, both records or none.
        numbers = [record.attempt for record in opened.records if isinstance(record, AttemptJoined)]
        assert numbers[1::2] == numbers[::2]
        assert numbers[::2] in (list(range(1, last + 1)), list(range(1, last + 2)))
        ((digest, vector),) = opened.cache.items()
        cached = int.from_bytes(digest, "big")
        assert cached in (last, last + 1)
        assert set(vector) == {cached}
        assert not list(opened.folder.glob("*.new"))


def test_a_second_process_is_told_who_has_the_folder(tmp_path: Path) -> None:
    with writer(tmp_path) as process, pytest.raises(StateFault, match=f"process {process.pid}"):
        journal(tmp_path)
    journal(tmp_path).close()


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["empty", "torn", "bit", "longer", "foreign"])
def test_a_damaged_vector_counts_as_absent(tmp_path: Path, damage: str) -> None:
    with journal(tmp_path) as opened:
        opened.cache[b"a" * 32] = VECTORS[0]
        file = opened.folder / "vector"
    data = file.read_bytes()
    match damage:
        case "empty":
            data = b""
        case "torn":
            data = data[: len(data) // 2]
        case "bit":
            data = data[:100] + bytes([data[100] ^ 1]) + data[101:]
        case "longer":
            data += b"\0"
        case _:
            data = os.urandom(4000)
    file.write_bytes(data)
    with journal(tmp_path) as opened:
        assert b"a" * 32 not in opened.cache
        opened.cache[b"b" * 32] = VECTORS[1]
    with journal(tmp_path) as opened:
        assert b"b" * 32 in opened.cache


def test_a_damaged_vector_is_said_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with journal(tmp_path) as opened:
        opened.cache[b"a" * 32] = VECTORS[0]
        (opened.folder / "vector").write_bytes(b"torn")
    journal(tmp_path).close()
    assert "a damaged file is ignored" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["header", "page", "bit", "torn"])
def test_damaged_records_stop_the_silo(tmp_path: Path, damage: str) -> None:
    with journal(tmp_path) as opened:
        opened.sync([attempt(number) for number in range(1, 400)])
        file = opened.folder / "journal.sqlite3"
    data = bytearray(file.read_bytes())
    match damage:
        case "header":
            data[:64] = os.urandom(64)
        case "page":
            data[4096:4160] = bytes(64)
        case "bit":
            data[data.rindex(b"job-1")] ^= 1
        case _:
            del data[len(data) // 2 :]
    file.write_bytes(data)
    with pytest.raises(StateFault, match="damaged"):
        journal(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM record WHERE number = 2",
        "UPDATE record SET number = 9 WHERE number = 1",
        "INSERT INTO record (line, chain) VALUES (x'c1', zeroblob(32))",
    ],
)
def test_records_that_are_not_as_they_were_synced_stop_the_silo(tmp_path: Path, change: str) -> None:
    with journal(tmp_path) as opened:
        opened.sync(list(map(attempt, (1, 2, 3))))
        file = opened.folder / "journal.sqlite3"
    with sqlite3.connect(file) as database:
        database.execute(change)
    database.close()
    with pytest.raises(StateFault, match="damaged"):
        journal(tmp_path)


def test_a_journal_of_another_version_is_left_alone(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        file = opened.folder / "journal.sqlite3"
    with sqlite3.connect(file) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    database.close()
    before = file.read_bytes()
    with pytest.raises(StateFault, match=f"schema {SCHEMA + 1}"):
        journal(tmp_path)
    assert file.read_bytes() == before


def test_a_foreign_database_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with sqlite3.connect(tmp_path / "state" / "journal.sqlite3") as database:
        database.execute("PRAGMA application_id = 1")
    database.close()
    with pytest.raises(StateFault, match="damaged"):
        journal(tmp_path)


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        half = opened.folder / "vector.new"
        half.write_bytes(b"half")
    journal(tmp_path).close()
    assert not half.exists()


# --- no space -----------------------------------------------------------------------------------------------


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill(opened: Journal, synced: list[SiloRecord]) -> None:
    """Sync records until it fails; ``synced`` are those that did not."""
    for number in range(1, 10_000):
        opened.sync([attempt(number)])
        synced.append(attempt(number))


def test_a_vector_without_space_leaves_the_old_one(tmp_path: Path) -> None:
    with journal(tmp_path) as opened:
        opened.cache[b"a" * 32] = VECTORS[0]
        with files_end_at(64 * 1024), pytest.raises(StateFault, match=os.strerror(errno.EFBIG)):
            opened.cache[b"b" * 32] = np.zeros(100_000, np.uint32)
        assert list(opened.cache) == [b"a" * 32]
        assert not list(opened.folder.glob("*.new"))
    with journal(tmp_path) as opened:
        assert list(opened.cache) == [b"a" * 32]


def test_records_without_space_are_not_acknowledged(tmp_path: Path) -> None:
    synced: list[SiloRecord] = []
    with journal(tmp_path) as opened:
        with files_end_at(64 * 1024), pytest.raises(StateFault, match="nothing was sent"):
            fill(opened, synced)
        opened.sync([Released(bytes(32))])
    assert synced
    with journal(tmp_path) as opened:
        assert opened.records == (*synced, Released(bytes(32)))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        with journal(tmp_path) as opened:
            with pytest.raises(EnvironmentFault, match="is full; free space and start again"):
                opened.cache[b"a" * 32] = np.zeros(100_000, np.uint32)
            with pytest.raises(EnvironmentFault, match="is full; free space and start again"):
                fill(opened, [])
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StateFault, match="make it writable"):
        journal(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(StateFault, match=os.strerror(errno.EEXIST)):
        journal(tmp_path)
