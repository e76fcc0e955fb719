"""The ledger's file against damage, older copies, full disks and second processes; all of them real."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from secagg.errors import EnvironmentFault, PrivacyBudgetExhausted, UsageError
from secagg.privacy.entries import genesis, link
from secagg.privacy.ledger import Budget
from silo.journal import Journal, read_head
from silo.ledger_file import LedgerFile, read_lines
from silo.storage import InUse, StateFault
from tests.counts import count
from tests.privacy.ledgers import BUDGET, NAME, RECORD, START, Clock, charge, opened, path_in, rounds
from tests.test_silo_journal import files_end_at


def filled(folder: Path, *numbers: int) -> Path:
    with opened(folder) as file:
        for number in numbers:
            charge(file.ledger, number)
    return path_in(folder)


def until_refused(file: LedgerFile) -> None:
    """Charge until the budget is spent."""
    with suppress(PrivacyBudgetExhausted):
        for number in range(1, 100):
            charge(file.ledger, number)


def fill(file: LedgerFile, charged: list[int]) -> None:
    """Charge until it fails; ``charged`` are the rounds that did not."""
    for number in range(1, 10_000):
        charge(file.ledger, number)
        charged.append(number)


def nothing(_entries: int, _chain: bytes) -> None:
    """Keep no pin."""


# --- what is kept -------------------------------------------------------------------------------------------


def test_what_was_charged_comes_back_and_is_pinned(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        entries = [charge(file.ledger, number) for number in (1, 2, 3)]
        head = file.ledger.head
    assert read_head(tmp_path / "state", NAME) == head
    with opened(tmp_path) as file:
        assert file.ledger.entries == tuple(entries)
        assert file.ledger.head == head


def test_what_was_spent_in_one_process_is_missing_in_the_next(tmp_path: Path) -> None:
    with opened(tmp_path, budget=BUDGET) as file:
        until_refused(file)
    size = path_in(tmp_path).stat().st_size
    with opened(tmp_path, budget=BUDGET) as file, pytest.raises(PrivacyBudgetExhausted):
        charge(file.ledger, 100)
    assert path_in(tmp_path).stat().st_size == size


def test_a_ledger_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = filled(tmp_path, 1)
    assert {(p.name, p.stat().st_mode & 0o777) for p in path.parent.iterdir()} == {
        (f"{NAME}.ledger", 0o600),
        (f"{NAME}.lock", 0o600),
    }
    assert path.parent.stat().st_mode & 0o077 == 0


def test_ledgers_of_two_data_sets_share_a_folder_and_nothing_else(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    folder = path_in(tmp_path).parent
    with LedgerFile(folder, "heart", pin=None, keep_pin=nothing, budget=None, clock=lambda: START) as file:
        assert file.ledger.entries == ()
        charge(file.ledger, 7)
    assert rounds(tmp_path) == [1]


def test_a_whole_line_is_never_taken_out(tmp_path: Path) -> None:
    """A line whose pin could not be written counts, and nothing is written in its place."""

    def fail(_entries: int, _chain: bytes) -> None:
        raise StateFault("the disk is full")

    filled(tmp_path, 1)
    with Journal(tmp_path / "state", roster=bytes(32)) as journal:
        folder, pin = path_in(tmp_path).parent, journal.head(NAME)
        with LedgerFile(folder, NAME, pin=pin, keep_pin=fail, budget=None, clock=lambda: START) as file:
            with pytest.raises(StateFault, match="full"):
                charge(file.ledger, 2)
            assert len(file.ledger.entries) == 1
            with pytest.raises(StateFault, match="start again, nothing was sent"):
                charge(file.ledger, 3)
    assert rounds(tmp_path) == [1, 2]


def test_a_closed_ledger_takes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        held = file.ledger
    file.close()
    with pytest.raises(UsageError, match="closed"):
        charge(held)
    assert rounds(tmp_path) == []


def test_a_ledger_that_was_opened_for_reading_takes_nothing(tmp_path: Path) -> None:
    path = filled(tmp_path, 1)
    held = read_lines(path, NAME, None).ledger(NAME, budget=None, clock=lambda: START)
    with pytest.raises(UsageError, match="for reading"):
        charge(held, 2)
    assert [entry.round for entry in held.entries] == [1]


def test_another_process_is_told_who_has_it_and_may_read(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    script = (
        "import sys; from pathlib import Path; from tests.privacy.ledgers import opened, charge\n"
        "with opened(Path(sys.argv[1])) as file:\n"
        "    charge(file.ledger, 2); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        path, pin = path_in(tmp_path), read_head(tmp_path / "state", NAME)
        with pytest.raises(InUse, match=f"process {process.pid}"):
            LedgerFile(path.parent, NAME, pin=pin, keep_pin=nothing, budget=None, clock=lambda: START)
        found = read_lines(path, NAME, pin).ledger(NAME, budget=None, clock=lambda: START)
        assert [entry.round for entry in found.entries] == [1, 2]
        process.communicate()
    assert rounds(tmp_path) == [1, 2]


# --- damage -------------------------------------------------------------------------------------------------


def refuses_or_keeps(folder: Path, expected: list[int], text: str = "") -> bool:
    """Whether the ledger is refused; if it is not, it has what it had."""
    try:
        found = rounds(folder)
    except StateFault as error:
        refusal = str(error)
    else:
        assert found == expected, "epsilon fell"
        return False
    assert text in refusal
    assert "nothing is released" in refusal
    return True


def test_a_ledger_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path, 1, 2, 3)
    data = path.read_bytes()
    for size in range(0, len(data), count(11, full=1)):
        path.write_bytes(data[:size])
        assert refuses_or_keeps(tmp_path, [1, 2, 3]), f"cut to {size} bytes"
    path.write_bytes(data)
    assert rounds(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("flip", [1, 0x80, 0xFF])
def test_a_changed_byte_is_refused_wherever_it_is(tmp_path: Path, flip: int) -> None:
    path = filled(tmp_path, 1, 2, 3)
    data = path.read_bytes()
    for at in range(0, len(data), count(13, full=1)):
        path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
        assert refuses_or_keeps(tmp_path, [1, 2, 3]), f"byte {at}"


def test_a_zeroed_part_is_refused_wherever_it_is(tmp_path: Path) -> None:
    path = filled(tmp_path, 1, 2, 3)
    data = path.read_bytes()
    for at in range(0, len(data), count(17, full=1)):
        path.write_bytes(data[:at] + bytes(len(data) - at))
        assert refuses_or_keeps(tmp_path, [1, 2, 3]), f"zeros from byte {at}"


@pytest.mark.parametrize(
    ("rest", "refused"),
    [
        (b"\n", False),  # Fewer bytes than the length of a line: a crash may leave them.
        (bytes(1000), False),
        (b"\x10\0\0\0 part of a line", False),
        (b"\xff\xff\xff\xff", True),
        (b"\x03\0\0\0abc" + bytes(32) + b"\n", True),
        (b"\x03\0\0\0abc" + bytes(32) + b"x", True),
        (bytes(100) + b"x" * 100, True),
    ],
)
def test_what_follows_the_last_line_is_a_part_of_one_or_refused(
    tmp_path: Path, rest: bytes, refused: bool
) -> None:
    path = filled(tmp_path, 1, 2)
    path.write_bytes(path.read_bytes() + rest)
    assert refuses_or_keeps(tmp_path, [1, 2], "damaged") == refused
    if not refused:
        filled(tmp_path, 3)
        assert rounds(tmp_path) == [1, 2, 3]
        assert path.read_bytes().count(b"job-1") == 3


def test_a_part_of_a_line_is_refused_where_no_pin_says_that_it_was_not_paid_with(tmp_path: Path) -> None:
    path = filled(tmp_path, 1)
    shutil.rmtree(tmp_path / "state")
    path.write_bytes(path.read_bytes()[:-1])
    assert refuses_or_keeps(tmp_path, [], "damaged")


@pytest.mark.parametrize("size", [0, 1, 79])
def test_a_torn_header_is_refused_even_before_the_first_charge(tmp_path: Path, size: int) -> None:
    path = filled(tmp_path)
    os.truncate(path, size)
    assert refuses_or_keeps(tmp_path, [])
    shutil.rmtree(tmp_path / "state")
    assert refuses_or_keeps(tmp_path, [])


def test_a_ledger_of_another_data_set_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path, 1)
    with LedgerFile(
        tmp_path / "other", "heart", pin=None, keep_pin=nothing, budget=None, clock=lambda: START
    ) as file:
        charge(file.ledger, 1)
    shutil.copy(file.path, path)
    assert refuses_or_keeps(tmp_path, [1], "does not begin as the ledger of data set brain")


def test_a_new_ledger_in_the_place_of_a_ledger_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "new", 1, 2)
    path = filled(tmp_path, 1, 2)
    shutil.copy(path_in(tmp_path / "new"), path)
    assert refuses_or_keeps(tmp_path, [1, 2], "line 2 is not the one that the journal knows")


def test_lines_that_were_made_up_are_refused(tmp_path: Path) -> None:
    """Whoever rewrites the whole chain still does not know what the journal knows."""
    path = filled(tmp_path, 1, 2)
    found = read_lines(path, NAME, None)
    data, chain = path.read_bytes()[:80], genesis(NAME, found.nonce)
    for line, _ in found.pairs:
        cheaper = line.replace(b"job-1", b"job-2")
        chain = link(chain, cheaper)
        data += len(cheaper).to_bytes(4, "little") + cheaper + chain + b"\n"
    path.write_bytes(data)
    assert refuses_or_keeps(tmp_path, [1, 2], "not the one that the journal knows")


def test_a_ledger_that_is_cut_while_it_is_open_takes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        charge(file.ledger, 1)
        os.truncate(file.path, 200)
        with pytest.raises(StateFault, match="cut while it was open"):
            charge(file.ledger, 2)


# --- older copies -------------------------------------------------------------------------------------------


def without(path: Path, _copy: Path) -> None:
    path.unlink()


def put_back(path: Path, copy: Path) -> None:
    shutil.copy(copy, path)


@pytest.mark.parametrize("lost", [without, put_back])
def test_an_older_copy_or_none_is_refused(tmp_path: Path, lost: Callable[[Path, Path], None]) -> None:
    path = filled(tmp_path, 1)
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    filled(tmp_path, 2)
    last = path.read_bytes()
    lost(path, copy)
    assert refuses_or_keeps(tmp_path, [1, 2], "had 2")
    assert path.exists() == (lost is put_back), "a ledger was made in the place of the lost one"
    path.write_bytes(last)
    assert rounds(tmp_path) == [1, 2]


def test_the_folder_of_the_ledger_may_not_be_taken_away(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    shutil.rmtree(tmp_path / "ledger")
    assert refuses_or_keeps(tmp_path, [1], "is missing")


def test_an_older_journal_or_a_new_one_takes_nothing_from_the_ledger(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    shutil.copytree(tmp_path / "state", tmp_path / "older")
    filled(tmp_path, 2, 3)
    shutil.rmtree(tmp_path / "state")
    shutil.copytree(tmp_path / "older", tmp_path / "state")
    assert rounds(tmp_path) == [1, 2, 3]
    shutil.rmtree(tmp_path / "state")
    assert rounds(tmp_path) == [1, 2, 3]
    head = read_head(tmp_path / "state", NAME)
    assert head is not None
    assert head[0] == 3


def test_a_missing_ledger_is_made_only_where_there_never_was_one(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="is not there yet; `silo run` makes it"):
        read_lines(path_in(tmp_path), NAME, None)
    assert rounds(tmp_path) == []
    path_in(tmp_path).unlink()
    assert refuses_or_keeps(tmp_path, [], "is missing, and it had 0 entries")


# --- no space -----------------------------------------------------------------------------------------------


def test_without_space_nothing_is_charged_and_later_charges_are_right(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        charge(file.ledger, 1)
        head, size = file.ledger.head, file.path.stat().st_size
        with files_end_at(size + 100), pytest.raises(StateFault, match=os.strerror(errno.EFBIG)):
            charge(file.ledger, 2)
        assert file.ledger.head == head
        charge(file.ledger, 3)
    assert rounds(tmp_path) == [1, 3]


def test_a_ledger_that_finds_no_space_is_not_made_in_part(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "state", roster=bytes(32)) as journal,
        files_end_at(40),
        pytest.raises(StateFault, match="nothing was sent"),
    ):
        LedgerFile(
            tmp_path / "ledger",
            NAME,
            pin=journal.head(NAME),
            keep_pin=nothing,
            budget=None,
            clock=lambda: START,
        )
    assert not path_in(tmp_path).exists()
    assert rounds(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    charged, filler = list[int](), tmp_path / "filler"
    try:
        filler.write_bytes(bytes(64 * 1024))
        with opened(tmp_path) as file, pytest.raises(EnvironmentFault, match="is full; free space"):
            fill(file, charged)
        assert charged
        with pytest.raises(EnvironmentFault, match="is full; free space"):
            rounds(tmp_path)  # A line may be ahead of its pin, which finds no space either.
        filler.unlink()
        assert rounds(tmp_path)[: len(charged)] == charged
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_failed_sync_is_not_taken_for_a_charge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it nobody knows what is on disk: no charge returns until the file was read again."""

    def fail(_file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(tmp_path) as file:
        charge(file.ledger, 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(StateFault, match=os.strerror(errno.EIO)):
                charge(file.ledger, 2)
        with pytest.raises(StateFault, match="may be on disk; start again"):
            charge(file.ledger, 3)
        assert len(file.ledger.entries) == 1
    assert rounds(tmp_path) == [1, 2]


def test_a_clock_that_was_set_back_frees_nothing_after_a_start_either(tmp_path: Path) -> None:
    clock = Clock()
    budget = Budget(epsilon=1.0, period_days=10)
    with opened(tmp_path, budget=budget, clock=clock) as file:
        charge(file.ledger, 1, RECORD)
        spent = file.ledger.spent("record")
    clock.pass_days(-400)
    with opened(tmp_path, budget=budget, clock=clock) as file:
        assert file.ledger.spent("record") == spent
        assert charge(file.ledger, 2).time == START
