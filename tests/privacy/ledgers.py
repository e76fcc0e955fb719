"""Ledgers for tests: what is charged, a clock that is set by hand, a silo's two files, its crashes."""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from secagg.hazmat.identity import IdentityKey
from secagg.privacy.entries import Entry, genesis
from secagg.privacy.events import Event, Release, Unprotected
from secagg.privacy.heads import LedgerHead, sign_head
from secagg.privacy.ledger import DAY, Budget, Ledger
from silo.journal import Journal
from silo.ledger_file import LedgerFile, the_file

NAME = "brain"
NONCE = bytes(range(32))
START = 1_800_000_000
RECORD, SILO, BARE = Release("record", 20.0), Release("silo", 20.0), Unprotected()
BUDGET = Budget(epsilon=1.0, delta=1e-5, period_days=10)
"""Room for a few ``RECORD`` or ``SILO``."""


@dataclass
class Clock:
    """Unix seconds that are set by hand."""

    now: int = START

    def __call__(self) -> int:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += int(days * DAY)


@dataclass
class Kept:
    """What a pure ledger was told to keep."""

    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __call__(self, line: bytes, chain: bytes) -> None:
        self.pairs.append((line, chain))


def ledger(
    clock: Callable[[], int],
    *,
    budget: Budget | None = BUDGET,
    keep: Callable[[bytes, bytes], None] | None = None,
    lines: Sequence[tuple[bytes, bytes]] = (),
) -> Ledger:
    return Ledger(
        NAME, genesis=genesis(NAME, NONCE), lines=lines, budget=budget, keep=keep or Kept(), clock=clock
    )


def charge(held: Ledger, round: int = 1, *events: Event, **changes: Any) -> Entry:
    """Charge ``events``, or one ``RECORD``, as round ``round``."""
    fields: dict[str, Any] = {"federation": "clinics", "job": "job-1", "release": 1}
    training = round.to_bytes(32, "big")
    return held.charge(
        **fields | {"round": round, "training": training} | changes, events=events or (RECORD,)
    )


@contextmanager
def opened(
    folder: Path, *, budget: Budget | None = None, clock: Callable[[], int] = lambda: START
) -> Iterator[LedgerFile]:
    """Open a silo's ledger with the pin of its journal, as the silo does."""
    with (
        Journal(folder / "state", roster=bytes(32)) as journal,
        _ledger_file(folder, journal, budget, clock) as file,
    ):
        yield file


def _ledger_file(
    folder: Path, journal: Journal, budget: Budget | None, clock: Callable[[], int]
) -> LedgerFile:
    return LedgerFile(
        folder / "ledger",
        NAME,
        pin=journal.head(NAME),
        keep_pin=lambda entries, chain: journal.keep_head(NAME, entries, chain),
        budget=budget,
        clock=clock,
    )


def path_in(folder: Path) -> Path:
    return the_file(folder / "ledger", NAME)


def rounds(folder: Path) -> list[int]:
    """Open the ledger and return the rounds that it was charged for."""
    with opened(folder) as file:
        return [entry.round for entry in file.ledger.entries]


def epsilon(folder: Path) -> float:
    """Open the ledger and return what was spent on a record."""
    with opened(folder) as file:
        return file.ledger.spent("record")


@contextmanager
def in_memory(otherwise: Path) -> Iterator[Path]:
    """Give a folder in which a sync costs nothing, if there is one: thousands of silos die in it."""
    memory = Path("/dev/shm")  # noqa: S108 - a name of its own is made in it
    if not os.access(memory, os.W_OK):
        yield otherwise
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


# --- crashes ------------------------------------------------------------------------------------------------

WRITES = ("write", "pwrite")
SYNCS = ("fsync", "fdatasync")
STEPS = (*WRITES, *SYNCS, "ftruncate", "replace")


@dataclass(frozen=True)
class Kill:
    """Where a process is killed.

    Attributes:
        step: the how-manieth call or SQL statement, from 1; 0 for none.
        part: of it that is done before, in bytes of a write; None for all of it.
    """

    step: int
    part: int | None = 0


