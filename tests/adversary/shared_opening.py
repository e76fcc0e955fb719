"""Four silos with shares of one Paillier key, by hand: what was sent, and who may have kept what.

East colludes: whatever its session knew, the coordinator knows. Every vector is short and every session real.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from secagg.encrypted.cipher import SEAL_SIZE
from secagg.encrypted.coordinator import EncryptedCoordinator
from secagg.encrypted.silo import ThresholdSilo, part_key
from secagg.errors import FaultyCoordinator, FaultySiloOrCoordinator, MalformedMessage
from secagg.hazmat.agreement import AgreementKey, unseal
from secagg.messages import (
    EncryptedInput,
    FromCoordinator,
    OpeningRequested,
    PartialDecryption,
    SignedUpload,
)
from secagg.names import SiloId
from secagg.paillier.ciphertexts import read
from secagg.paillier.gmp import mpz
from secagg.paillier.silo import ThresholdPaillierCipher
from secagg.paillier.threshold import ThresholdKey
from secagg.survivors import Locks
from tests.federations import THRESHOLD_PAILLIER, Federation, keys_of

N = 4
COLLUDER = "east"


class SharedOpening:
    """One attempt, up to the parts of the opening.

    Attributes:
        uploads: by silo.
        boxes: of the silos' sessions; an attacker has that of the colluder.
        requested: what the coordinator asks when it is honest.
    """

    def __init__(self) -> None:
        self.federation = Federation(N, scheme=THRESHOLD_PAILLIER)
        federation, protected = self.federation, keys_of(THRESHOLD_PAILLIER, N)
        assert protected.adders is not None
        self.adder: Any = protected.adders(federation.encoding)
        self.ciphers: dict[SiloId, ThresholdPaillierCipher] = {
            silo: cast(ThresholdPaillierCipher, protected.keys[silo].cipher(federation.terms))
            for silo in federation.roster.silos
        }
        self.silos = {
            silo: ThresholdSilo(
                silo,
                identity=federation.identities[silo],
                roster=federation.roster,
                terms=federation.terms,
                cipher=self.ciphers[silo],
                vector=federation.vectors[silo],
                locks=Locks(),
                data_set="data",
            )
            for silo in federation.roster.silos
        }
        coordinator = EncryptedCoordinator(
            federation.roster, terms=federation.terms, adder=self.adder, attempt=1, seconds=60.0
        )
        outbox: Mapping[SiloId, FromCoordinator] = coordinator.open(0.0).output
        self.sent: list[Any] = []  # All that the coordinator ever had.
        self.uploads: dict[SiloId, EncryptedInput] = {}
        while not isinstance(outbox[COLLUDER], OpeningRequested):
            for silo, message in outbox.items():
                reply = self.silos[silo].receive(message).output
                assert reply is not None
                self.sent += [message, reply]
                if isinstance(reply, EncryptedInput):
                    self.uploads[silo] = reply
                coordinator.receive(silo, reply)
            outbox = coordinator.advance(0.0).output
        self.round_id = coordinator.round_id
        self.requested = cast(OpeningRequested, outbox[COLLUDER])

    @property
    def key(self) -> ThresholdKey:
        return self.ciphers[COLLUDER]._share.key

    @property
    def box(self) -> AgreementKey:
        """The colluder's key, to which parts were sealed."""
        return cast(AgreementKey, cast(Any, self.silos[COLLUDER])._state.box)

    def parts(self, requested: OpeningRequested, silos: Iterable[SiloId]) -> dict[SiloId, PartialDecryption]:
        """Ask ``silos`` for their parts; who refuses is left out."""
        given = {}
        for silo in silos:
            try:
                reply = self.silos[silo].receive(requested).output
            except (FaultyCoordinator, FaultySiloOrCoordinator):
                continue
            given[silo] = cast(PartialDecryption, reply)
        return given

    def unsealed(self, silo: SiloId, part: PartialDecryption, box: AgreementKey | None) -> bytes:
        """What the colluder, or nobody, reads in a part.

        Raises:
            MalformedMessage: nothing.
        """
        sealed = part.sealed.buffer()[:].tobytes()
        if box is None:
            return sealed[:-SEAL_SIZE]  # As if it were not sealed.
        upload: SignedUpload = self.uploads[silo].upload
        opener = part_key(box, upload, self.round_id, sender=silo, recipient=COLLUDER)
        return unseal(unseal(opener, dict(part.boxes)[COLLUDER]), sealed)

    def numbers(self, silo: SiloId, part: PartialDecryption, box: AgreementKey | None) -> list[mpz] | None:
        """The partial decryptions in a part that somebody read; None if there are none."""
        try:
            content = self.unsealed(silo, part, box)
        except MalformedMessage:
            return None
        found, _ = self.ciphers[COLLUDER]._part_of(content)
        return found or None

    def ciphertexts(self, silos: Iterable[SiloId]) -> list[mpz]:
        """The product of uploads: what anybody can add who has them."""
        product: list[mpz] = []
        for silo in silos:
            numbers = read(self.uploads[silo].ciphertexts.buffer()[: self.adder.total.size], self.key.public)
            modulus = self.key.public.n_squared
            product = [a * b % modulus for a, b in zip(product, numbers, strict=True)] if product else numbers
        return product
