"""The lines of a ledger: one entry each, in its only form, and chained so that no earlier one can change.

A chain is SHA-256(chain of the line before || line). The first one is chained to ``genesis``, which names the
data set. This module knows no file and no budget.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, TypeAlias

import msgspec

from secagg.errors import EnvironmentFault, ParameterError
from secagg.hazmat.framing import digest
from secagg.privacy.events import Event, Release, Unit, Unprotected
from secagg.terms import Counter, Digest, Name

NONCE_SIZE = 32
LAST_SECOND = 2**37
"""Of any entry: far away, and still a date."""
MAX_EVENTS = 1000
MAX_LINE = 1 << 20
"""Bytes; no entry is as long."""

UnixTime = Annotated[int, msgspec.Meta(ge=0, lt=LAST_SECOND)]


class LedgerDamaged(EnvironmentFault):
    """Lines are not those that were written: what was spent cannot be told, so nothing may be released."""


class Noised(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="release"):
    """A ``Release`` in a line."""

    unit: Unit
    noise_multiplier: float
    sampling_rate: float
    count: Counter
    slack: float

    def __post_init__(self) -> None:
        self.event()

    def event(self) -> Release:
        """Return the event.

        Raises:
            ParameterError: it cannot be one.
        """
        return Release(self.unit, self.noise_multiplier, self.sampling_rate, self.count, self.slack)


class Bare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="unprotected"):
    """An ``Unprotected`` in a line."""

    count: Counter

    def event(self) -> Unprotected:
        """Return the event."""
        return Unprotected(self.count)


Charged: TypeAlias = Noised | Bare


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one round was charged.

    Attributes:
        number: from 1, without a gap.
        time: unix seconds, never earlier than of the entry before.
        federation, job, round, release: whose round it was, as its terms say.
        training: digest of the terms.
        charged: what was about to be released, as it stands in the line.
    """

    number: Counter
    time: UnixTime
    federation: Name
    job: Name
    round: Counter
    release: Counter
    training: Digest
    charged: Annotated[tuple[Charged, ...], msgspec.Meta(min_length=1, max_length=MAX_EVENTS)]

    @property
    def events(self) -> tuple[Event, ...]:
        """What was about to be released."""
        return tuple(part.event() for part in self.charged)


_decoder = msgspec.msgpack.Decoder(Entry)


def charged(events: Sequence[Event]) -> tuple[Charged, ...]:
    """Return ``events`` as they stand in a line, with Python's own numbers."""
    return tuple(
        Noised(
            event.unit,
            float(event.noise_multiplier),
            float(event.sampling_rate),
            int(event.count),
            float(event.slack),
        )
        if isinstance(event, Release)
        else Bare(int(event.count))
        for event in events
    )


def encode_entry(entry: Entry) -> bytes:
    """Return the line of ``entry``.

    Raises:
        ParameterError: the line could not be read again: a name, number or time is out of its range.
    """
    line = msgspec.msgpack.encode(entry)
    try:
        _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise ParameterError(f"this cannot be charged: {error}") from None
    return line


def genesis(data_set: str, nonce: bytes) -> bytes:
    """Return the chain (32 bytes) before the first line.

    Args:
        data_set: its name at the silo.
        nonce: ``NONCE_SIZE`` fresh bytes, so that no two ledgers of one name are taken for each other.
    """
    return digest("ledger", data_set, nonce)


def link(chain: bytes, line: bytes) -> bytes:
    """Return the chain (32 bytes) after ``line``."""
    return hashlib.sha256(chain + line).digest()


def read(first: bytes, lines: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[Entry, bytes]]:
    """Yield the entries of ``lines`` with the chain after each, as long as everything about them is right.

    Args:
        first: the chain before the first line, as of ``genesis``.
        lines: (line, chain) pairs.

    Raises:
        LedgerDamaged: a line is not what was written, not in its only form, or not in its place.

    Guarantees:
        A line that is changed, missing, added, repeated or moved is refused; at the end a head tells.
        A line in another form of the same content is refused.
        An entry that is earlier than the one before it is refused.
    """
    chain, time = first, 0
    for number, (line, claimed) in enumerate(lines, 1):
        chain = link(chain, line)
        if claimed != chain:
            raise LedgerDamaged(f"line {number} is not the one that was written: its chain is wrong")
        try:
            entry: Entry = _decoder.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise LedgerDamaged(f"line {number} holds no entry") from None
        if msgspec.msgpack.encode(entry) != line:
            raise LedgerDamaged(f"line {number} is not in its only form")
        if entry.number != number:
            raise LedgerDamaged(f"line {number} says that it is line {entry.number}")
        if entry.time < time:
            raise LedgerDamaged(f"line {number} is earlier than the line before it")
        time = entry.time
        yield entry, chain
