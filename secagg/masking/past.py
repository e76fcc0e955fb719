"""Attempts that are over, so that a message which was only late is told from one that is wrong.

An upload of one attempt can arrive when the next one has begun. It is honest, and refusing it must not cost
its sender the round or its name.
"""

from __future__ import annotations

from dataclasses import dataclass

from secagg.hazmat.identity import verify
from secagg.masking import transcript
from secagg.masking.checks import bundle_fault
from secagg.messages import (
    AdvertiseKeys,
    BoxReport,
    ConsistencyCheck,
    FromSilo,
    MaskedInput,
    ShareKeys,
    Unmasking,
)
from secagg.names import SiloId
from secagg.roster import Roster


@dataclass(frozen=True)
class PastAttempt:
    """What names one attempt in the messages of its silos.

    Attributes:
        descriptor: its digest.
        session: None if its keys were never announced.
        round_id: None if its share sets were never announced.
    """

    descriptor: bytes
    session: bytes | None = None
    round_id: bytes | None = None

    def has(self, roster: Roster, sender: SiloId, message: FromSilo) -> bool:
        """Whether ``message`` is of this attempt, by the signature of ``sender`` where it carries one."""
        match message:
            case AdvertiseKeys():
                return bundle_fault(roster, self.descriptor, sender, message.bundle) is None
            case ShareKeys():
                if self.session is None:
                    return False
                fields = transcript.share_set_fields(self.session, sender, message.share_set)
                return verify(roster.key(sender), message.share_set.signature, transcript.SHARE, *fields)
            case BoxReport():
                return message.session == self.session
            case MaskedInput() | ConsistencyCheck() | Unmasking():
                return message.round_id == self.round_id
            case _:
                return False
