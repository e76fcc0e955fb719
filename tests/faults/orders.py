"""What a test orders to go wrong in one process: a file that the launcher looks at, and removes as it obeys.

A process that is started again finds no order, so what was killed once comes back sound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

Way: TypeAlias = Literal["up", "down"]


class Kill(msgspec.Struct, frozen=True, tag=True):
    """SIGKILL of its own process, at a point of a round.

    Attributes:
        at: which moment; those of a silo and of a coordinator are in ``launcher``.
        what: the phase, or what the coordinator writes.
        round: in which; None for whichever.
        time: at the how manieth time.
    """

    at: str
    what: str
    round: int | None
    time: int = 1


class Cut(msgspec.Struct, frozen=True, tag=True):
    """The connection breaks when piece ``piece`` of a payload is about to go; the first has number 1."""

    way: Way
    piece: int


class Repeat(msgspec.Struct, frozen=True, tag=True):
    """Every frame goes twice."""

    way: Way


class Exchange(msgspec.Struct, frozen=True, tag=True):
    """Piece ``piece`` of a payload arrives after the one behind it; so many times."""

    way: Way
    piece: int
    times: int


class Slow(msgspec.Struct, frozen=True, tag=True):
    """Each piece of an upload takes so long."""

    seconds: float


class Version(msgspec.Struct, frozen=True, tag=True):
    """It is another version of the software."""

    version: str
    protocol: int


Order: TypeAlias = Kill | Cut | Repeat | Exchange | Slow | Version

_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)


class Orders:
    """The order for one process, in ``file``; none if there is no such file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def give(self, order: Order) -> None:
        """Order something; it replaces what was ordered before."""
        self._file.parent.mkdir(exist_ok=True)
        new = self._file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(order))
        new.replace(self._file)

    def withdraw(self) -> None:
        """Order nothing."""
        self._file.unlink(missing_ok=True)

    @property
    def obeyed(self) -> bool:
        """Whether what was ordered has happened."""
        return not self._file.exists()

    @property
    def present(self) -> Order | None:
        """What is ordered now."""
        try:
            return _decoder.decode(self._file.read_bytes())
        except FileNotFoundError:
            return None
