"""A silo's request for a base model that a peer is to seal to it: signed by the one, checked by all others.

Source: "Ciphertexts" in ``docs/protocol.md``.
"""

from __future__ import annotations

from secagg.errors import MalformedMessage
from secagg.hazmat.agreement import check_point
from secagg.hazmat.framing import Field
from secagg.hazmat.identity import IdentityKey, verify
from secagg.messages import BaseWanted
from secagg.names import SiloId
from secagg.roster import Roster

WANTED = "base wanted"
"""Label of the signature over a request."""


def base_fields(base: bytes, silo: SiloId, box: bytes) -> tuple[Field, ...]:
    """Return what a silo signs to be sent a base model by a peer."""
    return base, silo, box


def sign_base_wanted(identity: IdentityKey, silo: SiloId, base: bytes, box: bytes) -> BaseWanted:
    """Return the request of ``silo`` to be sent ``base``, sealed to its fresh public key ``box``."""
    return BaseWanted(base, box, identity.sign(WANTED, *base_fields(base, silo, box)))


def base_wanted_fault(roster: Roster, silo: SiloId, wanted: BaseWanted) -> str | None:
    """Return what is wrong with a request that is said to be of ``silo``, or None."""
    fields = base_fields(wanted.base, silo, wanted.box)
    if silo not in roster or not verify(roster.key(silo), wanted.signature, WANTED, *fields):
        return "its request for the base model is not signed by it"
    try:
        check_point(wanted.box)
    except MalformedMessage:
        return "its key for the base model is malformed or of low order"
    return None
