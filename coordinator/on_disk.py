"""Bytes that stay on disk: read slice by slice where they are needed, so that they cost no memory."""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from secagg.errors import EnvironmentFault


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
        data = memoryview(bytearray(max(0, last - first)))
        read = 0
        while read < len(data):
            try:
                count = os.preadv(self._descriptor.number, [data[read:]], self._start + first + read)
            except OSError as error:
                raise Unreadable(f"the disk cannot be read: {error.strerror}. Look at its log") from None
            if not count:
                raise Unreadable("a file of this process became shorter: nobody else may write to it")
            read += count
        return data.toreadonly()

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


class _Descriptor:
    def __init__(self, number: int) -> None:
        self.number = number
        weakref.finalize(self, os.close, number)
