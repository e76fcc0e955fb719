"""What a party must have on disk before its reply leaves: one type per journal entry.

Silo records rebuild locks (``survivors``) and heads of ledgers (``heads``) after a crash; coordinator
records are the accepted inputs of a pure session, so its recovery is a replay. No record holds a secret of a
round.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from secagg.errors import MalformedMessage
from secagg.messages import FromSilo
from secagg.payload import describe
from secagg.privacy.heads import LedgerHead
from secagg.terms import Counter, Digest, Name


class Entry(msgspec.Struct, frozen=True):
    """Shape of every record."""


class AttemptJoined(Entry, frozen=True, tag=True):
    """The silo is about to send keys for this attempt; it never joins it twice."""

    federation: Name
    job: Name
    round: Counter
    attempt: Counter


class SetSigned(Entry, frozen=True, tag=True):
    """The silo signs ``survivors`` for a round: from here its data set and base are locked to them."""

    data_set: Name
    base: Digest
    round_id: Digest
    session: Digest
    threshold: Counter
    survivors: tuple[Name, ...]
    roster: Digest


class Released(Entry, frozen=True, tag=True):
    """Shares of this round are about to leave."""

    round_id: Digest


class VoidSigned(Entry, frozen=True, tag=True):
    """The silo never signs or releases for this round again."""

    round_id: Digest


class LockLifted(Entry, frozen=True, tag=True):
    """Enough silos voided every round that this silo signed with the set; those rounds are dead to it."""

    data_set: Name
    base: Digest


class LockMoved(Entry, frozen=True, tag=True):
    """The lock goes on without a dealer that is proven to have cheated."""

    data_set: Name
    base: Digest
    dealer: Name


class KeyMade(Entry, frozen=True, tag=True):
    """The silo made a key, by its id, and is about to seal it to its peers."""

    ceremony: Digest
    key: Digest
    document: Digest


class KeyAccepted(Entry, frozen=True, tag=True):
    """The silo holds a key that ``giver`` sealed to it."""

    ceremony: Digest
    key: Digest
    document: Digest
    giver: Name


class KeyPassedOn(Entry, frozen=True, tag=True):
    """The silo is about to seal a key that it holds to ``joiner``, a member of its roster that lacks it."""

    key: Digest
    document: Digest
    joiner: Name


class HeadHeld(Entry, frozen=True, tag=True):
    """How far a peer's privacy ledger was in a round whose set this silo is about to sign."""

    silo: Name
    head: LedgerHead


class LedgerWentBack(Entry, frozen=True, tag=True):
    """A peer's privacy ledger was behind the head that is held: none of it is accepted from here."""

    silo: Name
    data_set: Digest


class LedgerTrusted(Entry, frozen=True, tag=True):
    """The operator says that a peer's ledgers are whole again, or new for a reason: heads begin anew."""

    silo: Name


HeadRecord: TypeAlias = HeadHeld | LedgerWentBack | LedgerTrusted
KeyRecord: TypeAlias = KeyMade | KeyAccepted | KeyPassedOn
SiloRecord: TypeAlias = (
    AttemptJoined | SetSigned | Released | VoidSigned | LockLifted | LockMoved | HeadRecord | KeyRecord
)


class InputAccepted(Entry, frozen=True, tag=True):
    """The coordinator accepted ``message`` from ``sender``; a payload is spooled beside the journal."""

    sender: Name
    message: FromSilo


class SiloLost(Entry, frozen=True, tag=True):
    """Nobody waits for ``silo`` in this phase: the transport lost it, or ``struck``, it left the protocol."""

    silo: Name
    struck: bool = False


class PhaseClosed(Entry, frozen=True, tag=True):
    """The coordinator closed a phase at ``now`` and is about to announce what follows."""

    now: float


CoordinatorRecord: TypeAlias = InputAccepted | SiloLost | PhaseClosed
JournalRecord: TypeAlias = SiloRecord | CoordinatorRecord


_encoder = msgspec.msgpack.Encoder(enc_hook=describe)
_silo_decoder = msgspec.msgpack.Decoder(SiloRecord)


def encode_record(record: JournalRecord) -> bytes:
    """Return the journal line of ``record``; of a payload only its type, length and digest."""
    return _encoder.encode(record)


def decode_silo_record(line: bytes) -> SiloRecord:
    """Return the silo record of a journal line.

    Raises:
        MalformedMessage: the line is damaged.
    """
    try:
        record: SiloRecord = _silo_decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedMessage("a line of the silo's journal is damaged") from error
    return record