@dataclass
class Life:
    """What is known of a process that charged rounds until it was killed.

    Attributes:
        acknowledged: rounds whose ``charge`` returned.
        steps: calls and statements that it made, with the bytes of a write.
        synced: size of the ledger's file when it was synced last; None if it never was.
        named: whether the folder was synced too.
        killed: it was.
    """

    acknowledged: list[int] = field(default_factory=list)
    steps: list[tuple[str, int]] = field(default_factory=list)
    synced: int | None = None
    named: bool = False
    killed: bool = False


def live(folder: Path, numbers: Sequence[int], kill: Kill) -> Life:
    """Charge ``numbers`` in a process of its own that is killed at ``kill``."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # The child opens files, writes them and ends.
        child = os.fork()
    if not child:
        try:
            os.close(reading)
            mortal = _Mortal(kill, writing, path_in(folder))
            with Journal(folder / "state", roster=bytes(32)) as journal:
                journal._database.set_trace_callback(lambda _: mortal.step("sql"))
                with _ledger_file(folder, journal, None, lambda: START) as file:
                    for number in numbers:
                        charge(file.ledger, number)
                        mortal.say(f"acknowledged {number}")
        except BaseException:  # noqa: BLE001 - nothing may get back into the test's process
            traceback.print_exc()
            os._exit(9)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read().splitlines()
    _, status = os.waitpid(child, 0)
    life = Life(killed=os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
    assert life.killed or status == 0, "the process ended with an error"
    for word, _, value in (line.partition(" ") for line in said):
        match word:
            case "acknowledged":
                life.acknowledged.append(int(value))
            case "synced":
                life.synced = int(value)
            case "named":
                life.named = True
            case _:
                life.steps.append((word, int(value)))
    return life


class _Mortal:
    """Counts what this process does to files, tells it, and kills the process at one step.

    It is the child, which ends here: nothing that is patched is put back.
    """

    def __init__(self, kill: Kill, pipe: int, ledger_path: Path) -> None:
        self._kill = kill
        self._pipe = pipe
        self._path = ledger_path
        self._real = {name: getattr(os, name) for name in STEPS}
        self._taken = 0
        for name in STEPS:
            setattr(os, name, partial(self.step, name))

    def say(self, line: str) -> None:
        self._real["write"](self._pipe, f"{line}\n".encode())

    def step(self, name: str, *arguments: Any) -> Any:
        self._taken += 1
        size = len(arguments[1]) if name in WRITES else 0
        self.say(f"{name} {size}")
        if self._taken == self._kill.step and self._kill.part is not None:
            if size:
                self._real[name](arguments[0], arguments[1][: self._kill.part], *arguments[2:])
            os.kill(os.getpid(), signal.SIGKILL)
        synced = os.fstat(arguments[0]).st_size if name in SYNCS else 0
        result = self._real[name](*arguments) if name in self._real else None
        if name in SYNCS:
            about = Path(f"/proc/self/fd/{arguments[0]}").readlink()
            if about == self._path.parent:
                self.say("named 1")
            elif about.name.startswith(self._path.name):
                self.say(f"synced {synced}")
        if self._taken == self._kill.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def lose_power(folder: Path, life: Life, *, existed: bool, rest: int = 0) -> None:
    """Take from the ledger's file what was not synced, but for ``rest`` bytes of it.

    SQLite's own files are left: that it syncs what it commits is its own promise.
    """
    path = path_in(folder)
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        if not existed and not life.named:
            path.unlink()
        elif life.synced is not None:
            os.truncate(path, min(size, life.synced + rest))


ROUND = bytes([7]) * 32


def head_of(identity: IdentityKey, silo: str, ledger: Ledger, context: bytes = ROUND) -> LedgerHead:
    """Return the head as the silo says it in a round."""
    entries, chain = ledger.head
    return sign_head(identity, silo, ledger.data_set, entries=entries, chain=chain, context=context)
