"""A frame cut into what fits a record, and put together again."""

from __future__ import annotations

from collections.abc import Iterator

from secagg.channel.messages import MAX_DATA, Begin, Piece
from secagg.errors import MalformedMessage
from secagg.link.line import InMemory
from secagg.payload import Frame


def cut(frame: Frame) -> Iterator[Begin | Piece]:
    """Yield the parts of ``frame``; its payload is read part by part."""
    header, payload = frame
    size = None if payload is None else len(payload)
    end = len(header) + (size or 0)
    for start in range(0, max(end, 1), MAX_DATA):
        data = header[start : start + MAX_DATA]
        if payload is not None and len(data) < MAX_DATA:
            first = max(0, start - len(header))
            data += payload[first : first + MAX_DATA - len(data)]
        yield Begin(len(header), size, data) if start == 0 else Piece(data)


class Joined:
    """Frames of one sender from their parts.

    Args:
        largest: bytes that a frame may have.

    Guarantees:
        What is kept grows with what arrives, never with what is announced.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._begun: _Joining | None = None

    @property
    def under_way(self) -> bool:
        """Whether parts of a frame are to come."""
        return self._begun is not None

    def take(self, part: Begin | Piece) -> Frame | None:
        """Take the next part and return the frame that it completes.

        Raises:
            MalformedMessage: a frame begins within another, is too long, or longer than announced.
        """
        begun = self._begun
        if isinstance(part, Begin) and begun is None:
            size = part.header + (part.payload or 0)
            if size > self._largest:
                raise MalformedMessage(
                    f"a message of {size} bytes was announced; at most {self._largest} are taken here"
                )
            begun = _Joining(part)
        elif isinstance(part, Piece) and begun is not None and part.data:
            begun.add(part.data)
        else:
            raise MalformedMessage("a part of a message came that was not due")
        self._begun = None if begun.whole else begun
        return begun.frame() if begun.whole else None


class _Joining:
    def __init__(self, begin: Begin) -> None:
        self._announced = begin
        self._rest = begin.header + (begin.payload or 0)
        self._header = bytearray()
        self._payload = None if begin.payload is None else InMemory(begin.payload)
        self.add(begin.data)

    def add(self, data: bytes) -> None:
        if len(data) > self._rest:
            raise MalformedMessage("a message has more bytes than it announced")
        self._rest -= len(data)
        of_header = self._announced.header - len(self._header)
        self._header += data[:of_header]
        if self._payload is not None and len(data) > of_header:
            self._payload.write(memoryview(data)[of_header:])

    @property
    def whole(self) -> bool:
        return self._rest == 0

    def frame(self) -> Frame:
        return bytes(self._header), None if self._payload is None else self._payload.whole()
