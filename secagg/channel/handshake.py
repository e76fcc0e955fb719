"""Two silos of a roster agree on keys over a coordinator that lies: signed Diffie-Hellman.

Each sends a fresh X25519 key, and signs with its identity what both must agree on: the roster, the meeting,
all its parties, both keys, and who signs for whom. The two may send at the same time. One class is one state,
so a step cannot be taken twice or out of order.

It hides neither who speaks nor when. Keys of a finished handshake prove nothing to a third party but that the
signer once met the other under that name.

Source: Canetti and Krawczyk, "Analysis of Key-Exchange Protocols and Their Use for Building Secure Channels",
EUROCRYPT 2001, protocol SIG-DH, after ISO/IEC 9798-3; Krawczyk, "SIGMA", CRYPTO 2003, for why each signature
has to name the other party.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from secagg.channel.messages import Offer, Proof
from secagg.channel.records import Opener, Sealer
from secagg.errors import FaultySiloOrCoordinator, MalformedMessage
from secagg.hazmat.agreement import AgreementKey
from secagg.hazmat.framing import digest
from secagg.hazmat.identity import IdentityKey, verify
from secagg.names import RandomSource, SiloId
from secagg.roster import Roster


@dataclass(frozen=True)
class Ends:
    """What both ends of a channel agree on before they meet.

    Attributes:
        roster: pinned at both.
        meeting: its name.
        parties: all silos of the meeting, in the order that all of them give.
        mine, other: the two ends, both of ``parties``.
    """

    roster: Roster
    meeting: str
    parties: tuple[SiloId, ...]
    mine: SiloId
    other: SiloId

    def transcript(self, mine: bytes, other: bytes) -> bytes:
        """Return the digest of all that both must agree on, given both ephemeral keys; the same at both."""
        keys = {self.mine: mine, self.other: other}
        ends = tuple((party, keys[party]) for party in self.parties if party in keys)
        return digest("channel transcript", self.roster.digest, self.meeting, self.parties, ends)


@dataclass(frozen=True)
class Offering:
    """This end has a key and awaits the other's.

    Attributes:
        offer: to send.
    """

    ends: Ends
    offer: Offer
    _key: AgreementKey = field(repr=False)

    @classmethod
    def begin(cls, ends: Ends, *, random: RandomSource = os.urandom) -> Offering:
        """Make a key for one handshake."""
        key = AgreementKey.generate(random)
        return cls(ends, Offer(key.public), key)

    def answer(self, offer: Offer, identity: IdentityKey) -> Proving:
        """Take the other's key.

        Raises:
            FaultySiloOrCoordinator: it is no usable key, or this end's own.
        """
        ends = self.ends
        if offer.ephemeral == self._key.public:
            raise FaultySiloOrCoordinator(ends.other, "it sent this silo's own key back")
        transcript = ends.transcript(self._key.public, offer.ephemeral)
        try:
            seals, opens = (
                self._key.derive(offer.ephemeral, "channel records", transcript, *way)
                for way in ((ends.mine, ends.other), (ends.other, ends.mine))
            )
        except MalformedMessage as fault:
            raise FaultySiloOrCoordinator(ends.other, str(fault)) from None
        proof = Proof(identity.sign("channel", transcript, ends.mine, ends.other))
        return Proving(ends, proof, transcript, Sealer(seals), Opener(opens, ends.other))


@dataclass(frozen=True)
class Proving:
    """Both keys are known; who sent the other's is not.

    Attributes:
        proof: to send.
    """

    ends: Ends
    proof: Proof
    _transcript: bytes = field(repr=False)
    _sealer: Sealer = field(repr=False)
    _opener: Opener = field(repr=False)

    def check(self, proof: Proof) -> tuple[Sealer, Opener]:
        """Return what seals and opens records, if the other end is who it should be.

        Raises:
            FaultySiloOrCoordinator: it signed something else, or did not sign.

        Guarantees:
            Mutual authentication: the signature is by the key that the roster pins for the other end.
            Forward secrecy: no key that is kept derives those of records.
            No reflection: a signature names its signer and whom it is for, a key its direction.
            No replay: both ephemeral keys are signed, of which one was made here for this handshake.
            No unknown key share: the other end signed this silo's name, this meeting and all its parties.
        """
        ends = self.ends
        signed = self._transcript, ends.other, ends.mine
        if not verify(ends.roster.key(ends.other), proof.signature, "channel", *signed):
            raise FaultySiloOrCoordinator(
                ends.other,
                "its signature is not one over this handshake, but over another key, meeting, list of "
                "parties or roster; compare roster.toml and what was typed at both",
            )
        return self._sealer, self._opener
