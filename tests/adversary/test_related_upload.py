"""Attack ``related_upload``: send ciphertexts that are made of others', so that the sum is one silo's vector.

Paillier ciphertexts can be multiplied by anybody, and where shares open, every silo is sent those of all.
East colludes. With a coordinator that lies it is handed the uploads of the others in time and sends what
cancels all of them but north's. With an honest one it raises north's upload of the round before to a power,
which the sum then shows above everything else. And it sends north's upload as its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from secagg.encrypted import transcript
from secagg.errors import FaultySiloOrCoordinator, RoundAborted
from secagg.messages import EncryptedInput, FromSilo, OpeningRequested, SignedUpload, UploadsAnnounced
from secagg.names import IntegerVector, SiloId
from secagg.paillier.ciphertexts import read
from secagg.paillier.coordinator import PaillierAdder
from secagg.paillier.gmp import gmpy2, mpz
from secagg.paillier.obfuscators import Pool
from secagg.payload import Payload
from tests.federations import NAMES, THRESHOLD_PAILLIER, Federation

N = 4
VICTIM, COLLUDER = NAMES[0], NAMES[3]
POWER = 1000
LENGTH = 5


class Lax(PaillierAdder):
    """What a coordinator that lies adds with: it checks nothing."""

    def check(self, ciphertexts: Payload, *, silo: SiloId, round_id: bytes) -> None:
        pass


def drawn(seed: int) -> dict[SiloId, IntegerVector]:
    random = np.random.default_rng(seed)  # Of vectors: what is encrypted, not what encrypts.
    return {silo: random.integers(-1000, 1000, LENGTH).astype(np.int32).view(np.uint32) for silo in NAMES[:N]}


class Colluder:
    """East, which sends something else than its vector.

    Args:
        federation: of four silos with shares.
        make: the ciphertexts, from those that were sent before, by silo, and the proof that goes with them.
    """

    def __init__(
        self, federation: Federation, make: Callable[[Colluder, dict[SiloId, bytes]], bytes]
    ) -> None:
        self.federation = federation
        self.adder: Any = federation.adder
        self.modulus = self.adder.public.n_squared
        self.seen: dict[SiloId, bytes] = {}
        self.check = 0  # What every silo has in the first lane, less the bias.
        self._make = make
        for silo in federation.roster.silos:
            federation.silos[silo].tamper = partial(self.sent, silo)

    def sent(self, silo: SiloId, message: FromSilo) -> FromSilo:
        if not isinstance(message, EncryptedInput):
            return message
        if silo != COLLUDER:
            self.seen[silo] = bytes(message.ciphertexts.buffer()[:])
            return message
        self.check = int(self.adder.checks(message.round_id)[0])
        data = self._make(self, self.seen)
        payload = Payload.over("u1", len(data), memoryview(data))
        fields = transcript.upload_fields(
            self.adder, message.round_id, COLLUDER, payload.digest, message.upload.box
        )
        signature = self.federation.identities[COLLUDER].sign(transcript.UPLOAD, *fields)
        upload = SignedUpload(payload.digest, message.upload.box, signature)
        return replace(message, upload=upload, ciphertexts=payload)

    def numbers(self, upload: bytes) -> list[mpz]:
        return read(upload[: self.adder.total.size], self.adder.public)

    def of_lane(self, value: int, count: int, *, check: int) -> list[mpz]:
        """Ciphertexts with ``value`` in every lane, and besides ``count`` and ``check`` in theirs."""
        packing, key = self.adder.packing, self.adder.public
        lanes = [value] * (1 + self.adder.length) + [0] * (packing.entries - self.adder.length)
        lanes[0] += check
        lanes[self.adder.length] += count
        plaintext = sum(lane << packing.lane_bits * at for at, lane in enumerate(lanes)) % int(key.n)
        return [(1 + plaintext * key.n) * Pool(key).take() % self.modulus]

    def bytes_of(self, numbers: list[mpz]) -> bytes:
        """Ciphertexts, and the proof of somebody else, for want of one that holds."""
        size = self.adder.public.ciphertext_size
        proof = next(iter(self.seen.values()))[self.adder.total.size :]
        return b"".join(number.to_bytes(size, "big") for number in numbers) + proof


def cancelling(colluder: Colluder, seen: dict[SiloId, bytes]) -> bytes:
    """What makes the sum that of the victim alone, with the bias and the count of four."""
    others = [upload for silo, upload in seen.items() if silo != VICTIM]
    silos = 1 + len(others)  # Whom the colluder stands for.
    product = colluder.of_lane(colluder.adder.packing.bias * silos, silos, check=colluder.check * silos)
    for upload in others:
        inverse = [gmpy2.invert(number, colluder.modulus) for number in colluder.numbers(upload)]
        product = [a * b % colluder.modulus for a, b in zip(product, inverse, strict=True)]
    return colluder.bytes_of(product)


def copied(colluder: Colluder, seen: dict[SiloId, bytes]) -> bytes:
    return seen[VICTIM]


def raised(before: bytes, check: int, colluder: Colluder, seen: dict[SiloId, bytes]) -> bytes:
    """What makes the sum show a power of what was sent before, in a round with another check."""
    bias = colluder.adder.packing.bias
    known = colluder.of_lane(bias * (1 - POWER), 1 - POWER, check=colluder.check - POWER * check)
    powers = [gmpy2.powmod(number, POWER, colluder.modulus) for number in colluder.numbers(before)]
    return colluder.bytes_of([a * b % colluder.modulus for a, b in zip(known, powers, strict=True)])


def attacked(make: Any, *, lying: bool, vectors: dict[SiloId, IntegerVector], number: int = 1) -> Federation:
    federation = Federation(N, scheme=THRESHOLD_PAILLIER, vectors=vectors, round=number)
    Colluder(federation, make)
    changes: dict[str, Any] = {}
    if lying:
        key = federation.cipher(COLLUDER)._share.key
        changes["adder"] = Lax(key, federation.encoding)
    coordinator = federation.coordinator(**changes)
    try:
        federation.run(coordinator)
    except RoundAborted:
        assert lying, "one silo stops a round"
    else:
        assert lying or "faulty" in coordinator.losses.get(COLLUDER, ""), "it is not named"
    return federation


def opened(federation: Federation) -> list[list[int]]:
    """What silos opened in which the colluder's vector is."""
    found = [aggregate for work in federation.work.values() for aggregate in work.applied]
    return [each.total.view(np.int32).tolist() for each in found if COLLUDER in each.survivors]


