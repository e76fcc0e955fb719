"""The one array that a message may carry beside its fields, handed on in pieces and never copied whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from secagg.errors import MalformedMessage
from secagg.hazmat.content import ContentHash

PayloadType: TypeAlias = Literal["u1", "u4", "u8", "f8"]
PIECE_SIZE = 256 * 1024
"""Bytes of one piece: the chunk of the transport and the working set of the caches."""

Pieces: TypeAlias = Callable[[], Iterator[memoryview]]


class Buffer(Protocol):
    """Bytes that are read slice by slice: a ``memoryview``, or what lies on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> memoryview: ...


class EndToEnd:
    """Buffers of one size, one after the other, as one: each is asked for when a slice reads of it.

    Args:
        count: how many.
        size: bytes of each, at least 1.
        part: returns one of them, by its place; the same bytes whenever it is asked.

    Guarantees:
        Nothing is held but what ``part`` refers to, and nothing copied but a slice over several of them.
    """

    def __init__(self, count: int, size: int, part: Callable[[int], Buffer]) -> None:
        self._count = count
        self._size = size
        self._part = part

    def __len__(self) -> int:
        return self._count * self._size

    def __getitem__(self, part: slice, /) -> memoryview:
        first, last, _ = part.indices(len(self))
        places = range(first // self._size, -(-last // self._size)) if first < last else ()
        starts = ((place, place * self._size) for place in places)
        found = [self._part(place)[max(0, first - start) : last - start] for place, start in starts]
        return found[0] if len(found) == 1 else memoryview(b"".join(found))


Frame: TypeAlias = tuple[bytes, Buffer | None]
"""Header and payload of one message, as ``wire`` encodes and decodes them."""


class Payload:
    """A little-endian vector of ``length`` entries, in memory or spooled elsewhere.

    Attributes:
        dtype: ``"u1"``, ``"u4"``, ``"u8"`` or ``"f8"``.
        length: entries.
        digest: BLAKE3 of the bytes, 32 bytes; computed once, when it is first asked for.

    Guarantees:
        ``pieces()`` yields exactly ``size`` bytes, or raises MalformedMessage.
    """

    def __init__(
        self, dtype: PayloadType, length: int, pieces: Pieces, *, digest: bytes | None = None
    ) -> None:
        self.dtype = dtype
        self.length = length
        self._pieces = pieces
        if digest is not None:
            self.__dict__["digest"] = digest

    @classmethod
    def of(cls, vector: NDArray[Any]) -> Payload:
        """Return the payload of a C-contiguous vector of u1, u4, u8 or f8, which is not copied."""
        dtype = vector.dtype.str.lstrip("<|")
        if dtype not in get_args(PayloadType) or vector.ndim != 1 or not vector.flags.c_contiguous:
            raise MalformedMessage(
                f"a payload is a contiguous vector of u1, u4, u8 or f8, not {vector.dtype}"
            )
        return cls.over(cast(PayloadType, dtype), vector.size, vector.data.cast("B"))

    @classmethod
    def over(cls, dtype: PayloadType, length: int, buffer: Buffer, *, digest: bytes | None = None) -> Payload:
        """Return the payload that reads ``buffer`` (bytes)."""

        def pieces() -> Iterator[memoryview]:
            for start in range(0, len(buffer), PIECE_SIZE):
                yield buffer[start : start + PIECE_SIZE]

        payload = cls(dtype, length, pieces, digest=digest)
        payload.__dict__["_buffer"] = buffer
        return payload

    @property
    def size(self) -> int:
        """Bytes."""
        return self.length * np.dtype(self.dtype).itemsize

    @cached_property
    def digest(self) -> bytes:
        """BLAKE3 of the bytes, 32 bytes."""
        content = ContentHash()
        for piece in self._pieces():
            content.update(piece)
        return content.digest()

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes in order, whole entries a piece."""
        seen = 0
        for piece in self._pieces():
            seen += len(piece)
            if seen > self.size:
                break
            yield piece
        if seen != self.size:
            raise MalformedMessage(f"a payload of {self.size} bytes was announced, another size came")

    def buffer(self) -> Buffer:
        """Return the bytes where they lie; pieces that are made one by one are joined."""
        held: Buffer | None = self.__dict__.get("_buffer")
        if held is None:
            held = self.__dict__["_buffer"] = memoryview(b"".join(self.pieces()))
        return held

    def array(self) -> NDArray[Any]:
        """Return the vector, read-only; what is in memory is not copied."""
        vector = np.frombuffer(self.buffer()[:], dtype=np.dtype(self.dtype))
        if vector.size != self.length:
            raise MalformedMessage(f"a payload of {self.length} entries was announced, another size came")
        vector.flags.writeable = False
        return vector

    def add_into(self, total: NDArray[Any]) -> None:
        """Add the vector to ``total`` in place, piece by piece; same dtype and length."""
        if total.dtype != np.dtype(self.dtype) or total.size != self.length:
            raise MalformedMessage("a payload is added to a total of its own dtype and length")
        at = 0
        for piece in self.pieces():
            part = np.frombuffer(piece, dtype=total.dtype)
            slot = total[at : at + part.size]
            np.add(slot, part, out=slot)
            at += part.size

    def __repr__(self) -> str:
        return f"Payload({self.dtype}, length={self.length})"


def describe(value: object) -> tuple[str, int, bytes]:
    """Return what stands for a payload inside an encoded message or record: type, length, digest."""
    if isinstance(value, Payload):
        return value.dtype, value.length, value.digest
    raise NotImplementedError(type(value))


def regroup(pieces: Iterable[memoryview], size: int) -> Iterator[memoryview]:
    """Yield the same bytes in chunks of ``size``; each is valid until the next one.

    Raises:
        MalformedMessage: they end within a chunk.
    """
    chunk, filled = bytearray(size), 0
    view = memoryview(chunk)
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while rest:
            taken = min(len(rest), size - filled)
            view[filled : filled + taken] = rest[:taken]
            filled, rest = filled + taken, rest[taken:]
            if filled == size:
                yield view
                filled = 0
    if filled:
        raise MalformedMessage("a payload ends within a chunk")
