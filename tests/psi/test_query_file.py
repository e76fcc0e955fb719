"""The file of what partners asked about: what it counted stays counted, whatever crashes."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from secagg.errors import PolicyRefused
from secagg.psi.queries import DAY, Asked, QueryLimits
from silo.psi.queries import FILE, QueryFile
from silo.storage import StateFault

LIMITS = QueryLimits(queries=1024, period_days=30)
ONE, TWO = bytes(32), bytes([1]) * 32


class Clock:
    now = 5.0 * DAY

    def __call__(self) -> float:
        return self.now


def queries(folder: Path, clock: Any = None) -> QueryFile:
    return QueryFile(folder / "ledger", LIMITS, clock=clock or Clock())


def test_what_was_counted_is_there_for_every_process(tmp_path: Path) -> None:
    """Guarantee of ``QueryFile``."""
    queries(tmp_path).count(ONE, "shop", 512)
    queries(tmp_path).count(TWO, "shop", 512)
    assert queries(tmp_path).asked("shop") == 1024
    assert queries(tmp_path).asked("insurer") == 0
    with pytest.raises(PolicyRefused, match="shop brings 64 records, padded, and brought 1024"):
        queries(tmp_path).count(bytes([2]) * 32, "shop", 64)
    queries(tmp_path).count(bytes([2]) * 32, "insurer", 1024)


def test_nothing_is_asked_before_there_is_a_file(tmp_path: Path) -> None:
    assert queries(tmp_path).asked("shop") == 0
    assert not list(tmp_path.iterdir())


def test_a_session_that_goes_on_writes_no_line(tmp_path: Path) -> None:
    for _ in range(3):
        queries(tmp_path).count(ONE, "shop", 1024)
    assert (tmp_path / "ledger" / FILE).read_bytes().count(b"\n") == 1


def test_what_is_over_is_forgotten_and_stays_in_the_file(tmp_path: Path) -> None:
    """Guarantee: nothing is taken out."""
    clock = Clock()
    queries(tmp_path, clock).count(ONE, "shop", 1024)
    before = (tmp_path / "ledger" / FILE).read_bytes()
    clock.now += 30 * DAY
    assert queries(tmp_path, clock).asked("shop") == 0
    queries(tmp_path, clock).count(TWO, "shop", 1024)
    assert (tmp_path / "ledger" / FILE).read_bytes().startswith(before)


def test_it_is_for_this_user_alone(tmp_path: Path) -> None:
    queries(tmp_path).count(ONE, "shop", 64)
    for path in (tmp_path / "ledger", tmp_path / "ledger" / FILE):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_cut_anywhere_a_line_is_there_or_was_never_answered_for(tmp_path: Path) -> None:
    file = tmp_path / "ledger" / FILE
    queries(tmp_path).count(ONE, "shop", 512)
    first = file.read_bytes()
    queries(tmp_path).count(TWO, "shop", 512)
    whole = file.read_bytes()
    for end in range(len(first), len(whole)):
        for rest in (b"", bytes(20)):  # Zeros, where a power cut left room for a line.
            file.write_bytes(whole[:end] + rest)
            assert queries(tmp_path).asked("shop") == 512
            queries(tmp_path).count(TWO, "shop", 512)
            assert file.read_bytes() == whole


@pytest.mark.parametrize("content", [b"no line\n", b"{}\n", b"\n", b'{"partner":"shop"}\n'])
def test_a_damaged_file_stops_every_answer(tmp_path: Path, content: bytes) -> None:
    queries(tmp_path).count(ONE, "shop", 64)
    file = tmp_path / "ledger" / FILE
    file.write_bytes(content + file.read_bytes())
    with pytest.raises(StateFault, match="is damaged"):
        queries(tmp_path).count(TWO, "insurer", 64)
    with pytest.raises(StateFault, match="is damaged"):
        queries(tmp_path).asked("shop")


def test_a_clock_that_is_put_back_gives_nothing_back(tmp_path: Path) -> None:
    clock = Clock()
    queries(tmp_path, clock).count(ONE, "shop", 1024)
    for days in (1, 40, 400):
        clock.now -= days * DAY
        assert queries(tmp_path, clock).asked("shop") == 1024
        with pytest.raises(PolicyRefused):
            queries(tmp_path, clock).count(TWO, "shop", 64)


@pytest.mark.parametrize("failing", ["pwrite", "fsync", "ftruncate"])
def test_what_is_not_on_disk_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(StateFault, match="full"):
        queries(tmp_path).count(ONE, "shop", 64)


def test_two_that_count_at_once_stay_within_the_limit_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock belongs to an open file, so two threads are to each other what two processes are."""
    read, inside, second = QueryFile._read, threading.Event(), threading.Event()

    def held(self: QueryFile, file: int) -> tuple[list[Asked], int]:
        known = read(self, file)
        if not inside.is_set():
            inside.set()
            second.wait(0.2)  # Without the lock the other would come to its end by now.
        return known

    monkeypatch.setattr(QueryFile, "_read", held)

    def other() -> bool:
        inside.wait()
        try:
            return counted(TWO)
        finally:
            second.set()

    def counted(session: bytes) -> bool:
        with suppress(PolicyRefused):
            queries(tmp_path).count(session, "shop", 1024)
            return True
        return False

    with ThreadPoolExecutor(2) as threads:
        ends = threads.submit(counted, ONE), threads.submit(other)
    assert [end.result() for end in ends] == [True, False]
    assert queries(tmp_path).asked("shop") == 1024
