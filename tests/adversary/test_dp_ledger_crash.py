"""Attack ``dp_ledger_crash``: make a silo forget what it spent of its privacy budget.

Whoever can kill the silo's process, cut its power, put back its files or set its clock tries to bring epsilon
down: at every write, between a charge and what it pays for, with older copies, with changed lines, with both
files of an older day. Whatever is put back, epsilon is what it was or the ledger refuses.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from secagg.errors import PrivacyBudgetExhausted
from secagg.hazmat.identity import IdentityKey
from secagg.privacy import heads as ledger_heads
from secagg.privacy.entries import Entry, LedgerDamaged
from secagg.privacy.events import Release
from secagg.privacy.heads import LedgerHead
from secagg.privacy.ledger import Ledger
from secagg.roster import Roster
from silo.ledger_file import LedgerFile
from silo.storage import StateFault
from tests.counts import count
from tests.privacy.ledgers import (
    BUDGET,
    RECORD,
    ROUND,
    START,
    Clock,
    Kill,
    charge,
    epsilon,
    head_of,
    in_memory,
    ledger,
    live,
    lose_power,
    opened,
    path_in,
    rounds,
)

IDENTITY = IdentityKey.from_private_bytes(bytes(32))
ROSTER = Roster.of({"north": IDENTITY.public})
PAID = [1, 2, 3]


def after(folder: Path) -> float | None:
    """Return what the ledger says was spent, or None if it refuses."""
    try:
        return epsilon(folder)
    except StateFault:
        return None


def crashes(folder: Path) -> list[str]:
    """Attack: kill the silo at each of its steps and cut its power; return where that helped."""
    numbers = PAID[: count(2, full=3)]
    steps = live(folder / "whole", numbers, Kill(0)).steps
    found = []
    for step in range(1, len(steps) + 1):
        for part in (0, None):
            place = folder / f"{step}-{part}"
            life = live(place, numbers, Kill(step, part))
            lose_power(place, life, existed=False)
            try:
                charged = rounds(place)
            except StateFault:
                found.append("locked out")
                continue
            if charged[: len(life.acknowledged)] != life.acknowledged:
                found.append("epsilon fell after a crash")
    return found


def older_files(folder: Path) -> list[str]:
    """Attack: put back an older ledger, or none."""
    live(folder, PAID[:1], Kill(0))
    path = path_in(folder)
    copy = shutil.copy(path, folder / "copy")
    live(folder, PAID[1:], Kill(0))
    spent, data, found = epsilon(folder), path.read_bytes(), []
    for name, put_back in (
        ("older", lambda: shutil.copy(copy, path)),
        ("gone", path.unlink),
        ("cut", lambda: path.write_bytes(data[: Path(copy).stat().st_size])),
    ):
        place = folder / name
        shutil.copytree(folder / "state", place / "state")
        put_back()
        shutil.copytree(folder / "ledger", place / "ledger")
        path.write_bytes(data)
        now = after(place)
        if now is not None and now < spent:
            found.append("epsilon fell with an older file")
    return found


def changed_lines(folder: Path) -> list[str]:
    """Attack: make what was released look better than it was."""
    with opened(folder) as file:
        for number in PAID:
            charge(file.ledger, number, Release("record", 2.0))
    path, spent, found = path_in(folder), epsilon(folder), []
    data = path.read_bytes()
    noise = data.index(b"noise_multiplier") + len(b"noise_multiplier")
    for at in range(noise, noise + 9):
        for flip in (1, 0x10, 0x40):
            path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
            now = after(folder)
            if now is not None and now < spent:
                found.append("epsilon fell with a changed line")
    return found


def clock_set_back(folder: Path) -> list[str]:
    """Attack: set the clock back, charge, and let it run on until just before anything is free."""
    clock = Clock()
    with opened(folder, budget=BUDGET, clock=clock) as file:
        allowed = charges(file.ledger)
        clock.pass_days(-2 * BUDGET.period_days)
        more = charges(file.ledger)
        clock.pass_days(3 * BUDGET.period_days - 1)
        more += charges(file.ledger)
    assert START < clock.now < START + BUDGET.period
    return ["the clock freed budget"] if allowed == 0 or more else []


def charges(held: Ledger) -> int:
    """Charge until the budget is spent; return how often."""
    for taken in range(100):
        try:
            charge(held, taken + 1)
        except PrivacyBudgetExhausted:
            return taken
    return 100


def whole_disks(_folder: Path) -> list[str]:
    """Attack: put back everything of an earlier day; a peer holds the last head."""
    held = ledger(Clock(), budget=None)
    heads: list[LedgerHead] = []
    for number in PAID:
        charge(held, number)
        heads.append(head_of(IDENTITY, "north", held))
    other = ledger(Clock(), budget=None)
    for number in reversed(PAID):
        charge(other, number, RECORD)
    put_back = [*heads[:-1], head_of(IDENTITY, "north", other)]
    faults = [ledger_heads.head_fault(ROSTER, "north", head, heads[-1], context=ROUND) for head in put_back]
    return ["a peer took an older ledger"] if None in faults else []


ATTACKS: dict[str, Callable[[Path], list[str]]] = {
    attack.__name__: attack for attack in (crashes, older_files, changed_lines, clock_set_back, whole_disks)
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with in_memory(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize("attack", ATTACKS)
def test_dp_ledger_crash(attack: str, place: Path) -> None:
    assert ATTACKS[attack](place) == []


# --- mutants ------------------------------------------------------------------------------------------------

_charge = Ledger.charge


def spent_after_release(self: Ledger, **named: Any) -> Entry:
    """Write the entry of a charge when the next one comes: what it paid for left before."""
    late = self.__dict__.setdefault("late", [])
    keep = self._keep
    self._keep = lambda line, chain: late.append((line, chain))
    for pair in [late.pop()] if late else []:
        keep(*pair)
    try:
        return _charge(self, **named)
    finally:
        self._keep = keep


def without_sync(self: LedgerFile, line: bytes, chain: bytes) -> None:
    self._end = self._append(len(line).to_bytes(4, "little") + line + chain + b"\n")
    self._keep_pin(self.ledger.head[0] + 1, chain)


def pin_first(self: LedgerFile, line: bytes, chain: bytes) -> None:
    self._keep_pin(self.ledger.head[0] + 1, chain)
    self._end = self._append(len(line).to_bytes(4, "little") + line + chain + b"\n")
    os.fdatasync(self._file)


def no_pin(_path: Path, _first: bytes, _pairs: object, _pin: object) -> None:
    """Believe whatever file there is."""


def any_line(_first: bytes, lines: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[Entry, bytes]]:
    """Read lines without a look at their chain."""
    for line, chain in lines:
        try:
            yield msgspec.msgpack.decode(line, type=Entry), chain
        except msgspec.MsgspecError:
            raise LedgerDamaged("no entry") from None


def clocks_word(self: Ledger) -> int:
    return self._clock()


def signed_is_right(
    _roster: Roster, _silo: str, _head: LedgerHead, _held: LedgerHead | None, *, context: bytes
) -> None:
    """Take any head."""


@pytest.mark.parametrize(
    ("attack", "defence", "mutant", "found"),
    [
        ("crashes", "secagg.privacy.ledger.Ledger.charge", spent_after_release, "epsilon fell after a crash"),
        ("crashes", "silo.ledger_file.LedgerFile._keep", without_sync, "locked out"),
        ("crashes", "silo.ledger_file.LedgerFile._keep", pin_first, "locked out"),
        ("older_files", "silo.ledger_file._check_pin", no_pin, "epsilon fell with an older file"),
        ("changed_lines", "secagg.privacy.ledger.read", any_line, "epsilon fell with a changed line"),
        ("clock_set_back", "secagg.privacy.ledger.Ledger._now", clocks_word, "the clock freed budget"),
        ("whole_disks", "secagg.privacy.heads.head_fault", signed_is_right, "a peer took an older ledger"),
    ],
)
def test_dp_ledger_crash_mutant(
    monkeypatch: pytest.MonkeyPatch,
    place: Path,
    attack: str,
    defence: str,
    mutant: Callable[..., Any],
    found: str,
) -> None:
    monkeypatch.setattr(defence, mutant)
    assert found in ATTACKS[attack](place)
