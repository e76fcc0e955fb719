"""The head of a silo's ledger, signed for one round, and what peers hold of it: how a rollback is found.

A silo whose disk was put back to an older state cannot see that itself. Its peers can: each keeps the last
head of every other, and signs no set with a silo in it whose ledger is behind, or is another one.

Source: "Ledger" in ``docs/protocol.md``; the signed tree heads of RFC 9162, section 4.10, for the idea.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from secagg.hazmat.framing import Field, digest
from secagg.hazmat.identity import IdentityKey, verify
from secagg.names import SiloId
from secagg.roster import Roster
from secagg.terms import Digest

LEDGER_HEAD = "ledger head"


class LedgerHead(msgspec.Struct, frozen=True):
    """How far a silo's ledger is, by its own signed word.

    Attributes:
        data_set: ``data_set_digest`` of what the ledger is for.
        entries: in the ledger.
        chain: digest of all of them.
        signature: of the silo, over all this and what it was said for.
    """

    data_set: Digest
    entries: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    chain: Digest
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


def data_set_digest(silo: SiloId, data_set: str) -> bytes:
    """Return what stands for a data set among peers, who are not told its name."""
    return digest("data set", silo, data_set)


def sign_head(
    identity: IdentityKey, silo: SiloId, data_set: str, *, entries: int, chain: bytes, context: bytes
) -> LedgerHead:
    """Return the head.

    Args:
        identity: of the silo.
        silo: its name.
        data_set: the configured name.
        entries: in the ledger.
        chain: digest of all of them, 32 bytes.
        context: the round that it is said in, so that it cannot be said again in another; 32 bytes.
    """
    of = data_set_digest(silo, data_set)
    return LedgerHead(
        of, entries, chain, identity.sign(LEDGER_HEAD, *_fields(silo, of, entries, chain, context))
    )


def head_fault(
    roster: Roster, silo: SiloId, head: LedgerHead, held: LedgerHead | None, *, context: bytes
) -> str | None:
    """Return what is wrong with a head, or None.

    Args:
        roster: the pinned one.
        silo: whose ledger.
        head: what it says now.
        held: what it said last of the same data set; None for nothing.
        context: the round.
    """
    fields = _fields(silo, head.data_set, head.entries, head.chain, context)
    if silo not in roster or not verify(roster.key(silo), head.signature, LEDGER_HEAD, *fields):
        return "its head is not signed for this round"
    if held is None or held.data_set != head.data_set:
        return None
    if head.entries < held.entries:
        return f"it has {head.entries} entries and had {held.entries}"
    if head.entries == held.entries and head.chain != held.chain:
        return f"its {head.entries} entries are not those that it had"
    return None


def _fields(silo: SiloId, data_set: bytes, entries: int, chain: bytes, context: bytes) -> tuple[Field, ...]:
    return silo, data_set, entries, chain, context
