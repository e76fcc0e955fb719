"""Bytes that stay on disk: kept there as they arrive, and read slice by slice where they are needed."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

from secagg.errors import EnvironmentFault, UsageError


class Unreadable(EnvironmentFault):
    """The disk does not give what was written to it."""


class OnDisk:
    """A part of an open file, as ``payload.Buffer``.

    Args:
        descriptor: of the file, which may be renamed or deleted meanwhile.
        start: of the bytes.
        size: of the bytes.

    Guarantees:
        The descriptor is closed when nothing refers to the bytes any more.
    """

    def __init__(self, descriptor: _Descriptor, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._start = start
        self._size = size

    @classmethod
    def over(cls, file: int, start: int, size: int) -> OnDisk:
        """Return the bytes of a file whose descriptor is copied; it may be closed.

        Raises:
            OSError: too many files are open.
        """
        return cls(_Descriptor(os.dup(file)), start, size)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> memoryview:
        """Return a copy of some of the bytes.

        Raises:
            Unreadable: the disk does not give them.
        """
        first, last, _ = part.indices(self._size)
        data = self._read(first, last)
        while first + len(data) < last:  # A signal may cut a read short.
            data += self._read(first + len(data), last)
        return memoryview(data)

    def _read(self, first: int, last: int) -> bytes:
        try:
            data = os.pread(self._descriptor.number, max(0, last - first), self._start + first)
        except OSError as error:
            raise Unreadable(f"the disk cannot be read: {error.strerror}. Look at its log") from None
        if first < last and not data:
            raise Unreadable("a file of this process became shorter: nobody else may write to it")
        return data

    def part(self, start: int, size: int) -> OnDisk:
        """Return ``size`` bytes from ``start``; nothing is read."""
        return OnDisk(self._descriptor, self._start + start, size)

    @classmethod
    def of(cls, path: Path) -> OnDisk:
        """Return what is in the file ``path`` now.

        Raises:
            OSError: it cannot be opened.
        """
        with path.open("rb", buffering=0) as file:
            return cls.over(file.fileno(), 0, os.fstat(file.fileno()).st_size)


class Spooled:
    """A payload on disk, in a file that has no name: nothing is left of it when the process ends, however.

    Args:
        folder: where there is space.
        otherwise: what follows if there is none, for people.

    Raises:
        EnvironmentFault: there is none.

    Guarantees:
        The disk is free when the payload was discarded, or taken and nothing refers to its bytes any more.
    """

    def __init__(
        self, folder: Path, *, otherwise: str = "the round goes on without it or is tried again"
    ) -> None:
        self._folder, self._otherwise = folder, otherwise
        self._size = 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by discard()
            # Now, so that ``whole`` cannot fail.
            self._kept: OnDisk | None = OnDisk.over(self._file.fileno(), 0, 0)
        except OSError as error:
            raise self._full(error) from error

    def write(self, data: memoryview) -> None:
        """Append ``data``.

        Raises:
            EnvironmentFault: the disk is full; ``data`` may be appended again.
        """
        rest = data
        try:
            self._file.seek(self._size)  # A write that failed may have left a part of it.
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise self._full(error) from error
        self._size += len(data)

    def whole(self) -> OnDisk:
        """Return the bytes as they lie on disk.

        Raises:
            UsageError: they were taken or discarded before.
        """
        if self._kept is None:
            raise UsageError("a payload is taken once")
        whole = self._kept.part(0, self._size)
        self.discard()
        return whole

    def discard(self) -> None:
        """Free the disk; bytes that were taken stay."""
        self._file.close()
        self._kept = None  # Something may still refer to this object.

    def _full(self, error: OSError) -> EnvironmentFault:
        return EnvironmentFault(
            f"{self._folder}: what arrives cannot be kept there: {error.strerror}. Free space; "
            f"{self._otherwise}"
        )


class _Descriptor:
    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)
