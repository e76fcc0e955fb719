"""The ledger of one data set on disk: a file that only grows, one line for each entry.

A line is on disk before the journal learns of it, and the journal's pin is on disk before a charge returns.
So after a crash the file ends with the pin's last line, or with one more; and a rest of a line behind it was
never paid with. A file with fewer lines than the pin, or with other ones, is refused, and never read as zero.

    header  magic, nonce (32 bytes), genesis (32 bytes)
    line    its length (4 bytes, little endian), the entry, the chain after it (32 bytes), a line feed

The line feed is not zero: where a power cut left room for a line and only some of it, the last byte tells.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, TypeAlias

from secagg.errors import EnvironmentFault, UsageError
from secagg.names import RandomSource
from secagg.operator_files import unreadable
from secagg.privacy.entries import MAX_LINE, NONCE_SIZE, LedgerDamaged, genesis
from secagg.privacy.ledger import Budget, Ledger
from silo.storage import StateFault, lock, make_folder, not_written, sync_folder

MAGIC = b"secagg ledger 1\n"
_CHAIN = 32
_SIZE = 4
_END = b"\n"
_HEADER = len(MAGIC) + NONCE_SIZE + _CHAIN

Pin: TypeAlias = tuple[int, bytes]
"""How many entries there were when the journal last heard of them, and the chain after the last."""


class LedgerFile:
    """The ledger of ``data_set`` in ``folder``, for one process at a time.

    Args:
        folder: made if it is not there, for this user alone.
        data_set: its name; a ledger is made when neither its file nor a pin is there.
        pin: what ``keep_pin`` was given last; None if it never was.
        keep_pin: writes number of entries and chain into the journal; they are on disk when it returns.
        budget: of the ledger.
        clock: unix seconds.
        random: the nonce of a new ledger is drawn from it.

    Attributes:
        ledger: to charge.
        path: the file.

    Raises:
        StateFault: the file is missing, damaged, of another data set or behind its pin; another process has
            it; the disk is full.

    Guarantees:
        What was charged is there after a crash at any later moment.
        A crash while a line is written, or between it and its pin, keeps nobody from opening it.
        A file that is cut, changed, foreign, older than its pin or gone is refused.
        A whole line is never taken out of the file.
    """

    def __init__(
        self,
        folder: Path,
        data_set: str,
        *,
        pin: Pin | None,
        keep_pin: Callable[[int, bytes], None],
        budget: Budget | None,
        clock: Callable[[], int],
        random: RandomSource = os.urandom,
    ) -> None:
        self.path = the_file(folder, data_set)
        self._keep_pin = keep_pin
        self._lock = self._file = -1
        self._unsure = False
        try:
            make_folder(folder)
            self._lock = lock(self.path, folder / f"{data_set}.lock")
            if pin is None and not self.path.exists():
                _make(self.path, data_set, random(NONCE_SIZE))
            found = read_lines(self.path, data_set, pin)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            self._end = found.end
            self.ledger = found.ledger(data_set, budget=budget, keep=self._keep, clock=clock)
            if self.ledger.head != pin:
                keep_pin(*self.ledger.head)
        except OSError as error:
            self.close()
            raise not_written(folder, error) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes have it."""
        for file in (self._file, self._lock):
            if file >= 0:
                os.close(file)
        self._file = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, line: bytes, chain: bytes) -> None:
        """Write a line, then its pin; on disk when this returns."""
        if self._file < 0:
            raise UsageError("the ledger is closed")
        if self._unsure:
            raise StateFault(f"the last line of {self.path} may be on disk; start again, nothing was sent")
        try:
            end = self._append(len(line).to_bytes(_SIZE, "little") + line + chain + _END)
            # A whole line counts when the file is read again. Until it is synced and pinned nobody knows.
            self._unsure = True
            os.fdatasync(self._file)
        except OSError as error:
            raise not_written(self.path.parent, error) from error
        self._keep_pin(self.ledger.head[0] + 1, chain)
        self._end, self._unsure = end, False

    def _append(self, line: bytes) -> int:
        """Write behind the last whole line and return where this one ends."""
        size = os.fstat(self._file).st_size
        if size < self._end:
            raise _damaged(self.path, "it was cut while it was open")
        if size > self._end:  # The rest of a line that a crash or a full disk cut off.
            os.ftruncate(self._file, self._end)
        written = 0
        while written < len(line):
            written += os.pwrite(self._file, line[written:], self._end + written)
        return self._end + written


