"""One honest attempt over ciphertexts, deterministic: four silos under a Paillier key or shares of one.

Where all hold the key, silo d is lost before its upload arrives; where they hold shares, nobody is, so that
three of four open. The product's own sessions run; only keys, identities and randomness are fixed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from secagg.encrypted import transcript
from secagg.encrypted.cipher import SiloCipher
from secagg.encrypted.coordinator import EncryptedCoordinator
from secagg.encrypted.silo import SharedKeySilo, ThresholdSilo
from secagg.messages import (
    FromCoordinator,
    FromSilo,
    Opened,
    RoundOpened,
    SignedUpload,
    TrainingOpened,
)
from secagg.names import SiloId
from secagg.paillier.coordinator import PaillierAdder
from secagg.paillier.silo import PaillierCipher, ThresholdPaillierCipher
from secagg.payload import Payload
from secagg.survivors import Locks
from secagg.terms import PaillierParameters, Terms, ThresholdPaillierParameters, training_digest
from tests.paillier_keys import shared_key, threshold_key
from tests.vectors import world
from tests.vectors.notation import CounterSource, fixed
from tests.vectors.world import COHORT, IDENTITIES, ROSTER, SILOS, Advance, Event, Sent

F = TypeVar("F", bound=FromSilo)
C = TypeVar("C", bound=FromCoordinator)

NEXT_BASE = fixed("next base")


@dataclass(frozen=True)
class Scheme:
    """Under which keys the attempt runs, and who is lost in it before its upload arrives."""

    name: str
    terms: Terms
    lost: SiloId | None

    @property
    def adder(self) -> PaillierAdder:
        key = threshold_key(len(SILOS), COHORT.t)[0] if self.shares else shared_key().public
        return PaillierAdder(key, self.terms.encoding)

    @property
    def shares(self) -> bool:
        return isinstance(self.terms.scheme, ThresholdPaillierParameters)

    @property
    def opened(self) -> TrainingOpened:
        return TrainingOpened(self.terms, world.SECONDS)

    @property
    def round_opened(self) -> RoundOpened:
        return RoundOpened(training_digest(self.terms), world.ATTEMPT, world.SECONDS)

    @property
    def round_id(self) -> bytes:
        return transcript.round_id(self.round_opened, self.adder)

    def cipher(self, silo: SiloId, random: CounterSource) -> PaillierCipher | ThresholdPaillierCipher:
        """Return what the silo encrypts with; obfuscators are drawn now, by one thread."""
        cipher: PaillierCipher | ThresholdPaillierCipher
        if self.shares:
            share = threshold_key(len(SILOS), COHORT.t)[1][ROSTER.slot(silo)]
            cipher = ThresholdPaillierCipher(share, self.terms.encoding, random=random)
        else:
            cipher = PaillierCipher(shared_key(), self.terms.encoding, random=random)
        cipher._pool.fill(cipher.count, threads=1)
        return cipher

    def silo(self, name: SiloId, random: CounterSource) -> SharedKeySilo | ThresholdSilo:
        kind: Any = ThresholdSilo if self.shares else SharedKeySilo
        made = kind(
            name,
            identity=IDENTITIES[name],
            roster=ROSTER,
            terms=self.terms,
            cipher=cast(SiloCipher, self.cipher(name, random)),
            vector=world.VECTORS[name],
            locks=Locks(),
            data_set=world.DATA_SET,
            random=random,
        )
        return cast("SharedKeySilo | ThresholdSilo", made)

    def coordinator(self) -> EncryptedCoordinator:
        return EncryptedCoordinator(
            ROSTER, terms=self.terms, adder=self.adder, attempt=world.ATTEMPT, seconds=world.SECONDS
        )


PAILLIER = Scheme(
    "paillier", replace(world.TERMS, scheme=PaillierParameters(COHORT, shared_key().public.id)), "d"
)
THRESHOLD = Scheme(
    "threshold",
    replace(
        world.TERMS,
        scheme=ThresholdPaillierParameters(COHORT, threshold_key(len(SILOS), COHORT.t)[0].id),
    ),
    None,
)


@dataclass
class Transcript:
    """What the coordinator was given, what each silo was sent, and what each silo drew."""

    scheme: Scheme
    events: list[Event] = field(default_factory=list)
    received: dict[SiloId, list[FromCoordinator]] = field(default_factory=lambda: {s: [] for s in SILOS})
    random: dict[SiloId, CounterSource] = field(default_factory=dict)

    def sent(self, sender: SiloId, kind: type[F]) -> F:
        """Return the message of ``kind`` that ``sender`` sent."""
        found = (event for event in self.events if isinstance(event, Sent) and event.sender == sender)
        return next(event.message for event in found if isinstance(event.message, kind))

    def position(self, sender: SiloId, kind: type[FromSilo]) -> int:
        """Return how many events come before that message."""
        return next(
            at
            for at, event in enumerate(self.events)
            if isinstance(event, Sent) and event.sender == sender and isinstance(event.message, kind)
        )

    def told(self, silo: SiloId, kind: type[C]) -> C:
        """Return the message of ``kind`` that ``silo`` was sent."""
        return next(message for message in self.received[silo] if isinstance(message, kind))


@cache
def run(scheme: Scheme) -> Transcript:
    """Run the attempt."""
    made = Transcript(scheme)
    made.random = {name: CounterSource(f"{scheme.name} silo {name}") for name in SILOS}
    silos = {name: scheme.silo(name, made.random[name]) for name in SILOS}
    coordinator = scheme.coordinator()
    outbox, now = coordinator.open(0.0).output, 0.0
    while outbox:
        for name, message in outbox.items():
            made.received[name].append(message)
            if name == scheme.lost:
                continue
            session = silos[name]
            reply = session.receive(message).output
            if isinstance(session, SharedKeySilo):
                session.proceed()
            if session.outcome is not None:
                reply = Opened(training_digest(scheme.terms), NEXT_BASE, session.outcome.survivors)
            if reply is not None:
                coordinator.receive(name, reply)
                made.events.append(Sent(name, reply))
        if coordinator.waiting:
            now = coordinator.deadline or now
        made.events.append(Advance(now))
        outbox = coordinator.advance(now).output
    if coordinator.outcome is None:
        raise AssertionError("an honest attempt has a sum")
    return made


# --- what a party that leaves the protocol would send, well signed ---------------------------------------


@dataclass(frozen=True)
class _Stated:
    """An ``Adder`` as a signature over an upload sees it."""

    key: bytes
    parameters: bytes
    upload: Any


def signed(
    scheme: Scheme,
    content: bytes,
    box: bytes | None,
    *,
    silo: SiloId = "a",
    by: SiloId | None = None,
    round_id: bytes | None = None,
    key: bytes | None = None,
    parameters: bytes | None = None,
) -> SignedUpload:
    """Return an upload of ``silo``, signed for what is said, whatever it is."""
    adder = scheme.adder
    stated: Any = _Stated(key or adder.key, parameters or adder.parameters, adder.upload)
    fields = transcript.upload_fields(stated, round_id or scheme.round_id, silo, content, box)
    return SignedUpload(content, box, IDENTITIES[by or silo].sign(transcript.UPLOAD, *fields))


def bytes_of(data: bytes) -> Payload:
    """Return bytes as a payload."""
    return Payload.over("u1", len(data), memoryview(data))


def content(payload: Payload) -> bytes:
    """Return the bytes of a payload."""
    return b"".join(bytes(piece) for piece in payload.pieces())


def added(scheme: Scheme, payloads: list[Payload]) -> Payload:
    """Return the sum of uploads."""
    total = scheme.adder.begin()
    for payload in payloads:
        total.add(payload)
    return total.total()


def reduced(number: int) -> bytes:
    """Return a number as the ciphertext of a key of 2048 bits is written."""
    return number.to_bytes(512, "big")