@pytest.mark.parametrize("lying", [True, False])
def test_related_upload(lying: bool) -> None:
    for make in (cancelling, copied):
        federation = attacked(make, lying=lying, vectors=drawn(1))
        assert opened(federation) == [], "a sum was opened with ciphertexts that are made of others'"
        named = [
            error.silo
            for silo in federation.roster.silos
            for error in federation.silos[silo].errors
            if isinstance(error, FaultySiloOrCoordinator)
        ]
        assert set(named) == ({COLLUDER} if lying else set()), "honest silos are named, or nobody is"


def sent_before() -> tuple[Federation, bytes, int]:
    """An honest round, the victim's upload in it, which its coordinator sent to every silo, and the check."""
    federation = Federation(N, scheme=THRESHOLD_PAILLIER, vectors=drawn(1))
    coordinator = federation.coordinator()
    federation.run(coordinator)
    to_colluder = [message for silo, message in coordinator.log if silo == COLLUDER]
    (announced,) = (m for m in to_colluder if isinstance(m, UploadsAnnounced))
    (requested,) = (m for m in to_colluder if isinstance(m, OpeningRequested))
    size, at = federation.adder.upload.size, [name for name, _ in announced.uploads].index(VICTIM)
    (check,) = federation.adder.checks(requested.round_id).tolist()
    return federation, bytes(requested.ciphertexts.buffer()[size * at : size * (at + 1)]), check


def test_related_upload_of_the_round_before() -> None:
    _, upload, check = sent_before()
    federation = attacked(partial(raised, upload, check), lying=False, vectors=drawn(2), number=2)
    assert opened(federation) == [], "a sum was opened with ciphertexts that are made of others'"


def unproved(ciphertexts: Any, count: int, proof: bytes, key: Any, *, context: bytes) -> None:
    """``check_known`` that looks at the ciphertexts alone."""
    for piece in ciphertexts():
        read(piece, key)


@pytest.mark.parametrize(
    ("defence", "mutant", "make"),
    [
        ("secagg.paillier.knowledge.check_known", unproved, cancelling),
        pytest.param(
            "secagg.paillier.coordinator.PaillierAdder.context",
            lambda *_: bytes(32),
            copied,
            marks=pytest.mark.full,
        ),
    ],
)
def test_related_upload_mutant(
    monkeypatch: pytest.MonkeyPatch, defence: str, mutant: Callable[..., Any], make: Any
) -> None:
    monkeypatch.setattr(defence, mutant)
    for lying in (True, False):
        with pytest.raises(AssertionError, match=r"made of others|it is not named"):
            test_related_upload(lying)
    if make is cancelling:
        vectors = drawn(1)
        sums = opened(attacked(make, lying=True, vectors=vectors))
        assert sums == [vectors[VICTIM].view(np.int32).tolist()] * (N - 1), "no single vector was read"


def test_related_upload_of_the_round_before_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.paillier.knowledge.check_known", unproved)
    federation, upload, check = sent_before()
    after = attacked(partial(raised, upload, check), lying=True, vectors=drawn(2), number=2)
    (shown, *_) = opened(after)
    near = [round(value / POWER) for value in shown]
    exact = federation.vectors[VICTIM].view(np.int32).tolist()
    assert all(abs(a - b) <= 4 for a, b in zip(near, exact, strict=True)), "north's vector was not read"
    with pytest.raises(AssertionError):
        test_related_upload_of_the_round_before()