@dataclass(frozen=True)
class Lines:
    """What is in the file.

    Attributes:
        nonce: of the header.
        pairs: (line, chain), which only a ``Ledger`` proves right.
        end: of the last whole line, in bytes.
        path: for the texts of errors.
    """

    nonce: bytes
    pairs: tuple[tuple[bytes, bytes], ...]
    end: int
    path: Path

    def ledger(
        self,
        data_set: str,
        *,
        budget: Budget | None,
        clock: Callable[[], int],
        keep: Callable[[bytes, bytes], None] | None = None,
    ) -> Ledger:
        """Return the ledger of these lines; without ``keep`` for reading only.

        Raises:
            StateFault: they are not those that were written.
        """
        try:
            return Ledger(
                data_set,
                genesis=genesis(data_set, self.nonce),
                lines=self.pairs,
                budget=budget,
                keep=keep or _refuse,
                clock=clock,
            )
        except LedgerDamaged as error:
            raise _damaged(self.path, str(error)) from error


def read_lines(path: Path, data_set: str, pin: Pin | None) -> Lines:
    """Read the file, wait until what was read is on disk, and compare it with its pin.

    Raises:
        StateFault: it is missing while there is a pin, cut, damaged, of another data set, or behind its pin.
        EnvironmentFault: it is missing, and there is no pin; it cannot be read.
    """
    data = _read(path, pin)
    nonce, first = data[len(MAGIC) : _HEADER - _CHAIN], data[_HEADER - _CHAIN : _HEADER]
    if not data.startswith(MAGIC) or first != genesis(data_set, nonce):
        raise _damaged(path, f"it does not begin as the ledger of data set {data_set}")
    pairs: list[tuple[bytes, bytes]] = []
    end = _HEADER
    while len(data) - end >= _SIZE:
        start = end + _SIZE
        stop = start + int.from_bytes(data[end:start], "little")
        if stop - start > MAX_LINE:
            raise _damaged(path, f"line {len(pairs) + 1} is too long for an entry")
        after = stop + _CHAIN + len(_END)
        if after > len(data) or not any(data[after - 1 :]):
            break  # Written in part: the rest is missing, or zeros.
        if data[after - 1 : after] != _END:
            raise _damaged(path, f"line {len(pairs) + 1} does not end as one")
        pairs.append((data[start:stop], data[stop : stop + _CHAIN]))
        end = after
    _check_pin(path, first, pairs, pin)
    if end < len(data) and pin is None:  # With one, no line that was paid with is written in part.
        raise _damaged(path, f"what is behind line {len(pairs)} is no line")
    return Lines(nonce, tuple(pairs), end, path)


def the_file(folder: Path, data_set: str) -> Path:
    """Return where the ledger of ``data_set`` lies."""
    return folder / f"{data_set}.ledger"


def _read(path: Path, pin: Pin | None) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read()
            os.fsync(file.fileno())  # A killed process may have left a line that is not on disk yet.
            return data
    except FileNotFoundError as error:
        if pin is None:
            raise EnvironmentFault(f"{path} is not there yet; `silo run` makes it") from error
        raise StateFault(
            f"{path} is missing, and it had {pin[0]} entries: what was spent of the data set cannot be told. "
            "Put the file back as it was last; without it nothing is released"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def _check_pin(path: Path, first: bytes, pairs: list[tuple[bytes, bytes]], pin: Pin | None) -> None:
    if pin is None:
        return
    entries, chain = pin
    if len(pairs) < entries:
        raise StateFault(
            f"{path} has {len(pairs)} entries, and had {entries}: it was cut, or an older copy was put in "
            "its place. Put the last one back; with this one nothing is released"
        )
    if chain != (pairs[entries - 1][1] if entries else first):
        raise _damaged(path, f"line {entries} is not the one that the journal knows")


def _make(path: Path, data_set: str, nonce: bytes) -> None:
    """Write a file without entries; whole or not at all."""
    new = path.with_name(path.name + ".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        header = MAGIC + nonce + genesis(data_set, nonce)
        if os.write(file, header) < len(header):
            raise OSError(None, "no room for the header")
        os.fdatasync(file)
    finally:
        os.close(file)
    new.replace(path)
    sync_folder(path.parent)


def _damaged(path: Path, why: str) -> StateFault:
    return StateFault(
        f"{path} is damaged ({why}), so what was spent of the data set cannot be told. Put back the file "
        "as it was last, never an older copy; without it nothing is released"
    )


def _refuse(_line: bytes, _chain: bytes) -> NoReturn:
    raise UsageError("this ledger was opened for reading")
