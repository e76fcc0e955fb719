"""What partners have asked about, in a file that only grows; it lies beside the ledgers.

A line is on disk before the set that it counts is answered. So after a crash a set may be counted that was
never answered, and none was answered that is not counted. A rest of a line at the end was never answered for.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from secagg.names import SiloId
from secagg.psi.queries import Asked, QueryLimits
from silo.storage import StateFault, make_folder, not_written, sync_folder

FILE = "queries"


@dataclass(frozen=True)
class QueryFile:
    """The file in ``folder``.

    Args:
        folder: made when the first set is counted.
        limits: what each partner may ask about.
        clock: unix seconds.

    Guarantees:
        What was counted is there after a crash at any later moment, for every process.
        Nothing is taken out of the file.
    """

    folder: Path
    limits: QueryLimits
    clock: Callable[[], float] = time.time

    def count(self, session: bytes, partner: SiloId, records: int) -> None:
        """Count that ``partner`` brings a set; on disk when this returns.

        Args:
            session: of the intersection, 32 bytes.
            partner: whose set.
            records: padded.

        Raises:
            PolicyRefused: the partner would ask about more than ``limits`` let it.
            StateFault: the file is damaged, or cannot be written.
        """
        try:
            make_folder(self.folder)
            with self._locked() as file:
                known, end = self._read(file)
                new = Asked(partner, session, records, int(self.clock()))
                if self.limits.check(new, known):
                    os.ftruncate(file, end)  # The rest of a line that a crash cut off.
                    line = msgspec.json.encode(new) + b"\n"
                    if os.pwrite(file, line, end) < len(line):
                        raise OSError(None, "no room for a line")
                    os.fsync(file)
                    if not known:
                        sync_folder(self.folder)
        except OSError as error:
            raise not_written(self.folder, error) from error

    def asked(self, partner: SiloId) -> int:
        """Return how many records of ``partner`` count now.

        Raises:
            StateFault: the file is damaged, or cannot be read.
        """
        if not self._path.exists():
            return 0
        try:
            with self._locked() as file:
                known, _ = self._read(file)
        except OSError as error:
            raise StateFault(f"{self._path} cannot be read: {error.strerror}") from error
        return sum(self.limits.asked(partner, known, now=int(self.clock())).values())

    @property
    def _path(self) -> Path:
        return self.folder / FILE

    @contextmanager
    def _locked(self) -> Iterator[int]:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # Two sessions of this silo may count at once.
            yield file
        finally:
            os.close(file)

    def _read(self, file: int) -> tuple[list[Asked], int]:
        """Return what is known, and where the last whole line ends."""
        data = os.pread(file, os.fstat(file).st_size, 0)
        end = data.rfind(b"\n") + 1
        try:
            return [msgspec.json.decode(line, type=Asked) for line in data[:end].splitlines()], end
        except msgspec.MsgspecError as error:
            raise StateFault(
                f"{self._path} is damaged, so what partners asked about cannot be told. Put back the file as "
                "it was last, never an older copy; without it nothing is answered"
            ) from error
