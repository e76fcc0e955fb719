"""One file that holds vectors and says what they are: replaced as a whole, believed only if it is whole.

A header, the little-endian vectors, and a digest of both at the end. A crash at any moment leaves the old
file or the new one; anything else that is found there counts as no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import structlog
from numpy.typing import NDArray

from secagg.hazmat.content import CONTENT_DIGEST_SIZE, ContentHash, content_digest
from silo.storage import sync_folder

MAGIC = b"secagg vectors 1"
_SIZE = 4

H = TypeVar("H", bound=msgspec.Struct)

log = structlog.get_logger("silo")


@dataclass(frozen=True)
class VectorFile(Generic[H]):
    """The vectors at ``path``.

    Args:
        path: the file; ``path`` with ``.new`` behind it is written first.
        kind: what its header is. Lengths and types of the vectors are the header's to say.

    Guarantees:
        After ``write`` returned, ``read`` gives what was written, whatever crashes.
        A file of which one bit differs is read as none.
    """

    path: Path
    kind: type[H]

    def write(self, header: H, vectors: Iterable[NDArray[Any]]) -> None:
        """Replace the file, synced.

        Args:
            header: what the vectors are.
            vectors: contiguous; written one after the other.

        Raises:
            OSError: it cannot be written; the old file is still there.
        """
        head = msgspec.msgpack.encode(header)
        content = ContentHash()
        with self._replacing() as file:
            parts: tuple[bytes | memoryview, ...] = (MAGIC, len(head).to_bytes(_SIZE, "little"), head)
            for part in (*parts, *map(_bytes, vectors)):
                content.update(part)
                _write(file, part)
            _write(file, content.digest())

    def read(self) -> tuple[H, memoryview] | None:
        """Return header and bytes of the vectors; None if there is no file, or a damaged one."""
        try:
            data = memoryview(self.path.read_bytes())
        except FileNotFoundError:
            return None
        start = len(MAGIC) + _SIZE
        body, digest = data[:-CONTENT_DIGEST_SIZE], data[-CONTENT_DIGEST_SIZE:]
        if len(body) < start or body[: len(MAGIC)] != MAGIC or content_digest(body) != digest:
            self._tell_damaged()
            return None
        end = start + int.from_bytes(body[len(MAGIC) : start], "little")
        try:
            return msgspec.msgpack.decode(body[start:end], type=self.kind), body[end:]
        except msgspec.MsgspecError:
            self._tell_damaged()
            return None

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    @property
    def _new(self) -> Path:
        return self.path.with_name(self.path.name + ".new")

    def _tell_damaged(self) -> None:
        log.warning("a damaged file is ignored", file=self.path.name)

    @contextmanager
    def _replacing(self) -> Iterator[int]:
        file = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            try:
                yield file
                os.fdatasync(file)
            finally:
                os.close(file)
            self._new.replace(self.path)
        except BaseException:
            self._new.unlink(missing_ok=True)
            raise
        sync_folder(self.path.parent)


def _bytes(vector: NDArray[Any]) -> memoryview:
    return vector.astype(vector.dtype.newbyteorder("<"), copy=False).data.cast("B")


def _write(file: int, part: bytes | memoryview) -> None:
    rest = memoryview(part)
    while rest:
        rest = rest[os.write(file, rest) :]
